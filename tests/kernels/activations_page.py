"""docs/activations.md: every activation with its formula.

python -m tests.kernels.activations_page        writes the page
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from nbnorm.kernels.activations import ACTIVATIONS

PAGE = Path(__file__).parents[2] / "docs" / "activations.md"

HEAD = """\
# Activations

What `activation=` takes, in every function and layer that has it: None; a name; or a name and its
parameter, a finite number, as in `("leaky_relu", 0.2)`. NaN stays NaN in values and derivatives.
Where a derivative jumps it is taken from one side, the one that PyTorch takes.

"""

FOOT = """
The table is written from the classes in `src/nbnorm/kernels/activations.py`, by
`python -m tests.kernels.activations_page`. Kernels of `nbnorm.kernels` take an instance of such a
class, `LeakyReLU(0.2)` for example.
"""


def text() -> str:
    """The page."""
    head = "activation", "parameter", "value", "where the derivative jumps", "class"
    rows = [head, *_rows()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    return HEAD + "".join(map(_line, rows, [widths] * len(rows))) + FOOT


def _rows() -> Iterator[tuple[str, ...]]:
    for name, activation in ACTIVATIONS.items():
        parameters = (f"{field} = {value}" for field, value in activation._asdict().items())
        kind = type(activation)
        formula, _, jumps = " ".join(kind.__doc__.split()).removesuffix(".").partition(". ")
        yield f'`"{name}"`', ", ".join(parameters), formula, jumps, kind.__name__


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return f"| {' | '.join(padded)} |\n"


if __name__ == "__main__":
    PAGE.write_text(text())
