"""The README's tables, between markers, as the stored comparison has them.

A marker says which suite's tables follow (`BEGIN`), another where they end (`END`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import ModuleType

from benchmarks.compare import tables
from benchmarks.compare.results import Sections

BEGIN = "<!-- comparison {}: written by `python -m benchmarks.compare readme` -->"
END = "<!-- end of comparison -->"
BLOCK = re.compile(re.escape(BEGIN).replace(r"\{\}", r"(\w+)") + f"\n(?:.*?\n)??{END}", re.DOTALL)


def rendered(text: str, sections: Sections, suites: Mapping[str, ModuleType]) -> str:
    """The README's text with the tables of each suite that was measured.

    Raises `ValueError` where a suite has no place in the text or a place has no suite.
    """
    places = BLOCK.findall(text)
    if sorted(places) != sorted(sections):
        raise ValueError(f"the text has places for {places}, the comparison has {list(sections)}")

    def block(found: re.Match[str]) -> str:
        name = found[1]
        return f"{BEGIN.format(name)}\n{tables.readme(sections[name], suites[name])}\n{END}"

    return BLOCK.sub(block, text)
