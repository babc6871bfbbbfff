"""The `.cfg` file: sections of ``key=value`` lines.

As darknet reads it: white space counts for nothing anywhere in a line, lines that begin with # or ;
are comments, and of a key that occurs twice the first counts. Where darknet goes on with a guess
(a number that is none reads as 0), there is an error that says where.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, TypeVar

from nbnorm import checks

PathLike: TypeAlias = str | os.PathLike[str]
Number = TypeVar("Number", int, float)

FUNCTION = "load_network"

# Short names that darknet also knows.
_SYNONYMS = {
    "network": "net",
    "conv": "convolutional",
    "conn": "connected",
    "max": "maxpool",
    "avg": "avgpool",
    "soft": "softmax",
}


@dataclass
class Section:
    """One section; its values are asked for by key, each with darknet's default."""

    path: Path
    line: int
    kind: str
    index: int  # layers count from 0; -1 is [net]
    options: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return "[net]" if self.index < 0 else f"layer {self.index} [{self.kind}]"

    def error(self, message: str) -> ValueError:
        """Return the error for what is wrong in this section."""
        return ValueError(f"{FUNCTION}: {str(self.path)!r}, line {self.line}, {self}: {message}")

    def text(self, key: str, default: str) -> str:
        """Return a value as it stands, up to a comment."""
        return _uncommented(self.options.get(key, default))

    def integer(self, key: str, default: int, *, least: int | None = None) -> int:
        """Return an int, `least` or more."""
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
        text = self.text(key, "").rstrip(",")
        return [self._number(key, item, int, "ints") for item in text.split(",")] if text else []

    def refuse(self, *keys: str) -> None:
        """Check that none of these is switched on: the result would be another than darknet's."""
        for key in keys:
            if self.text(key, "0").strip("0.") not in ("", "none"):
                raise self.error(f"{key} is {self.text(key, '')!r}; expected 0: not supported")

    def refuse_any(self, *keys: str) -> None:
        """Check that none of these is there, whatever its value."""
        for key in keys:
            if key in self.options:
                raise self.error(f"{key} is {self.text(key, '')!r}; expected none: not supported")

    def _number(self, key: str, text: str, kind: Callable[[str], Number], expected: str) -> Number:
        try:
            if "_" in text or not text.isascii():  # which are numbers to Python only
                raise ValueError
            return kind(text)
        except ValueError:
            raise self.error(f"{key} is {text!r}; expected {expected}") from None


def read_cfg(path: PathLike) -> list[Section]:
    """Return the sections of a file, ``[net]`` first.

    Raises
    ------
    ValueError
        A line is neither a section, a comment nor ``key=value``; or the first section is not
        ``[net]``, or the only one.
    """
    path = checked_path("cfg", path)
    sections: list[Section] = []
    text = path.read_text(encoding="utf-8-sig", errors="replace")  # comments may be anything
    for number, raw in enumerate(text.splitlines(), start=1):
        line = "".join(raw.split())
        if not line or line[0] in "#;":
            continue
        where = f"{FUNCTION}: {str(path)!r}, line {number}"
        key, equals, value = line.partition("=")
        if line[0] == "[":
            kind, closed, rest = line[1:].partition("]")
            if not closed or _uncommented(rest):
                raise ValueError(f"{where}: {raw.strip()!r}; expected [section]")
            kind = _SYNONYMS.get(kind, kind)
            sections.append(Section(path, number, kind, index=len(sections) - 1))
        elif not sections:
            raise ValueError(f"{where}: {raw.strip()!r} before any section; expected [net]")
        elif not (key and equals and value):
            raise ValueError(f"{where}, {sections[-1]}: {raw.strip()!r}; expected key=value")
        else:
            sections[-1].options.setdefault(key, value)
    if not sections or sections[0].kind != "net":
        given = f"[{sections[0].kind}] in line {sections[0].line}" if sections else "nothing"
        raise ValueError(f"{FUNCTION}: {str(path)!r} begins with {given}; expected [net]")
    if not sections[1:]:
        raise sections[0].error("no section follows; expected one layer or more")
    return sections


def checked_path(name: str, value: PathLike, function: str = FUNCTION) -> Path:
    """Return a path, given as one or as a str."""
    if not isinstance(value, (str, os.PathLike)):
        raise checks.wrong_type(function, name, value, "a path")
    return Path(value)


def _uncommented(text: str) -> str:
    return text.partition("#")[0].partition(";")[0]
