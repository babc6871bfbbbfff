"""What is kept of earlier batches as an argument: see kinds.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from nbnorm import BatchStatistics
from tests.robustness.arrays import ARRAY, no_arrays, odd_arrays, other_shapes, roomy
from tests.robustness.kinds import Arguments, Given, Kind, Sizes, put
from tests.robustness.options import BEYOND, NO_INTS

SEQUENCE = "a sequence of BatchStatistics"


@dataclass
class Batches(Kind):
    """A sequence of BatchStatistics.

    letters   of a mean
    fixed     whether another argument has their shape, which all of them must then have
    empty     whether there may be none
    """

    letters: str = "c"
    fixed: bool = True
    empty: bool = True
    title = "statistics of batches"

    @property
    def words(self) -> str:
        """As the page has it."""
        shape = f"({', '.join(self.letters)},)"
        least = "" if self.empty else "one or more "
        return f"sequence of {least}BatchStatistics of shape {shape}"

    def plain(self, random: np.random.Generator, sizes: Sizes) -> list[BatchStatistics]:
        """Two batches."""
        shape = [sizes[letter] for letter in self.letters]
        return [
            BatchStatistics(
                roomy(random.standard_normal(shape)),
                roomy(np.abs(random.standard_normal(shape)) + 0.5),
                count,
            )
            for count in (1, 20)
        ]

    def given(self, name: str, arguments: Arguments) -> Iterator[Given]:
        """No sequences, other things in them, and statistics that do not fit."""
        parts = arguments[name]
        for words, value in {
            "None": None,
            "one BatchStatistics in no sequence": parts[0],
            "a string": "statistics",
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
            "a plain tuple as a batch": tuple(parts[1]),
            "a list as a batch": list(parts[1]),
            "an array as a batch": parts[1].mean,
            "None as a batch": None,
        }.items():
            yield Given(words, put(name, [parts[0], member]), TypeError, SEQUENCE, name)
        yield Given("a tuple of them", put(name, tuple(parts)))
        yield Given("one of them", put(name, parts[:1]))
        if self.empty:
            yield Given("none of them", put(name, []))
        else:
            expected = "one BatchStatistics or more"
            words = "none of them where there have to be some"
            yield Given(words, put(name, []), ValueError, expected, name)
        for place in range(len(parts)):
            yield from self._statistics(name, parts, place)
            yield from self._counts(name, parts, place)

    def _statistics(self, name: str, parts: list[BatchStatistics], place: int) -> Iterator[Given]:
        part = parts[place]
        for field in ("mean", "var"):
            values = getattr(part, field)
            change = self._changing(name, parts, place, field)
            for words, other, expected in no_arrays(values):
                yield Given(f"{words} for a mean or var", change(other), TypeError, expected, field)
            yield Given("None for a mean or var", change(None), TypeError, ARRAY, field)
            for words, other, _ in other_shapes(values):
                yield Given(f"a mean or var {words}", change(other), ValueError)
            for words, other in odd_arrays(values, written=False):
                yield Given(words, change(other))
            once = np.broadcast_to(values[:1], values.shape)
            yield Given("an array broadcast along an axis (stride 0)", change(once))
            yield Given("an array of float32", change(values.astype(np.float32)))
            yield Given("NaN among the numbers", change(np.full(values.shape, np.nan)))
            if not self.fixed:  # an x less an infinite mean: plain Python warns, kernels do not
                yield Given("inf among the numbers", change(np.full(values.shape, np.inf)))
        change = self._changing(name, parts, place, "var")
        expected = "no negative variance"
        yield Given("a negative var", change(-part.var), ValueError, expected, "var")
        yield Given("a var of 0", change(0 * part.var))
        if self.fixed:
            longer = [part._replace(mean=np.ones(7), var=np.ones(7)) for part in parts]
            yield Given("all of another size", put(name, longer), ValueError, "means of", name)

    def _counts(self, name: str, parts: list[BatchStatistics], place: int) -> Iterator[Given]:
        change = self._changing(name, parts, place, "count")
        for value in NO_INTS:
            yield Given("a count that is no int", change(value), TypeError, "an int of 1", "count")
        for words, value in {
            "a count of 0": 0, "a negative count": -1, "a count of 2**53": 2**53,
            "a count of 2**70": BEYOND,
        }.items():  # fmt: skip
            yield Given(words, change(value), ValueError, "an int of 1 or more", "count")
        yield Given("a count that is an int of NumPy", change(np.int8(100)))
        yield Given("a count of 2**53 - 1", change(2**53 - 1))

    def _changing(
        self, name: str, parts: list[BatchStatistics], place: int, field: str
    ) -> Callable[[Any], Callable[[Arguments], None]]:
        """What puts something else into one of the batches."""

        def change(value: Any) -> Callable[[Arguments], None]:
            changed = list(parts)
            changed[place] = parts[place]._replace(**{field: value})
            return put(name, changed)

        return change
