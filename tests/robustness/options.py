"""Numbers, names, flags and contexts as arguments: see kinds.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from tests.robustness.kinds import Arguments, Given, Kind, Sizes, put

BEYOND = 2**70  # what no index and no C integer can hold


@dataclass
class Option(Kind):
    """A plain value, what is refused with a TypeError or a ValueError, and what is taken too.

    A refused value may come with what is expected instead, where that is not `expected`.
    """

    title: str
    words: str
    value: Any
    expected: str = ""
    wrong_types: tuple[Any, ...] = ()
    wrong_values: tuple[Any, ...] = ()
    taken: tuple[Any, ...] = ()

    def plain(self, random: np.random.Generator, sizes: Sizes) -> Any:
        """The plain value."""
        return self.value

    def given(self, name: str, arguments: Arguments) -> Iterator[Given]:
        """Each value, in its own words."""
        for values, error in (
            (self.wrong_types, TypeError), (self.wrong_values, ValueError), (self.taken, None),
        ):  # fmt: skip
            for value in values:
                yield Given(in_words(value), put(name, value), error, self.expected, name)


def in_words(value: Any) -> str:
    """A value as code."""
    text = {BEYOND: "2**70", 10**400: "10**400"}.get(value) if type(value) is int else None
    return f"`{' '.join((text or repr(value)).split())}`".replace(repr(10**400), "10**400")


NO_INTS = (None, "1", True, np.True_, 1.0, np.float64(1.0), np.ones(2, int), {1: 1})
NO_FLAGS = (None, 0, 1, "yes", [], np.ones(2, bool))
FLAG = Option("flag", "True or False", True, "True or False", NO_FLAGS, (), (np.True_, False))


def number(words: str, expected: str, *beyond: Any, optional: bool = False) -> Option:
    """A finite number that is not negative; `beyond`, what is too large."""
    no_numbers = ("1", b"1", True, np.True_, 1j, Decimal(1), np.ones(()), np.ones(1), [1.0])
    none = (None,)
    return Option(
        words, words, 0.5, expected,
        no_numbers if optional else none + no_numbers,
        (-1e-5, -np.inf, np.inf, np.nan, np.float32(np.nan), 10**400, *beyond),
        (0, 0.0, 1, 5e-324, np.float32(0.5), np.int8(1)) + (none if optional else ()) * optional,
    )  # fmt: skip


EPS = number("finite number, 0 or more", "a finite number, 0 or more")
MOMENTUM = number("number from 0 to 1, or None", "None or a number from 0 to 1", 1.5, optional=True)
DDOF = Option("0 or 1", "0 or 1", 1, "0 or 1", NO_INTS, (-1, 2, BEYOND), (0, np.int64(1)))
ACTIVATION = Option(
    "activation",
    "[name or (name, parameter)](activations.md), or None",
    "relu",
    "",
    (
        1, True, b"relu", ["relu"], np.tanh, (), ("leaky_relu",), ("relu", 0.1), (0.1, "relu"),
        ("leaky_relu", "0.1"), ("leaky_relu", None), ("leaky_relu", True), ("leaky_relu", np.True_),
        ("leaky_relu", 1j), (np.ones(2), 0.1),
    ),
    (
        "softmax", "RELU", "", ("leaky_relu", np.nan), ("leaky_relu", np.inf),
        ("leaky_relu", 10**400),
    ),
)  # fmt: skip


def kept_axes(ndim: int) -> Option:
    """The axes of an array of so many that keep statistics of their own."""
    return Option(
        "kept axes", "int or tuple of ints, but not all of x's axes", 1, "",
        (None, 1.0, True, "1", b"1", [1], np.ones(1, int), (1, 2.0), (1, True), (None,)),
        (ndim, -ndim - 1, BEYOND, (1, ndim), (1, 1), (1, 1 - ndim), (), tuple(range(ndim))),
        (np.int64(1), 1 - ndim, (1,)),
    )  # fmt: skip


def summed_axes(ndim: int) -> Option:
    """The axes of an array of so many that are summed over."""
    return Option(
        "summed axes", 'int, tuple of ints, None for all, or "sample" for all but the first', 1, "",
        (1.0, True, "1", b"1", [1], np.ones(1, int), (1, 2.0), (1, True), (None,)),
        (ndim, -ndim - 1, BEYOND, (1, ndim), (1, 1), (1, 1 - ndim), ()),
        (None, "sample", np.int64(1), 1 - ndim, (1,), (ndim - 1, 0), tuple(range(ndim))),
    )  # fmt: skip


OUT_AXIS = Option(
    "axes of output channels", "int or tuple of ints", 0, "",
    (None, 1.0, True, "1", b"1", [1], np.ones(1, int), (0, 1.0), (0, True), (None,)),
    (4, -5, BEYOND, (0, 4), (0, 0), (0, -4), ()),
    (np.int64(0), -4, (0,)),
)  # fmt: skip
IMAGE_AXIS = Option(
    "axis of channels", "1 or -1", 1, "1 or -1", (*NO_INTS, (1,)), (0, 2, -2, 3, BEYOND),
    (np.int64(1),),
)  # fmt: skip


def size(value: int) -> Option:
    """A count of 1 or more."""
    return Option(
        "count", "int, 1 or more", value, "an int of 1 or more", NO_INTS, (0, -1),
        (np.int64(value),),
    )  # fmt: skip


GROUPS = Option(
    "groups", "int, 1 or more, that divides the channels", 1, "", NO_INTS,
    (0, -1, BEYOND), (np.int64(1),),
)  # fmt: skip


NUM_GROUPS = Option(
    "number of groups", "int, 1 or more, that divides the channels", 1, "", NO_INTS,
    (0, -1, 2, BEYOND), (np.int64(1), 3),
)  # fmt: skip
CHANNEL_AXIS = Option(
    "axis of channels beside the samples'", "int, but not the first axis", 1,
    "not the first axis", (*NO_INTS, (1,)), (0, 3, -3, BEYOND), (np.int64(1), -2),
)  # fmt: skip


def pair(value: int, least: int = 1) -> Option:
    """An int, or one for each axis of an image."""
    return Option(
        f"pair from {least}", f"int, {least} or more, or a pair of them", value, "an int",
        (*NO_INTS[:-2], "11", {1: 1}, np.ones(2, int), (1, 1.5), (True, 1), (1, "1"), (1, None)),
        (least - 1, (1, least - 1), (least - 1, 1), (1,), (1, 1, 1), (), BEYOND, (1, -BEYOND)),
        (np.int64(value), (value, value), [value, np.int8(value)]),
    )  # fmt: skip


PADDING = Option(
    "padding",
    'int, 0 or more, a pair of them, a pair of such pairs, "valid", "same" or "same_lower"',
    1, "an int",
    (
        None, True, 1.0, b"same", np.ones(2, int), (1, 1.5), (True, 1), ("same", "same"),
        ((1, 1), (1, None)), ((1, (1, 1)), 1),
    ),
    (
        "full", "SAME", "", -1, (0, -1), (1,), (1, 1, 1), (1, 1, 1, 1), (), BEYOND,
        ((1, 1), (1, -1)), ((1, 1), (1,)), ((1, 1), (1, 1), (1, 1)),
    ),
    (np.int64(1), (1, 1), [1, 1], ((1, 1), (1, 1)), [np.int8(1), (1, 1)]),
)  # fmt: skip


def choice(value: str, *others: str) -> Option:
    """One of some names."""
    names = (value, *others)
    return Option(
        f"one of {names}", " or ".join(f'"{name}"' for name in names), value, "one of (",
        (None, 1, True, value.encode(), [value], np.array(names)), ("", value.upper(), "fft"),
        (*names, np.str_(value)),
    )  # fmt: skip


DTYPE = Option(
    "dtype", "float32 or float64, or its name", np.float64, "float32 or float64",
    (
        None, "float16", "int32", "nonsense", 1, int, object, np.zeros(1), ">f8", [("a", "f8")],
        np.longdouble if np.dtype(np.longdouble) != np.float64 else np.float16,
    ),
    (), ("float64", np.dtype(np.float64), "<f8", float),
)  # fmt: skip
SEED = Option(
    "rng", "seed or numpy.random.Generator", 0, "a seed", ("abc", 1.5, [1.5], object), (-1, [-1]),
    (np.int64(0), [0, 1], np.random.SeedSequence(0), None),
)  # fmt: skip


def needs(*names: str) -> Option:
    """Names of gradients."""
    return Option(
        "needs", "names of gradients, or None for all", names, "names out of",
        (1, True, names[0], names[0].encode(), np.array(names[0])),
        (["dy"], [None], [[names[0]]], [1], [np.ones(2)], {"dz": 1}),
        (None, list(names), dict.fromkeys(names), np.array(names)),
    )  # fmt: skip


@dataclass
class Statistics(Kind):
    """A given mean and variance, or None."""

    title = "statistics"
    words = "(mean, var), two such arrays, or None"

    def plain(self, random: np.random.Generator, sizes: Sizes) -> Any:
        """None: the batch's own."""
        return None

    def given(self, name: str, arguments: Arguments) -> Iterator[Given]:
        """What is no pair; what its arrays may be is as in inference."""
        c = arguments["gamma"].shape
        mean, var = np.zeros(c), np.ones(c)
        for words, value in {
            "a list of two arrays": [mean, var],
            "one array": np.ones((2, *c)),
            "one of the two": (mean,),
            "three arrays": (mean, var, var),
            "a string": "mv",
            "a dict": {"mean": mean, "var": var},
        }.items():
            yield Given(words, put(name, value), TypeError, "a tuple (mean, var)", name)
        yield Given("None for a mean", put(name, (None, var)), TypeError, "a NumPy array", "mean")
        yield Given("a list for a var", put(name, (mean, [1.0])), TypeError, "a NumPy", "var")
        long = np.ones(c[0] + 1)
        yield Given("a mean too long", put(name, (long, var)), ValueError, "shape", "mean")
        yield Given("a var too long", put(name, (mean, long)), ValueError, "shape", "var")
        expected = "no negative variance"
        yield Given("a negative var", put(name, (mean, -var)), ValueError, expected, "var")


