"""The tables of README.md, docs/speed.md and benchmarks/README.md, as the stored runs have them.

In the text of a page a marker says which table follows (`BEGIN`), another where it ends (`END`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import ModuleType

from benchmarks.compare import tables
from benchmarks.compare.results import Results, Sections

BEGIN = "<!-- {}: written by `python -m benchmarks.compare readme` -->"
END = "<!-- end -->"
PLACE = re.compile(re.escape(BEGIN).replace(r"\{\}", "([^:]+)") + f"\n(?:.*?\n)??{END}", re.DOTALL)

Pages = dict[str, dict[str, str]]  # by the page's name, its tables by theirs


def pages(
    sections: Sections, held: Mapping[str, Sections], suites: Mapping[str, ModuleType]
) -> Pages:
    """The tables of each page; `held`: by what they were held to, runs of held libraries."""
    runs: dict[str, tuple[Results, ModuleType]] = {}
    for suffix, found in (("", sections), *((f", {isa}", found) for isa, found in held.items())):
        runs |= {name + suffix: (results, suites[name]) for name, results in found.items()}
    return {
        "README.md": {"speed": tables.short(sections, suites)},
        "docs/speed.md": {name: tables.page(*run) for name, run in runs.items()},
        "benchmarks/README.md": {name: tables.targets(*run) for name, run in runs.items()},
    }


def rendered(text: str, found: Mapping[str, str]) -> str:
    """The text of a page with its tables.

    Raises `ValueError` where a table has no place in the text or a place has no table.
    """
    places = PLACE.findall(text)
    if sorted(places) != sorted(found):
        raise ValueError(f"the text has places for {places}, the comparison has {list(found)}")

    def block(place: re.Match[str]) -> str:
        name = place[1]
        return f"{BEGIN.format(name)}\n{found[name]}\n{END}"

    return PLACE.sub(block, text)
