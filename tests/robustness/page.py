"""docs/arguments.md: what every function takes, and what it says to everything else.

python -m tests.robustness.page        writes the page
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

from benchmarks.tools import markdown
from tests.robustness import arguments, layer_arguments
from tests.robustness.arguments import Function
from tests.robustness.kinds import Given

PAGE = Path(__file__).parents[2] / "docs" / "arguments.md"

HEAD = """\
# Arguments

What every function, layer and method takes, and what it answers to everything else. The table that
this page is written from (`python -m tests.robustness.page`) is the one that
`tests/robustness/test_bad_input.py` tries out: each line below, on each function and argument that
has the kind.

An error is raised before anything is written, and says whose argument it is, what was given and
what was expected:

    batch_norm_forward: eps is nan; expected a finite number, 0 or more

## Who takes what

Letters are sizes: n batch, c channels in, k channels out, h w an image, r s a window, i j the image
that comes out, p all other axes together. "May be empty" names those that may be 0.
"""


def text() -> str:
    """The page."""
    functions = [*arguments.TABLE, *layer_arguments.TABLE]
    parts = [HEAD]
    for function in functions:
        parts += [f"### `{function.name}`\n", *_arguments_of(function)]
    parts.append("## What is answered\n")
    for kind_title, rows in _answers(functions).items():
        parts += [f"### {kind_title[0].upper()}{kind_title[1:]}\n", _table(rows) + "\n"]
    return "\n".join(parts)


def _arguments_of(function: Function) -> Iterator[str]:
    rows = [[f"`{name}`", kind.words, kind.title] for name, kind in function.arguments.items()]
    if rows:
        yield markdown.table(["argument", "takes", "kind"], rows) + "\n"
    else:
        yield "No arguments.\n"
    if function.empty:
        yield f"May be empty: {', '.join(function.empty)}.\n"


def _table(rows: dict[str, str]) -> str:
    """A row for each answer, with all that it is the answer to."""
    given: dict[str, list[str]] = {}
    for words, answer in rows.items():
        given.setdefault(answer, []).append(words)
    lines = [f"- {answer}: {', '.join(words)}." for answer, words in given.items()]
    return "\n".join(textwrap.fill(line, 100, subsequent_indent="  ") for line in lines)


def _answers(functions: list[Function]) -> dict[str, dict[str, str]]:
    answers: dict[str, dict[str, str]] = {}
    for function in functions:
        for name, kind in function.arguments.items():
            rows = answers.setdefault(kind.title, {})
            for given in kind.given(name, function.draw()):
                answer = _answer(given)
                known = rows.setdefault(given.words, answer)
                if answer != known:  # here other words are expected than there
                    names = dict.fromkeys(both.partition(",")[0] for both in (known, answer))
                    rows[given.words] = " or ".join(names)
    return answers


def _answer(given: Given) -> str:
    if given.error is None:
        return "Taken"
    expected = f', "expected ... {given.expected.strip()} ..."' if given.expected else ""
    return f"`{given.error.__name__}`{expected}"


def main() -> None:
    """Write the page."""
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(text())


if __name__ == "__main__":
    main()
