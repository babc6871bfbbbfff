"""Arrays as users might give them: no arrays at all, of odd types, shapes and places in memory."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

Array = np.ndarray[Any, np.dtype[Any]]

ROOM = 2048  # numbers in the memory that each array lies at the start of


class Converts:
    """No array, but NumPy could make one of it."""

    def __init__(self, array: Array) -> None:
        self._array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return self._array

    def __repr__(self) -> str:
        return "Converts()"


class Subclass(np.ndarray[Any, np.dtype[Any]]):
    """A class of arrays that behaves as arrays do."""


def roomy(values: Array) -> Array:
    """A copy at the start of larger memory, of which other arrays can be views."""
    memory = np.full(ROOM, np.nan, values.dtype)
    memory[: values.size] = values.reshape(-1)
    return memory[: values.size].reshape(values.shape)


def overlapping(array: Array, shape: tuple[int, ...], first: int) -> Array | None:
    """An array of a shape in the memory of another, from one of its elements on."""
    memory = array if array.base is None else array.base
    if not isinstance(memory, np.ndarray) or memory.dtype != array.dtype:
        memory = array
    if not memory.flags.c_contiguous or memory.size < first + int(np.prod(shape)):
        return None
    return memory.reshape(-1)[first : first + int(np.prod(shape))].reshape(shape)


def unaligned(values: Array) -> Array:
    """A copy one byte off the alignment of its type."""
    memory = np.zeros(values.nbytes + 1, np.uint8)
    array = memory[1:].view(values.dtype).reshape(values.shape)
    array[...] = values
    return array


def stepped(values: Array) -> Array:
    """A copy whose elements lie two apart along every axis."""
    wide = np.full([2 * size for size in values.shape], np.nan, values.dtype)
    array = wide[(slice(None, None, 2),) * values.ndim]
    array[...] = values
    return array


def reversed_axis(values: Array, axis: int) -> Array:
    """A copy that lies backwards in memory along one axis."""
    return np.flip(np.flip(values, axis).copy(), axis)


def mapped(values: Array) -> Array:
    """A copy in a file."""
    with tempfile.TemporaryFile() as file:
        array = np.memmap(file, values.dtype, "w+", shape=values.shape)
    array[...] = values
    return array


def read_only(values: Array) -> Array:
    """A copy that cannot be written to."""
    array = values.copy()
    array.flags.writeable = False
    return array


def odd_arrays(values: Array, *, written: bool) -> Iterator[tuple[str, Array]]:
    """The same numbers in every way that memory can hold them."""
    for axis in range(values.ndim):
        yield "an array with a negative stride along any axis", reversed_axis(values, axis)
    yield "an array of every other element", stepped(values)
    yield "an array in Fortran order", np.asfortranarray(values.copy())
    yield "an array whose elements are not aligned", unaligned(values)
    yield "a memory map", mapped(values)
    yield "an instance of a subclass of ndarray", values.copy().view(Subclass)
    if not written:
        yield "a read-only array", read_only(values)


SWAPPED = np.dtype(np.float64).newbyteorder()
OTHER_TYPES: dict[str, Any] = {
    **{f"an array of {name}": name for name in ("bool", "int64", "uint8", "float16", "complex64")},
    "an array of longdouble": np.longdouble,
    "an array of objects": object,
    "an array of strings": "U8",
    "an array of dates": "datetime64[s]",
    "a structured array": [("a", np.float64)],
    "a byte-swapped array": SWAPPED,
}
ARRAY = "a NumPy array"


def matrix(values: Array) -> Any:
    """The same numbers as an instance of the class that NumPy no longer recommends."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        return np.asmatrix(values.reshape(len(values), -1))


def no_arrays(values: Array) -> Iterator[tuple[str, Any, str]]:
    """What is not an array of floats, and what is expected instead."""
    for words, value in {
        "a list": values.tolist(),
        "a tuple": tuple(np.atleast_1d(values).tolist()),
        "a float": 1.0,
        "a NumPy scalar": np.float64(1.0),
        "True": True,
        "a string": "array",
        "an object with `__array__`": Converts(values),
        "a masked array": np.ma.MaskedArray(values),
        "a matrix": matrix(values),
    }.items():
        yield words, value, ARRAY
    for words, dtype in OTHER_TYPES.items():
        if np.dtype(dtype) != values.dtype:  # longdouble is float64 on some systems
            with np.errstate(invalid="ignore"):
                yield words, np.ones(values.shape).astype(dtype), "an array of float"


def other_shapes(values: Array) -> Iterator[tuple[str, Array, int | None]]:
    """Arrays of every shape that differs in one way, and the axis in which it does."""
    ones = np.ones
    shape = values.shape
    yield "0-d", np.array(1.0), None
    yield "an axis more", ones((1, *shape)), None
    if len(shape) > 1:
        yield "an axis less", ones(shape[1:]), None
    for axis, size in enumerate(shape):
        for words, other in (("longer", size + 1), ("shorter", size - 1), ("empty", 0)):
            sizes = (*shape[:axis], other, *shape[axis + 1 :])
            yield f"{words} along any axis", ones(sizes), axis


def broadcast(values: Array) -> Array:
    """One number in every place, that claims to be writable."""
    array = np.broadcast_to(np.zeros(1), values.shape)
    array.flags.writeable = True
    return array


def sliding(values: Array) -> Array:
    """Rows that begin one element apart; a vector of one element."""
    strides = [0] if values.ndim == 1 else [8] * values.ndim
    return as_strided(np.zeros(ROOM), values.shape, strides)
