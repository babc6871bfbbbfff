"""The `.cfg` file: sections of ``key=value`` lines.

As darknet reads it: a line ends at a line feed, spaces, tabs and carriage returns count for nothing
anywhere in it, lines that begin with # or ; are comments, and of a key that occurs twice the first
counts. Where darknet goes on with a guess (a number that is none reads as 0), there is an error
that says where.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from nbnorm.checks import describe
from nbnorm.interop.darknet.files import FUNCTION, PathLike, checked_path, length_of

Number = TypeVar("Number", int, float)

MOST_BYTES = 1 << 20  # of a cfg: the largest public one has 30 kB
MOST_LISTED = 1024  # numbers after one key
MOST_INT = 2**31 - 1  # darknet's ints have 32 bits

# Short names that darknet also knows.
_SYNONYMS = {
    "network": "net",
    "conv": "convolutional",
    "conn": "connected",
    "max": "maxpool",
    "avg": "avgpool",
    "local_avg": "local_avgpool",
    "soft": "softmax",
    "lrn": "normalization",
    "silence": "empty",
}

_WHITE_SPACE = str.maketrans("", "", " \t\r")
_NUMBER = re.compile(r"[-+.0-9a-zA-Z]+")  # Python's int and float take more: 1_0, \f1


@dataclass
class Section:
    """One section; its values are asked for by key, each with darknet's default."""

    path: Path
    line: int
    kind: str
    index: int  # layers count from 0; -1 is [net]
    options: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return "[net]" if self.index < 0 else f"layer {self.index} [{self.kind[:40]}]"

    @property
    def place(self) -> str:
        """Which line of which file."""
        return f"{str(self.path)!r}, line {self.line}, {self}"

    def error(self, message: str) -> ValueError:
        """Return the error for what is wrong in this section."""
        return ValueError(f"{FUNCTION}: {self.place}: {message}")

    def text(self, key: str, default: str) -> str:
        """Return a value as it stands, up to a comment."""
        return _uncommented(self.options.get(key, default))

    def integer(self, key: str, default: int, *, least: int | None = None) -> int:
        """Return an int of 32 bits, `least` or more."""
        value = self._number(key, self.text(key, str(default)), int, "an int")
        if least is not None and value < least:
            raise self.error(f"{key} is {value}; expected {least} or more")
        return value

    def real(self, key: str, default: float) -> float:
        """Return a finite number."""
        value = self._number(key, self.text(key, str(default)), float, "a number")
        if not math.isfinite(value):
            raise self.error(f"{key} is {value}; expected a finite number")
        return value

    def flag(self, key: str) -> bool:
        """Whether an int is there and not 0."""
        return self.integer(key, 0) != 0

    def integers(self, key: str) -> list[int]:
        """Return the ints of a list with commas; an empty list where there is none."""
        return [self._number(key, item, int, "ints") for item in self._items(key)]

    def reals(self, key: str) -> list[float]:
        """Return the numbers of a list with commas; an empty list where there is none."""
        values = [self._number(key, item, float, "numbers") for item in self._items(key)]
        if not all(map(math.isfinite, values)):
            raise self.error(f"{key} is {describe(self.text(key, ''))}; expected finite numbers")
        return values

    def refuse(self, *keys: str) -> None:
        """Check that none of these is switched on: the result would be another than darknet's."""
        for key in keys:
            if self.text(key, "0").strip("0.") not in ("", "none"):
                given = describe(self.text(key, ""))
                raise self.error(f"{key} is {given}; expected 0: not supported")

    def refuse_any(self, *keys: str) -> None:
        """Check that none of these is there, whatever its value."""
        for key in keys:
            if key in self.options:
                given = describe(self.text(key, ""))
                raise self.error(f"{key} is {given}; expected none: not supported")

    def _items(self, key: str) -> list[str]:
        text = self.text(key, "")
        if text.count(",") >= MOST_LISTED:
            raise self.error(
                f"{key} has {text.count(',') + 1} numbers; expected at most {MOST_LISTED}"
            )
        if text.endswith(","):  # one number more to darknet, a 0
            raise self.error(f"{key} is {describe(text)}; expected a number after the last comma")
        return text.split(",") if text else []

    def _number(self, key: str, text: str, kind: Callable[[str], Number], expected: str) -> Number:
        try:
            if not _NUMBER.fullmatch(text):
                raise ValueError
            value = kind(text)
        except ValueError:
            raise self.error(f"{key} is {describe(text)}; expected {expected}") from None
        if kind is int and not -MOST_INT <= value <= MOST_INT:
            raise self.error(f"{key} is {describe(text)}; expected {expected} of 32 bits")
        return value


def read_cfg(path: PathLike) -> list[Section]:
    """Return the sections of a file, ``[net]`` first.

    Raises
    ------
    ValueError
        The file is no regular one, or too long; a line is neither a section, a comment nor
        ``key=value``; or the first section is not ``[net]``, or the only one.
    """
    path = checked_path("cfg", path)
    sections: list[Section] = []
    for number, raw in enumerate(_text(path).split("\n"), start=1):
        line = raw.translate(_WHITE_SPACE)
        if not line or line[0] in "#;":
            continue
        where = f"{FUNCTION}: {str(path)!r}, line {number}"
        key, equals, value = line.partition("=")
        if line[0] == "[":
            kind, closed, rest = line[1:].partition("]")
            if not closed or _uncommented(rest):
                raise ValueError(f"{where}: {describe(raw.strip())}; expected [section]")
            kind = _SYNONYMS.get(kind, kind)
            sections.append(Section(path, number, kind, index=len(sections) - 1))
        elif not sections:
            raise ValueError(f"{where}: {describe(raw.strip())} before any section; expected [net]")
        elif not (key and equals and value):
            given = describe(raw.strip())
            raise ValueError(f"{where}, {sections[-1]}: {given}; expected key=value")
        else:
            sections[-1].options.setdefault(key, value)
    if not sections or sections[0].kind != "net":
        given = f"[{sections[0].kind[:40]}] in line {sections[0].line}" if sections else "nothing"
        raise ValueError(f"{FUNCTION}: {str(path)!r} begins with {given}; expected [net]")
    if not sections[1:]:
        raise sections[0].error("no section follows; expected one layer or more")
    return sections


def _text(path: Path) -> str:
    length = length_of(path)
    if length > MOST_BYTES:
        raise ValueError(
            f"{FUNCTION}: {str(path)!r} has {length} bytes; expected a cfg of at most {MOST_BYTES}"
        )
    with path.open("rb") as file:
        content = file.read(MOST_BYTES)
    return content.decode("utf-8-sig", errors="replace")  # comments may be in any encoding


def _uncommented(text: str) -> str:
    return text.partition("#")[0].partition(";")[0]
