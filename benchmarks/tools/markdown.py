"""Tables in markdown that read well in a terminal too."""

from __future__ import annotations

from collections.abc import Iterable


def table(headings: list[str], rows: Iterable[list[str]]) -> str:
    """A markdown table, its columns padded to one width."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    rule = ["-" * width for width in widths]
    padded = (
        [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        for row in (headings, rule, *rows)
    )
    return "\n".join(f"| {' | '.join(row)} |" for row in padded)
