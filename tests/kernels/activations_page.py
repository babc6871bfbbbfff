"""docs/activations.md: every activation with its formula.

python -m tests.kernels.activations_page        writes the page
"""

from __future__ import annotations

import inspect
import textwrap
from pathlib import Path

from benchmarks.tools import markdown
from nbnorm.kernels.activations import ACTIVATIONS

PAGE = Path(__file__).parents[2] / "docs" / "activations.md"

HEAD = """\
# Activations

What `activation=` takes, in every function and layer that has it: None; a name; or a name and its
parameter, a finite number, as in `("leaky_relu", 0.2)`. NaN stays NaN in values and derivatives.
Where a derivative jumps it is taken from one side, the one that PyTorch takes. Kernels of
`nbnorm.kernels` take an instance of the class, such as `LeakyReLU(0.2)`.
"""
HEADINGS = ["activation", "parameter", "value", "derivative where it jumps", "class"]

FOOT = """
`python -m tests.kernels.activations_page` writes this page, from the classes in
`src/nbnorm/kernels/activations.py`.
"""


def text() -> str:
    """The page."""
    rows, notes = [], []
    for name, activation in ACTIVATIONS.items():
        kind = type(activation)
        summary, _, note = inspect.cleandoc(kind.__doc__).partition("\n\n")
        formula, _, jumps = summary.removesuffix(".").partition("; derivative ")
        parameters = [f"{field} = {value}" for field, value in activation._asdict().items()]
        rows.append([f'`"{name}"`', ", ".join(parameters), formula, jumps, kind.__name__])
        if note:
            line = f"- `{name}`: {' '.join(note.split())}"
            notes.append(textwrap.fill(line, 100, subsequent_indent="  "))
    return "\n".join([HEAD, markdown.table(HEADINGS, rows), "", *notes, FOOT])


if __name__ == "__main__":
    PAGE.write_text(text())
