"""Errors of arguments: what was given, what was expected.

Every public function checks its arguments here before anything is written. A message names the
function, the argument, what was given and what was expected.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from nbnorm.typing import Array

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def describe(value: Any) -> str:
    """What was given, in a few words."""
    if isinstance(value, np.ndarray):
        kind = "array" if type(value) is np.ndarray else type(value).__name__
        return f"{kind} of {value.dtype} and shape {value.shape}"
    text = repr(value)
    return text if len(text) <= 60 else f"{type(value).__name__} {text[:50]}..."


def wrong_type(function: str, name: str, value: Any, expected: str) -> TypeError:
    """The error for an argument of the wrong type."""
    return TypeError(f"{function}: {name} is {describe(value)}; expected {expected}")


def wrong_value(function: str, name: str, value: Any, expected: str) -> ValueError:
    """The error for an argument of the right type and a wrong value."""
    return ValueError(f"{function}: {name} is {describe(value)}; expected {expected}")


def array(
    function: str,
    name: str,
    value: Any,
    *,
    ndim: int | None = None,
    dtype: np.dtype[Any] | None = None,
) -> None:
    """Checks for an array of float32 or float64 (or of one type) and, if given, of a rank.

    Masked arrays and matrices are refused: their mask, or their own arithmetic, would be ignored.
    """
    if not isinstance(value, np.ndarray) or isinstance(value, (np.ma.MaskedArray, np.matrix)):
        raise wrong_type(function, name, value, "a NumPy array")
    if dtype is not None and value.dtype != dtype:
        raise wrong_type(function, name, value, f"an array of {dtype}")
    if value.dtype not in FLOATS:
        raise wrong_type(function, name, value, "an array of float32 or float64")
    if ndim is not None and value.ndim != ndim:
        raise wrong_value(function, name, value, f"an array of {ndim} dimensions")


def like(
    function: str,
    name: str,
    value: Any,
    shape: tuple[int, ...],
    dtype: np.dtype[Any] | None = None,
) -> None:
    """Checks for an array of a shape and, if given, of one type."""
    if (
        type(value) is np.ndarray
        and value.shape == shape
        and (value.dtype in FLOATS if dtype is None else value.dtype == dtype)
    ):
        return  # as nearly always; to find that out below takes three times as long
    array(function, name, value, dtype=dtype)
    if value.shape != shape:
        raise wrong_value(function, name, value, f"shape {shape}")


# How many candidates NumPy may try before an overlap counts as too hard to tell (NumPy's stubs
# know only two special values).
_MOST_WORK: Any = 10_000


def overlaps(a: Array, b: Array) -> bool:
    """Whether two arrays share memory, or might where it is too hard to tell."""
    if not np.may_share_memory(a, b):
        return False
    try:
        return bool(np.shares_memory(a, b, max_work=_MOST_WORK))
    except np.exceptions.TooHardError:
        return True


def same_elements(a: Array, b: Array) -> bool:
    """Whether two arrays are the same elements in the same places."""
    return (
        a.shape == b.shape
        and a.strides == b.strides
        and a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
    )


def _meets_itself(array: Array) -> bool:
    """Whether elements share memory: whether an axis steps over less than those within it span.

    Views made by slices, transposes and diagonals never do; broadcast ones and sliding windows do.
    """
    spanned = array.itemsize
    if array.size:
        for stride, length in sorted(zip(map(abs, array.strides), array.shape, strict=True)):
            if length > 1 and stride < spanned:
                return True
            spanned += (length - 1) * stride
    return False


def writable(
    function: str,
    name: str,
    value: Any,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    inputs: Mapping[str, Array | None],
    *,
    over: Collection[str] = (),
) -> None:
    """Checks that an array can take a result.

    Its elements must overlap neither one another nor an input; the inputs named in `over` may be
    written over whole.
    """
    like(function, name, value, shape, dtype)
    if not value.flags.writeable:
        raise wrong_value(function, name, value, "a writable array (this one is read-only)")
    if not value.flags.c_contiguous and _meets_itself(value):
        raise wrong_value(function, name, value, "an array whose elements do not overlap in memory")
    for other, taken in inputs.items():
        if taken is None or not overlaps(value, taken):
            continue
        if other in over and same_elements(value, taken):
            continue
        expected = f"an array that does not overlap {other}"
        if other in over:
            expected = f"{other} itself or an array that does not overlap it"
        raise wrong_value(function, name, value, expected)


def needs(function: str, wanted: Iterable[str] | None, fields: tuple[str, ...]) -> frozenset[str]:
    """The names of the gradients wanted, all of them for None."""
    if wanted is None:
        return frozenset(fields)
    return names(function, "needs", wanted, fields, f"names out of {fields}")


def names(
    function: str, name: str, value: Any, known: Collection[str], expected: str
) -> frozenset[str]:
    """Any number of the names that are known."""
    scalar = isinstance(value, (str, bytes)) or getattr(value, "ndim", 1) == 0
    if scalar or not isinstance(value, Iterable):
        raise wrong_type(function, name, value, expected)
    given = list(value)
    if not all(isinstance(one, str) and one in known for one in given):
        raise wrong_value(function, name, given, expected)
    return frozenset(given)


def is_int(value: Any) -> bool:
    """Whether a value is an int of Python or NumPy, and not a bool."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def ints(
    function: str, name: str, value: Any, expected: str = "an int or a tuple of ints"
) -> tuple[int, ...]:
    """An int, or a tuple of some, as a tuple."""
    given = value if isinstance(value, tuple) else (value,)
    if not given or not all(map(is_int, given)):
        raise wrong_type(function, name, value, expected)
    return given


