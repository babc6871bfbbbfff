"""The figures as tables: docs/accuracy.md has them all, the README the worst of each function."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.batteries import CONSTANT
from benchmarks.tools import markdown

ROOT = Path(__file__).parents[2]
PAGE, README = ROOT / "docs" / "accuracy.md", ROOT / "README.md"
BEGIN = "<!-- accuracy: written by `python -m benchmarks.accuracy` -->"
END = "<!-- end of accuracy -->"

# Two results are equally good within a factor of 2, one bit, and where both are within four units
# of their type's rounding.
AS_GOOD, FLOOR = 2.0, 4.0
RESULTS = ("y", "inference", "dx", "dweight", "dbias", "dgamma", "dbeta")

HEAD = """\
# Accuracy

`python -m benchmarks.accuracy` writes this page: the largest error of each result on each battery
of hard data, over the scale that `truth.py` and `operations.py` in `benchmarks/accuracy/` name for
it; float32 against float64, float64 against long double and over max(1, mean/std). Convolutions
are 3x3; nbnorm's are `algorithm="direct"`, `"auto"` beside it. JAX is batch norm as Flax writes it,
TensorFlow its fused batch norm (float32) or its moments (float64), channels-last alone. float64
convolutions have at most 1,024 pixels: long double has no fast product. Where the type itself is
too coarse for the scale (beyond 100,000 values a channel, from mean/std 1e7 on), four units in the
last place of each value are forgiven, to everybody.

Bold: another library is more exact by more than a bit (a factor of 2), and the error is more than
four roundings of its type.

Where nbnorm is not the best: gradients of direct convolutions add some of their products up one
after the other, as PyTorch's do, and TensorFlow's or JAX's are two to three times as exact on some
data; JAX's float64 results behind a product up to six times. Winograd's algorithm (`"auto"`) loses
a digit, and all digits next to an outlier of 1e30.
"""


def whole(document: dict[str, Any]) -> str:
    """The page."""
    parts = [HEAD, f"## The worst of all batteries\n\n{worst_of_all(document)}\n"]
    for operation, made in document.items():
        batteries = made["worst"]
        libraries = [name for name in _libraries(batteries) if _has(batteries, name)]
        rows = [
            [battery, dtype, *cells]
            for battery, by_dtype in batteries.items()
            for dtype, worst in by_dtype.items()
            for cells in rows_of({name: worst[name]["error"] for name in libraries}, dtype)
        ]
        parts += [
            f"## {operation[0].upper()}{operation[1:]}\n",
            markdown.table(["battery", "type", "result", *libraries], rows) + "\n",
            f"({_made(made)})\n",
        ]
    return "\n".join(parts)


def short(document: dict[str, Any]) -> str:
    """What the README shows: the largest float32 error of each function, whichever result's."""
    rows = []
    for operation, made in document.items():
        worst = [max(errors.values(), default=None) for errors in _worst(made, "float32").values()]
        rows.append([operation, *_cells(worst, "float32")])
    return f"{markdown.table(['', *_all_libraries(document)], rows)}\n\n({_made_last(document)})"


def worst_of_all(document: dict[str, Any]) -> str:
    """For each function and result, the largest error on all batteries."""
    rows = [
        [operation, dtype, *cells]
        for operation, made in document.items()
        for dtype in ("float32", "float64")
        for cells in rows_of(_worst(made, dtype), dtype)
    ]
    table = markdown.table(["function", "type", "result", *_all_libraries(document)], rows)
    return f"{table}\n\n({_made_last(document)})"


def _worst(made: dict[str, Any], dtype: str) -> dict[str, dict[str, float]]:
    """By library and result, the largest error of a function on all batteries but the constants."""
    worst: dict[str, dict[str, float]] = {name: {} for name in _libraries(made["worst"])}
    for battery, by_dtype in made["worst"].items():
        if battery == CONSTANT:
            continue
        for library, one in by_dtype.get(dtype, {}).items():
            for quantity, error in one["error"].items():
                worst[library][quantity] = max(worst[library].get(quantity, 0.0), error)
    return worst


def rows_of(found: dict[str, dict[str, float]], dtype: str) -> Iterator[list[str]]:
    """For each quantity, what each library's error is."""
    for quantity in RESULTS:
        errors = [error.get(quantity) for error in found.values()]
        if any(error is not None for error in errors):
            yield [quantity, *_cells(errors, dtype)]


def _cells(errors: Sequence[float | None], dtype: str) -> list[str]:
    """The errors of all libraries, bold where another is better by more than a bit."""
    known = [error for error in errors if error is not None]
    limit = max(AS_GOOD * min(known), FLOOR * float(np.finfo(dtype).eps))
    return [_cell(error, limit) for error in errors]


def _made(made: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {v}" for name, v in made["versions"].items() if v)
    return f"{made['date']}, {made['machine']['processor']}; {versions}"


def _cell(error: float | None, limit: float) -> str:
    if error is None:
        return ""
    text = "0" if error == 0 else f"{error:.1e}" if math.isfinite(error) else "not finite"
    return text if error <= limit else f"**{text}**"


def _made_last(document: dict[str, Any]) -> str:
    return _made(list(document.values())[-1])


def _all_libraries(document: dict[str, Any]) -> list[str]:
    return _libraries(next(iter(document.values()))["worst"])


def _libraries(batteries: dict[str, Any]) -> list[str]:
    return list(next(iter(next(iter(batteries.values())).values())))


def _has(batteries: dict[str, Any], library: str) -> bool:
    return any(one[library]["error"] for by in batteries.values() for one in by.values())


def write(document: dict[str, Any]) -> None:
    """Write the page, and the README's table between its marks."""
    PAGE.write_text(whole(document), encoding="utf-8")
    README.write_text(with_table(README.read_text(encoding="utf-8"), document), encoding="utf-8")


def with_table(text: str, document: dict[str, Any]) -> str:
    """The README's text with the table of these figures."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{short(document)}\n{END}{after}"
