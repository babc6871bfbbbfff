"""Kinds of arguments: a value that is right, every way to be wrong, and the odd ways to be right.

A kind knows a plain value of its argument and yields `Given`: something else in its place, with the
error that is due, or none where the call is to work as with any other value.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tests.robustness.arrays import (
    ARRAY,
    Array,
    broadcast,
    no_arrays,
    odd_arrays,
    other_shapes,
    overlapping,
    read_only,
    roomy,
    sliding,
)

Arguments = dict[str, Any]
Sizes = Mapping[str, int]


class Given(NamedTuple):
    """Something else in the place of an argument.

    words     what it is, for the page
    put       puts it into the arguments
    error     the error that is due, or None
    expected  words of the error behind "expected", or what else is to be said of it
    named     the argument as the error names it; None where a call that does not fit together may
              name another of its arguments
    """

    words: str
    put: Callable[[Arguments], None]
    error: type[Exception] | None = None
    expected: str = ""
    named: str | None = None


class Kind:
    """A kind of argument: `title` and `words` are for the page."""

    title: str
    words: str

    def plain(self, random: np.random.Generator, sizes: Sizes) -> Any:
        """A value that is right."""
        raise NotImplementedError

    def given(self, name: str, arguments: Arguments) -> Iterator[Given]:
        """What to put in its place, into arguments like these."""
        raise NotImplementedError


def put(name: str, value: Any) -> Callable[[Arguments], None]:
    """Replace one argument."""
    return lambda arguments: arguments.update({name: value})


@dataclass
class Data(Kind):
    """An array whose axes are letters of the function's sizes.

    same      whether it has to be of x's type
    optional  whether it may be None
    decides   whether the call's shapes follow from it: then another argument may be named that no
              longer fits
    positive  whether it is a variance
    free      letters of sizes that may be any, and other shapes that are right
    """

    letters: str
    same: bool = True
    optional: bool = False
    decides: bool = False
    positive: bool = False
    free: Collection[str] = ()

    @property
    def title(self) -> str:
        """By what the array is for."""
        if self.positive:
            return "variance"
        if self.same:
            return "array"
        return "channel" if len(self.letters) == 1 else "array of either type"

    @property
    def words(self) -> str:
        """As the page has it."""
        shape = f"({', '.join(self.letters)}{',' * (len(self.letters) == 1)})"
        kind = "of x's type" if self.same else "of float32 or float64"
        return f"array {shape} {kind}{' or None' if self.optional else ''}"

    def plain(self, random: np.random.Generator, sizes: Sizes) -> Array:
        """Normal numbers; a variance is positive."""
        values = random.standard_normal(tuple(sizes[letter] for letter in self.letters))
        return roomy(np.abs(values) + 0.5 if self.positive else values)

    def given(self, name: str, arguments: Arguments) -> Iterator[Given]:
        """Every type, every shape, every place."""
        value = arguments[name]
        named = None if self.decides else name
        for words, other, expected in no_arrays(value):
            yield Given(words, put(name, other), TypeError, expected, name)
        if not self.optional:
            yield Given("None", put(name, None), TypeError, ARRAY, name)
        narrow = put(name, value.astype(np.float32))
        if self.same:
            expected = "an array of float"
            yield Given("the other of float32 and float64", narrow, TypeError, expected, named)
        else:
            yield Given("the other of float32 and float64", narrow)
        for words, other, axis in other_shapes(value):
            expected = "" if self.decides else "shape "
            if (words if axis is None else self.letters[axis]) in self.free:
                continue
            yield Given(words, put(name, other), ValueError, expected, named)
        for words, other in odd_arrays(value, written=False):
            yield Given(words, put(name, other))
        once = np.broadcast_to(value[:1], value.shape)
        yield Given("an array broadcast along an axis (stride 0)", put(name, once))
        if self.positive:
            negative = value.copy()
            negative[-1] = -1.0
            expected = "no negative variance"
            yield Given("a negative number", put(name, negative), ValueError, expected, name)
            for words, number in (("NaN", np.nan), ("inf", np.inf), ("0", 0.0)):
                one = value.copy()
                one[-1] = number
                yield Given(f"{words} among the numbers", put(name, one))


@dataclass
class Place:
    """An array to be written to: its axes, and what else it may lie in.

    over     the inputs that it may be
    apart    inputs that it must not overlap, as paths into the arguments ("context.x")
    beside   those that it may overlap, because they are read before anything is written
    """

    letters: str
    over: Collection[str] = ()
    apart: Collection[str] = ()

    def given(
        self, field: str, empty: Array, arguments: Arguments, replace: Callable[..., Any]
    ) -> Iterator[Given]:
        """Every array that cannot take a result, and the odd ones that can."""
        for words, other, expected in no_arrays(empty):
            yield Given(words, replace(other), TypeError, expected, field)
        narrow = replace(empty.astype(np.float32))
        yield Given("the other of float32 and float64", narrow, TypeError, "an array of", field)
        for words, other, _ in other_shapes(empty):
            yield Given(words, replace(other), ValueError, "shape ", field)
        fixed = replace(read_only(empty))
        yield Given("a read-only array", fixed, ValueError, "a writable array", field)
        for words, other in (
            ("an array broadcast along an axis (stride 0)", broadcast(empty)),
            ("an array that overlaps itself", sliding(empty)),
        ):
            expected = "an array whose elements do not overlap in memory"
            yield Given(words, replace(other), ValueError, expected, field)
        for path in (*self.over, *self.apart):
            yield from self._overlaps(field, empty, arguments, path, replace)
        for words, other in odd_arrays(empty, written=True):
            yield Given(words, replace(other))

    def _overlaps(
        self,
        field: str,
        empty: Array,
        arguments: Arguments,
        path: str,
        replace: Callable[..., Any],
    ) -> Iterator[Given]:
        source = found(arguments, path)
        expected = " overlap it" if path in self.over else f" overlap {_spoken(path)}"
        others: dict[str, Callable[[Array], Array | None]] = {
            "an array that overlaps an input by one element": lambda a: overlapping(
                a, empty.shape, a.size - 1
            ),
            "an array that begins where an input does": lambda a: (
                None if a.shape == empty.shape else overlapping(a, empty.shape, 0)
            ),
            "an input's elements in reverse": lambda a: a[::-1] if a.shape == empty.shape else None,
        }
        for words, make in others.items():
            if make(source) is not None:
                replaced = from_path(replace, path, make)
                yield Given(words, replaced, ValueError, expected, field)
        if source.shape == empty.shape:
            itself = from_path(replace, path, lambda a: a)
            if path in self.over:
                yield Given(f"{path} itself", itself)
            else:
                yield Given("an input itself", itself, ValueError, expected, field)


def _spoken(path: str) -> str:
    """An input as messages have it: with its path where the library made it."""
    last = path.rpartition(".")[2]
    return f"context.{last}" if last == "statistics" else path if "normaliz" in path else last


def found(arguments: Arguments, path: str) -> Array:
    """The array at the end of a path of attributes."""
    first, *rest = path.split(".")
    value = arguments[first]
    for name in rest:
        value = getattr(value, name)
    return value


def from_path(
    replace: Callable[..., Any], path: str, make: Callable[[Array], Any]
) -> Callable[[Arguments], None]:
    """Replace by what is made of another argument, once that is known."""
    return lambda arguments: replace(make(found(arguments, path)))(arguments)


@dataclass
class Out(Kind):
    """An array for the result, or None."""

    place: Place
    title = "out"

    @property
    def words(self) -> str:
        """As the page has it."""
        over = "".join(f", or {name} itself" for name in self.place.over)
        return f"array ({', '.join(self.place.letters)}) of x's type{over}, or None"

    def plain(self, random: np.random.Generator, sizes: Sizes) -> Array:
        """Poison, to be seen if it is not written over."""
        return np.full([sizes[letter] for letter in self.place.letters], np.nan)

    def given(self, name: str, arguments: Arguments) -> Iterator[Given]:
        """What cannot be written to."""
        yield Given("None", put(name, None))
        yield from self.place.given(name, arguments[name], arguments, lambda v: put(name, v))


@dataclass
class Gradients(Kind):
    """A NamedTuple of arrays for gradients, or None."""

    kind: Any
    other: Any
    places: Mapping[str, Place]
    title = "gradients"

    @property
    def words(self) -> str:
        """As the page has it."""
        over = [f"{d} {' or '.join(p.over)} itself" for d, p in self.places.items() if p.over]
        words = f"{self.kind.__name__} of arrays or None, or None"
        return f"{words} ({', '.join(over)} too)" if over else words

    def plain(self, random: np.random.Generator, sizes: Sizes) -> Any:
        """Poison for every gradient."""
        return self.kind(**{d: Out(place).plain(random, sizes) for d, place in self.places.items()})

    def given(self, name: str, arguments: Arguments) -> Iterator[Given]:
        """Other tuples, and other arrays in it."""
        value = arguments[name]
        expected = f"a {self.kind.__name__}"
        for words, other in {
            "a plain tuple": tuple(value),
            "a dict": value._asdict(),
            "an array": np.zeros(3),
            "the tuple of another function": self.other(),
        }.items():
            yield Given(words, put(name, other), TypeError, expected, name)
        yield Given("None", put(name, None))
        yield Given("None in each place", put(name, self.kind()))
        for field, place in self.places.items():

            def replace(array: Any, field: str = field) -> Callable[[Arguments], None]:
                return lambda a: a.update({name: a[name]._replace(**{field: array})})

            empty = getattr(value, field)
            yield from place.given(f"out.{field}", empty, arguments, replace)
            for sibling in self.places:
                if getattr(value, sibling).shape == empty.shape and sibling != field:

                    def twice(a: Arguments, field: str = field, sibling: str = sibling) -> None:
                        both = {field: getattr(a[name], sibling)}
                        a.update({name: a[name]._replace(**both)})

                    yield Given(
                        "one array for two gradients", twice, ValueError, "does not overlap out.d"
                    )