def finite(value: Any) -> bool:
    """Whether a real number is neither NaN nor beyond what a float can hold."""
    try:
        return math.isfinite(value)
    except OverflowError:  # an int of hundreds of digits
        return False


def flag(function: str, name: str, value: Any) -> bool:
    """A bool; no other value stands for one."""
    if not isinstance(value, (bool, np.bool_)):
        raise wrong_type(function, name, value, "True or False")
    return bool(value)


def choice(function: str, name: str, value: Any, names: tuple[str, ...]) -> str:
    """One of some names."""
    expected = f"one of {names}"
    if not isinstance(value, str):
        raise wrong_type(function, name, value, expected)
    if value not in names:
        raise wrong_value(function, name, value, expected)
    return value


def number(
    function: str, name: str, value: Any, expected: str = "a finite number, 0 or more"
) -> float:
    """A real number, neither a bool nor NaN nor infinite, and not negative."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(
        value, (int, float, np.integer, np.floating)
    ):
        raise wrong_type(function, name, value, expected)
    if not (finite(value) and value >= 0):
        raise wrong_value(function, name, value, expected)
    return float(value)


def degrees_of_freedom(function: str, ddof: Any) -> int:
    """A ddof of 0 or 1."""
    if not is_int(ddof):
        raise wrong_type(function, "ddof", ddof, "0 or 1")
    if ddof not in (0, 1):
        raise wrong_value(function, "ddof", ddof, "0 or 1")
    return int(ddof)


def axes(function: str, axis: Any, ndim: int, name: str = "axis") -> tuple[int, ...]:
    """Some or all of the axes of an array, ascending and not negative."""
    given = axis if isinstance(axis, tuple) else (axis,)
    expected = f"an int or a tuple of different ints from {-ndim} to {ndim - 1}"
    for one in given:
        if not is_int(one):
            raise wrong_type(function, name, axis, expected)
        if not -ndim <= one < ndim:
            raise wrong_value(function, name, axis, expected)
    found = tuple(sorted({int(one) % ndim for one in given}))
    if len(found) != len(given) or not found:
        raise wrong_value(function, name, axis, expected)
    return found


def kept_axes(function: str, axis: Any, ndim: int) -> tuple[int, ...]:
    """The axes that keep statistics: not all of them."""
    kept = axes(function, axis, ndim)
    if len(kept) == ndim:
        raise wrong_value(function, "axis", axis, f"fewer axes than x has ({ndim})")
    return kept
