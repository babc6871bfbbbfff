"""What a batch norm is told of the batch that x is a part of, and weights, as arguments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from nbnorm import Moments
from tests.robustness.arrays import no_arrays
from tests.robustness.kinds import Arguments, Given, Kind, Sizes, put


@dataclass
class Whole(Kind):
    """Moments of a whole, a callable that returns them, or None.

    letters        of the kept axes
    callable_only  whether Moments themselves are refused
    """

    letters: str
    callable_only: bool = False

    @property
    def title(self) -> str:
        """By what is taken."""
        return "callable for moments" if self.callable_only else "moments of a whole"

    @property
    def words(self) -> str:
        """As the page has it."""
        taken = f"callable that returns Moments of shape ({', '.join(self.letters)},), or None"
        return taken if self.callable_only else f"Moments or {taken}"

    def plain(self, random: np.random.Generator, sizes: Sizes) -> Any:
        """None: the batch is whole."""
        return None

    def given(self, name: str, arguments: Arguments) -> Iterator[Given]:
        """No moments, those of other channels, of too few values, and beside statistics."""
        c = arguments["gamma"].shape
        good = Moments.from_statistics(np.zeros(c), np.ones(c), 9)
        few = Moments.from_statistics(np.zeros(c), np.ones(c), 1)
        long = Moments(c[0] + 1)
        others = {"a tuple": (np.zeros(c), np.ones(c)), "an array": np.ones(3), "a string": "mv"}
        expected = "a callable" if self.callable_only else "Moments of shape"
        for words, value in others.items():
            yield Given(words, put(name, value), TypeError, expected, name)
        for words, value in others.items():
            back = put(name, lambda part, value=value: value)
            yield Given(f"a callable that returns {words}", back, TypeError, "Moments of", name)
        for words, value, expected in (
            ("Moments of other channels", long, "Moments of shape"),
            ("Moments of no value", Moments(c), "Moments of a count above 1"),
            ("Moments of one value", few, "Moments of a count above 1"),
        ):
            back = put(name, lambda part, value=value: value)
            yield Given(f"a callable that returns {words}", back, ValueError, expected, name)
            if not self.callable_only:
                yield Given(words, put(name, value), ValueError, expected, name)
        if self.callable_only:
            yield Given("Moments", put(name, good), TypeError, "a callable", name)
        yield Given("a callable that returns its argument", put(name, lambda part: part))

        def beside(arguments: Arguments) -> None:
            arguments |= {name: lambda part: part, "statistics": (np.zeros(c), np.ones(c))}

        yield Given("one beside statistics", beside, ValueError, "None beside statistics", name)


@dataclass
class SampleWeight(Kind):
    """Weights of the places of an array, with the kept axis at length 1, or None.

    letters   of the array
    axis      the kept one
    """

    letters: str
    axis: int = 1
    title = "weights of places"

    @property
    def words(self) -> str:
        """As the page has it."""
        letters = list(self.letters)
        letters[self.axis] = "1"
        shape = f"({', '.join(letters)})"
        return f"array of bool, float32 or float64 that broadcasts to {shape}, or None"

    def plain(self, random: np.random.Generator, sizes: Sizes) -> Any:
        """None: all places count alike."""
        return None

    def given(self, name: str, arguments: Arguments) -> Iterator[Given]:
        """What is no weight, what does not broadcast, and what does."""
        shape = list(arguments["residual"].shape)
        shape[self.axis] = 1
        weights = np.linspace(0.5, 1.5, int(np.prod(shape))).reshape(shape)
        for words, other, expected in no_arrays(weights):
            if words == "an array of bool":  # a mask
                continue
            yield Given(words, put(name, other), TypeError, expected, name)
        wide = np.ones(arguments["residual"].shape)
        longer = np.ones((shape[0] + 1, *shape[1:]))
        for words, value in {
            "weights for each channel": wide,
            "an array of a size more": longer,
            "an array with an axis more": weights[None, None],
        }.items():
            expected = "an array that broadcasts to"
            yield Given(words, put(name, value), ValueError, expected, name)
        for words, number in (("a negative weight", -1.0), ("NaN", np.nan), ("inf", np.inf)):
            value = weights.copy()
            value[0] = number
            yield Given(words, put(name, value), ValueError, "finite weights, 0 or more", name)
        expected = "weights whose sum is above"
        yield Given("weights of 0", put(name, 0 * weights), ValueError, expected, name)
        yield Given("a sum of 1 with ddof 1", put(name, weights / weights.sum()),
                    ValueError, expected, name)  # fmt: skip
        yield Given("weights", put(name, weights))
        yield Given("weights of float32", put(name, weights.astype(np.float32).round(1)))
        yield Given("a mask", put(name, weights > 0.7))
        yield Given(
            "a weight for each sample",
            put(name, weights[(slice(None), *[slice(1)] * (len(shape) - 1))]),
        )
        yield Given("one weight for all", put(name, np.full((1,), 2.0)))
        yield Given("weights in Fortran order", put(name, np.asfortranarray(weights)))


@dataclass
class LayersWeights(SampleWeight):
    """Weights for layers, or an entry for each of them."""

    layers: int = 1
    title = "weights of places for layers"

    @property
    def words(self) -> str:
        """As the page has it."""
        one = super().words.removesuffix(", or None")
        return f"{one}, sequence with one for each layer, or None"

    def given(self, name: str, arguments: Arguments) -> Iterator[Given]:
        """The same, and what is not one for each layer that takes some."""
        for one in super().given(name, arguments):
            if one.words not in ("a list", "a tuple"):
                yield one
        for words, value in (("a list", [None] * (self.layers + 1)), ("a tuple", ())):
            expected = f"an array, or {self.layers} entries: one for each layer"
            yield Given(f"{words} of other length", put(name, value), ValueError, expected, name)
        weights = np.ones(len(arguments["residual"]))
        unweighted = [None] * (self.layers - 1)
        yield Given("weights for another layer", put(name, [weights, *unweighted]),
                    TypeError, "None: Flatten takes none", f"{name}[0]")  # fmt: skip
        yield Given("weights for one layer", put(name, [*unweighted, weights]))


@dataclass
class Sums(Kind):
    """Gradient sums of a whole, a callable that returns them, or None."""

    letters: str
    title = "gradient sums"

    @property
    def words(self) -> str:
        """As the page has it."""
        shape = f"(2, {', '.join(self.letters)})"
        return f"array {shape} of float64 or callable that returns one, or None"

    def plain(self, random: np.random.Generator, sizes: Sizes) -> Any:
        """None: the batch is whole."""
        return None

    def given(self, name: str, arguments: Arguments) -> Iterator[Given]:
        """Any, where the forward was given no moments; the other errors have tests of their own."""
        for words, value in {
            "sums for the context of a forward without moments": np.zeros((2, 3)),
            "a callable for such a context": lambda part: part,
        }.items():
            yield Given(words, put(name, value), ValueError, "None: this context is of a", name)
