"""Docstrings as Markdown: they are written in reStructuredText's words, of which they use few."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import griffe

_RULE = re.compile(r"=+(?: +=+)+$")
_UNDERLINE = re.compile(r"(?m)^(.+)\n([-~])\2{3,}$")
_EXAMPLES = re.compile(r"(?m)^(Examples\n-{8}$)")  # where griffe knows doctests itself
_DOCTEST = re.compile(r"(?m)^(>>> .*(?:\n.+)*)")
_SECTIONS = {
    "Parameters",
    "Returns",
    "Raises",
    "Yields",
    "Examples",
    "Attributes",
    "Notes",
    "See Also",
}


class Markdown(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Griffe calls it for everything that it has read."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
    """``::`` before code, tables drawn with ``=``, and headings, in Markdown."""
    text = re.sub(r"(?m)::$", ":", text)
    text = _UNDERLINE.sub(_heading, text)
    text, examples, rest = _EXAMPLES.split(text, 1) if _EXAMPLES.search(text) else (text, "", "")
    text = _DOCTEST.sub(r"```pycon\n\1\n```", text) + examples + rest
    return "\n".join(_with_tables(text.splitlines()))


def _heading(found: re.Match[str]) -> str:
    """A heading, unless it is one that numpydoc knows."""
    if found[1].strip() in _SECTIONS:
        return found[0]
    return f"\n{'##' if found[2] == '-' else '###'} {found[1]}\n"


def _with_tables(lines: list[str]) -> list[str]:
    """Three rules make a table with a head, two one without."""
    written: list[str] = []
    rules = [i for i, line in enumerate(lines) if _RULE.match(line)]
    at = 0
    while rules:
        begin = rules.pop(0)
        end = begin
        inside = []
        while rules:
            after = rules.pop(0)
            inside.append(after)
            end = after
            if after + 1 >= len(lines) or not lines[after + 1].strip():
                break
        starts = [found.start() for found in re.finditer("=+", lines[begin])]
        body = _rows(lines[(inside[0] if len(inside) > 1 else begin) + 1 : end], starts)
        head = (
            _rows(lines[begin + 1 : inside[0]], starts)[0]
            if len(inside) > 1
            else [""] * len(starts)
        )
        rows = [head, ["---"] * len(starts), *body]
        written += [*lines[at:begin], "", *(f"| {' | '.join(row)} |" for row in rows)]
        at = end + 1
    return written + lines[at:]


def _rows(lines: list[str], starts: list[int]) -> list[list[str]]:
    """The cells; a line goes on with the row before it that begins later, or follows a comma."""
    rows: list[list[str]] = []
    for line in lines:
        cells = [line[a:b].strip().replace("|", r"\|") for a, b in pairwise([*starts, None])]
        if rows and (not cells[0] or rows[-1][0].endswith(",")):
            rows[-1] = [
                f"{above} {cell}".strip() for above, cell in zip(rows[-1], cells, strict=True)
            ]
        else:
            rows.append(cells)
    return rows