@dataclass
class Context(Kind):
    """The context of a forward, from arguments of its own."""

    made: Callable[[], Any]
    others: Callable[[], dict[str, Any]]
    title = "context"
    words = "what the forward returned"

    def plain(self, random: np.random.Generator, sizes: Sizes) -> Any:
        """A context of its own for every call."""
        return self.made()

    def given(self, name: str, arguments: Arguments) -> Iterator[Given]:
        """No context, another function's, and one whose parts have been replaced."""
        value = arguments[name]
        expected = f"the {type(value).__name__} of a"
        for words, other in {
            "None": None,
            "an array": np.zeros(3),
            "a string": "context",
            "a plain tuple of its parts": tuple(value),
            "a dict of its parts": value._asdict(),
            **self.others(),
        }.items():
            if type(other) is not type(value):
                yield Given(words, put(name, other), TypeError, expected, name)
        for words, changed in unfit(value):
            yield Given(words, put(name, changed), ValueError)


def unfit(context: Any) -> Iterator[tuple[str, Any]]:
    """Contexts in which one array has been replaced by one that does not fit the others."""
    for field, value in context._asdict().items():
        if isinstance(value, np.ndarray):
            for words, other in {
                "a longer array": np.ones((value.shape[0] + 1, *value.shape[1:])),
                "a shorter array": np.ones((value.shape[0] - 1, *value.shape[1:])),
                "an array of another type": value.astype(np.int64),
                "an array of one axis more": value[None],
                "None": None,
            }.items():
                if other is not None or field in ("x", "weight", "statistics"):
                    where = f"one with {words} for one of its arrays"
                    yield where, context._replace(**{field: other})
        elif type(value) is type(context) or type(value).__name__ == "BatchNormContext":
            for words, inner in unfit(value):
                yield words, context._replace(**{field: inner})
