"""Random arguments of one call: arrays laid out in every way, and what may not happen to them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nbnorm.jit.simd import lane_count
from tests.cases.activations import FEW

Array: TypeAlias = NDArray[Any]

GAP = 0xA5  # each byte between the elements of an array that is written to


class Profile(NamedTuple):
    """What a kernel is compiled for anew."""

    dtype: str
    activation: Any
    residual: bool


# Each of the few activations in each type, and with a residual in one of the two.
PROFILES = [
    Profile(dtype, activation, (row + column) % 2 == 1)
    for row, dtype in enumerate(("float32", "float64"))
    for column, activation in enumerate(FEW)
]


class Span(NamedTuple):
    """Where the elements of an array lie in its bytes."""

    nbytes: int
    offset: int
    strides: tuple[int, ...]


def span_of(
    shape: Sequence[int], itemsize: int, order: Sequence[int], steps: Sequence[int]
) -> Span:
    """The axes in the memory order given, each taken in steps, with no byte too many around."""
    strides = [0] * len(shape)
    stride = itemsize
    for axis in reversed(order):
        strides[axis] = stride * steps[axis]
        stride *= abs(steps[axis]) * shape[axis]
    if 0 in shape:
        return Span(0, 0, tuple(map(abs, strides)))
    reach = [(size - 1) * stride for size, stride in zip(shape, strides, strict=True)]
    nbytes = itemsize + sum(map(abs, reach))
    return Span(nbytes, -sum(r for r in reach if r < 0), tuple(strides))


class Room(NamedTuple):
    """An array that is written to, and all of its memory."""

    array: Array
    memory: Array  # bytes
    is_gap: Array  # of each of them


class Drawing:
    """Draws arguments, makes calls with them, and looks after the memory of both.

    `tell` is given a description of each call before it is made.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        profile: Profile,
        few_variants: bool,
        tell: Callable[[str], None],
    ) -> None:
        self.rng = rng
        self.dtype, self.activation, self.residual = profile
        self.few_variants = few_variants
        self.called: set[str] = set()
        self._tell = tell
        self._digest = hashlib.blake2b(digest_size=8)
        self._inputs: list[tuple[Array, bytes]] = []
        self._rooms: list[Room] = []

    # --- numbers ----------------------------------------------------------------------------

    def one_of(self, choices: Sequence[Any]) -> Any:
        return choices[self.rng.integers(len(choices))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def size(self, most: int, least: int = 1) -> int:
        """A size from `least` to `most`, often small, often next to whole vectors."""
        lanes = lane_count(np.dtype(self.dtype).itemsize)
        kind = self.rng.integers(4)
        if kind == 0:
            size = int(self.rng.integers(least, most + 1))
        elif kind == 1:
            part = int(self.one_of([lanes // 4, lanes // 2, lanes, 2 * lanes]))
            size = part * int(self.rng.integers(1, 4)) + int(self.rng.integers(-1, 2))
        else:
            size = int(self.rng.integers(1, 10))
        return max(least, min(size, most))

    # --- arrays -----------------------------------------------------------------------------

    def array(
        self, shape: Sequence[int], *, dtype: Any = None, spread: tuple[float, float] | None = None
    ) -> Array:
        """An array to read: normal, or uniform over `spread`."""
        if spread is not None:
            values = self.rng.uniform(*spread, shape)
        else:
            values = self.rng.standard_normal(shape) + self.rng.uniform(-1.0, 1.0)
        dtype = np.dtype(self.dtype if dtype is None else dtype)
        if self.chance(0.03):
            single = np.array(values.reshape(-1)[:1], dtype)
            if single.size:
                return self._watched(np.broadcast_to(single.reshape(()), tuple(shape)), single)
        array, memory = self._laid_out(shape, dtype)
        array[...] = values
        if self.chance(0.1):
            array.flags.writeable = False
        return self._watched(array, memory)

    def channel(self, shape: Sequence[int], **options: Any) -> Array:
        """A number for each channel, of either type."""
        return self.array(shape, dtype=self.one_of(["float32", "float64"]), **options)

    def place(self, shape: Sequence[int], dtype: Any = None) -> Array:
        """An array to write to: NaN, with known bytes between its elements."""
        dtype = np.dtype(self.dtype if dtype is None else dtype)
        array, memory = self._laid_out(shape, dtype)
        memory[...] = GAP
        array[...] = np.nan
        is_gap = np.ones(memory.size, bool)
        if array.size:
            offset = array.__array_interface__["data"][0] - memory.__array_interface__["data"][0]
            if array.size:
                elements = np.ndarray(
                    (*array.shape, dtype.itemsize), bool, is_gap, offset, (*array.strides, 1)
                )
                elements[...] = False
        self._rooms.append(Room(array, memory, is_gap))
        return array

    def over(self, array: Array) -> Array:
        """An input that is to be written over."""
        self._inputs = [(memory, content) for memory, content in self._inputs
                        if not np.may_share_memory(memory, array)]  # fmt: skip
        return array

    def _watched(self, array: Array, memory: Array) -> Array:
        self._inputs.append((memory, memory.tobytes()))
        return array

    def _laid_out(self, shape: Sequence[int], dtype: np.dtype[Any]) -> tuple[Array, Array]:
        """An array and its memory, in one of the ways that arrays lie in memory."""
        ndim = len(shape)
        order = list(range(ndim))
        steps = [1] * ndim
        beside = 0
        kind = self.rng.random()
        if kind < 0.2 and ndim > 2:
            order = [0, *range(2, ndim), 1]  # channels last under a shape of channels first
        elif kind < 0.3:
            order = [int(axis) for axis in self.rng.permutation(ndim)]
        elif kind < 0.45:
            order = [int(axis) for axis in self.rng.permutation(ndim)]
            steps = [int(self.one_of([1, 1, 2, 3, -1, -2])) for _ in shape]
        elif kind < 0.48:
            beside = 1
        span = span_of(shape, dtype.itemsize, order, steps)
        memory = np.empty(span.nbytes + beside, np.uint8)
        if beside and memory.__array_interface__["data"][0] % dtype.itemsize:
            beside = 0  # the memory does not begin between two elements' addresses: it does already
        array = np.ndarray(tuple(shape), dtype, memory, span.offset + beside, span.strides)
        return array, memory

    # --- calls ------------------------------------------------------------------------------

    def call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """The function's result, told of before and looked at afterwards."""
        name = function.__qualname__
        self._tell(f"{name}({', '.join(told(arguments, options))})")
        self.called.add(name)
        result = function(*arguments, **options)
        for array in arrays_in(result):
            if not np.isfinite(array).all():
                raise AssertionError("a result is not finite")
            self._digest.update(np.ascontiguousarray(array).tobytes())
        for memory, content in self._inputs:
            if memory.tobytes() != content:
                raise AssertionError("an input, or memory between its elements, is written to")
        for room in self._rooms:
            if (room.memory[room.is_gap] != GAP).any():
                raise AssertionError("memory between the elements of an out is written to")
        return result

    def digest(self) -> str:
        """What all results came to, bit by bit."""
        return self._digest.hexdigest()


def arrays_in(result: Any) -> Iterable[Array]:
    """The arrays in what a function returned; of a context, its statistics."""
    if isinstance(result, np.ndarray):
        yield result
    elif hasattr(result, "inv_std"):
        yield from (result.mean, result.var, result.inv_std)
    elif isinstance(result, tuple):
        for item in result:
            yield from arrays_in(item)
    elif isinstance(result, float):
        yield np.array(result)


def told(arguments: Sequence[Any], options: dict[str, Any]) -> Iterable[str]:
    """Arguments in words, arrays by what they are."""
    yield from (_told(argument) for argument in arguments)
    yield from (f"{name}={_told(option)}" for name, option in options.items())


def _told(value: Any) -> str:
    if isinstance(value, np.ndarray):
        flags = "" if value.flags.writeable else ", read-only"
        flags += "" if value.flags.aligned else ", unaligned"
        strides = "" if value.flags.c_contiguous else f", strides {value.strides}"
        return f"<{value.dtype} {value.shape}{strides}{flags}>"
    if hasattr(value, "inv_std"):
        return "context"
    if isinstance(value, list):
        return f"[{', '.join(map(_told, value))}]"
    if isinstance(value, tuple) and any(isinstance(item, np.ndarray) for item in value):
        names = getattr(value, "_fields", None)
        if names:
            return f"{type(value).__name__}({', '.join(told((), value._asdict()))})"
        return f"({', '.join(map(_told, value))})"
    return repr(value)
