"""Moments of earlier batches as an argument: see kinds.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nbnorm import Moments
from tests.robustness.kinds import Arguments, Given, Kind, Sizes, put

SEQUENCE = "a sequence of Moments"


@dataclass
class Batches(Kind):
    """A sequence of Moments, none of them or more."""

    letters: str = "c"
    title = "moments of batches"

    @property
    def words(self) -> str:
        """As the page has it."""
        return f"sequence of Moments of shape ({', '.join(self.letters)},)"

    def plain(self, random: np.random.Generator, sizes: Sizes) -> list[Moments]:
        """Two batches."""
        shape = [sizes[letter] for letter in self.letters]
        return [
            Moments.from_statistics(
                random.standard_normal(shape), np.abs(random.standard_normal(shape)) + 0.5, count
            )
            for count in (1, 20)
        ]

    def given(self, name: str, arguments: Arguments) -> Iterator[Given]:
        """No sequences, other things in them, and moments that do not fit."""
        parts = arguments[name]
        for words, value in {
            "None": None,
            "one Moments in no sequence": parts[0],
            "a string": "moments",
            "an empty string": "",
            "bytes": b"",
            "an array": np.ones((2, 3, 3)),
            "an iterator": iter(parts),
            "a set": {1},
            "a dict": {1: parts[0]},
            "an int": 1,
        }.items():
            yield Given(words, put(name, value), TypeError, SEQUENCE, name)
        for words, member in {
            "a tuple as a batch": (parts[1].mean, parts[1].var(), 20),
            "an array as a batch": parts[1].to_array(),
            "None as a batch": None,
        }.items():
            expected = "Moments of shape"
            yield Given(words, put(name, [parts[0], member]), TypeError, expected, name)
        for words, members in {
            "one of another size": [parts[0], Moments(7)],
            "all of another size": [Moments(7), Moments(7)],
        }.items():
            yield Given(words, put(name, members), ValueError, "Moments of shape", name)
        yield Given("a tuple of them", put(name, tuple(parts)))
        yield Given("one of them", put(name, parts[:1]))
        yield Given("none of them", put(name, []))
        yield Given("one of no values", put(name, [Moments(parts[0].shape), parts[1]]))
