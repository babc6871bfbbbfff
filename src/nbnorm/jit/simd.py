"""Vectors for compiled loops: loads, stores, fma and reductions that the loop spells out itself.

A *vector* here holds four registers of the target: 64 float32 or 32 float64 lanes with AVX-512,
half of that with AVX2, a quarter with SSE2 and NEON. LLVM splits each operation into one per
register, so a loop over vectors is unrolled four times and its accumulators are independent, and
the loop is still written once:

    total = splat(x, 0.0)
    for i in range(0, x.size - lanes(x) + 1, lanes(x)):
        total = total + load(x, i)

Vectors add, subtract, multiply, divide and compare with the ordinary operators; a comparison is a
mask for `select`. Arithmetic is IEEE's, in the order written: no flag lets the compiler
reassociate it. Arrays are one-dimensional and contiguous, of float32 or float64: the compiler
refuses others. Indices are elements and are not checked.

Every operation is a function of NumPy first (its *twin*, above it) and a piece of LLVM second.
Under ``NUMBA_DISABLE_JIT=1`` the twins run, and raise `IndexError` where compiled code would have
read or written beyond an array. Both give the same bits, but for `fma`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.errors import TypingError

from nbnorm.jit import llvm, target
from nbnorm.jit.vectors import Vector, VectorType, as_vector, twin

REGISTERS_PER_VECTOR = 4

_NEVER = 1 << (types.intp.bitwidth - 2)


# --- widths ---------------------------------------------------------------------------------


def lane_count(itemsize: int) -> int:
    """Lanes in a vector of elements of so many bytes."""
    return REGISTERS_PER_VECTOR * register_lanes(itemsize)


def register_lanes(itemsize: int) -> int:
    """Lanes in a register of elements of so many bytes."""
    return target.register_bytes() // itemsize


def vector_of(array: Any) -> VectorType:
    """The type of a vector of the array's elements."""
    _require(_is_flat(array), f"a contiguous float array of one dimension, not {array}")
    return VectorType(array.dtype, lane_count(array.dtype.bitwidth // 8))


def _is_flat(array: Any) -> bool:
    """Whether a pointer to the first element and an index find the others."""
    return (
        isinstance(array, types.Array)
        and array.dtype in (types.float32, types.float64)
        and (array.ndim, array.layout) == (1, "C")
    )


def _require(condition: bool, expected: str) -> None:
    if not condition:
        raise TypingError(f"nbnorm.jit.simd: expected {expected}")


def _lanes(array: Any) -> int:
    return lane_count(array.itemsize)


@twin(_lanes)
def lanes(typing_context, array):
    """Lanes in a vector of the array's elements, a constant in compiled code."""
    count = vector_of(array).count

    def generate(context, builder, sig, args):
        return llvm.INTP(count)

    return types.intp(array), generate


def _lanes_of_register(array: Any) -> int:
    return register_lanes(array.itemsize)


@twin(_lanes_of_register)
def lanes_of_register(typing_context, array):
    """Lanes in a register of the array's elements, a constant in compiled code."""
    count = register_lanes(array.dtype.bitwidth // 8)

    def generate(context, builder, sig, args):
        return llvm.INTP(count)

    return types.intp(array), generate


# --- memory ---------------------------------------------------------------------------------


def _pointer(context, builder, array_type, array, index, vector):
    """Address of ``array[index]`` as a pointer to a vector."""
    data = context.make_array(array_type)(context, builder, array).data
    return llvm.vector_at(builder, data, index, _llvm(context, vector))


def _llvm(context, numba_type):
    return context.get_value_type(numba_type)


def checked_slice(array: Any, index: int, count: int) -> Any:
    """A part of an array for a twin, which must not go beyond it."""
    if index < 0 or count < 0 or index + count > array.size:
        raise IndexError(f"lanes [{index}, {index + count}) of an array of {array.size}")
    return array[index : index + count]


def _load(array: Any, index: int) -> Any:
    return as_vector(checked_slice(array, index, _lanes(array)).copy())


@twin(_load)
def load(typing_context, array, index):
    """The vector ``array[index : index + lanes(array)]``."""
    vector = vector_of(array)

    def generate(context, builder, sig, args):
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1], vector)
        return llvm.load(builder, pointer, _llvm(context, vector))

    return vector(array, types.intp), generate


def _load_part(array: Any, index: int, count: int, others: Any) -> Any:
    count = min(count, others.size)
    _require_same_type(array, others)
    vector = others.copy()
    vector[:count] = checked_slice(array, index, count)
    return vector


@twin(_load_part)
def load_part(typing_context, array, index, count, others):
    """The vector of ``array[index : index + count]``; its further lanes are those of `others`.

    A count beyond the lanes means all of them. There are as many lanes as in `others`.
    """
    vector = vector_of(array)
    if isinstance(others, VectorType):
        vector = VectorType(vector.dtype, others.count)
    _require(others == vector, f"others of {vector}, not {others}")

    def generate(context, builder, sig, args):
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1], vector)
        mask = llvm.first_lanes(builder, args[2], _llvm(context, vector))
        return llvm.masked_load(builder, pointer, mask, args[3])

    return vector(array, types.intp, types.intp, vector), generate


def _require_same_type(array: Any, vector: Any) -> None:
    if array.dtype != vector.dtype:
        raise TypeError(f"a vector of {vector.dtype} for an array of {array.dtype}")


def _require_writable(array: Any, vector: Any, *, any_count: bool = False) -> None:
    """Refuses, when compiling, what would write beyond or beside the elements."""
    expected = vector_of(array)
    if any_count and isinstance(vector, VectorType):
        expected = VectorType(expected.dtype, vector.count)
    _require(array.mutable, f"a writable array, not {array}")
    _require(vector == expected, f"a {expected} for {array}, not {vector}")


def _store(array: Any, index: int, vector: Any) -> None:
    _require_same_type(array, vector)
    checked_slice(array, index, vector.size)[...] = vector


@twin(_store)
def store(typing_context, array, index, vector):
    """Writes a vector to ``array[index : index + lanes]``."""
    _require_writable(array, vector)

    def generate(context, builder, sig, args):
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1], sig.args[2])
        llvm.store(builder, args[2], pointer)
        return context.get_dummy_value()

    return types.none(array, types.intp, vector), generate


def _store_part(array: Any, index: int, vector: Any, count: int) -> None:
    count = min(count, vector.size)
    _require_same_type(array, vector)
    checked_slice(array, index, count)[...] = vector[:count]


@twin(_store_part)
def store_part(typing_context, array, index, vector, count):
    """Writes the first `count` lanes of a vector to ``array[index : index + count]``.

    A count beyond the lanes means all of them.
    """
    _require_writable(array, vector, any_count=True)

    def generate(context, builder, sig, args):
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1], sig.args[2])
        mask = llvm.first_lanes(builder, args[3], args[2].type)
        llvm.masked_store(builder, args[2], pointer, mask)
        return context.get_dummy_value()

    return types.none(array, types.intp, vector, types.intp), generate


def _store_stream(array: Any, index: int, vector: Any) -> None:
    if (array.ctypes.data + index * array.itemsize) % target.register_bytes():
        raise IndexError(f"a streaming store to element {index} is not aligned")
    _store(array, index, vector)


@twin(_store_stream)
def store_stream(typing_context, array, index, vector):
    """Writes a vector past the caches; the address must be a multiple of a register's bytes.

    The vector may be of fewer lanes: those of a register, say.
    """
    _require_writable(array, vector, any_count=True)

    def generate(context, builder, sig, args):
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1], sig.args[2])
        written = builder.store(args[2], pointer, align=target.register_bytes())
        one = builder.module.add_metadata([llvm.INT32(1)])
        written.set_metadata("nontemporal", one)
        return context.get_dummy_value()

    return types.none(array, types.intp, vector), generate


def _misalignment(array: Any, index: int) -> int:
    address = array.ctypes.data + index * array.itemsize
    if address % array.itemsize:
        return _NEVER
    return int(-address % target.register_bytes() // array.itemsize)


@twin(_misalignment)
def misalignment(typing_context, array, index):
    """Elements from ``array[index]`` on to the next address that `store_stream` may write to.

    More than any array has, if the array lies between the addresses of its element type.
    """
    vector_of(array)

    def generate(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        word = llvm.INTP
        itemsize = sig.args[0].dtype.bitwidth // 8
        address = builder.ptrtoint(builder.gep(data, [args[1]]), word)
        bytes_ = builder.and_(builder.neg(address), word(target.register_bytes() - 1))
        count = builder.udiv(bytes_, word(itemsize))
        beside = builder.and_(address, word(itemsize - 1))
        return builder.select(builder.icmp_unsigned("==", beside, word(0)), count, word(_NEVER))

    return types.intp(array, types.intp), generate


def _prefetch(array: Any, index: int) -> None:
    pass


@twin(_prefetch)
def prefetch(typing_context, array, index):
    """Asks for the cache line of ``array[index]``; any index is allowed, nothing is read."""
    vector_of(array)

    def generate(context, builder, sig, args):
        byte_pointer = ir.IntType(8).as_pointer()
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        pointer = builder.bitcast(builder.gep(data, [args[1]]), byte_pointer)
        read, keep_everywhere, data_cache = (llvm.INT32(n) for n in (0, 3, 1))
        arguments = [pointer, read, keep_everywhere, data_cache]
        llvm.call(builder, "prefetch.p0", ir.VoidType(), arguments)
        return context.get_dummy_value()

    return types.none(array, types.intp), generate


# --- arithmetic -----------------------------------------------------------------------------


def _splat(like: Any, value: float) -> Any:
    count = like.size if isinstance(like, Vector) else _lanes(like)
    with np.errstate(over="ignore"):
        return as_vector(np.full(count, value, like.dtype))


@twin(_splat)
def splat(typing_context, like, value):
    """A vector with `value` in every lane, rounded to the element type of `like`.

    `like` is an array or another vector.
    """
    vector = like if isinstance(like, VectorType) else vector_of(like)

    def generate(context, builder, sig, args):
        scalar = context.cast(builder, args[1], sig.args[1], vector.dtype)
        return llvm.broadcast(builder, scalar, _llvm(context, vector))

    return vector(like, value), generate


def _splat_register(array: Any, value: float) -> Any:
    with np.errstate(over="ignore"):
        return as_vector(np.full(_lanes_of_register(array), value, array.dtype))


@twin(_splat_register)
def splat_register(typing_context, array, value):
    """`splat` in a vector of one register: the lanes of the array's elements in it."""
    vector_of(array)
    vector = VectorType(array.dtype, register_lanes(array.dtype.bitwidth // 8))

    def generate(context, builder, sig, args):
        scalar = context.cast(builder, args[1], sig.args[1], vector.dtype)
        return llvm.broadcast(builder, scalar, _llvm(context, vector))

    return vector(array, value), generate


def _splat_half(array: Any, value: float) -> Any:
    with np.errstate(over="ignore"):
        return as_vector(np.full(_lanes(array) // 2, value, array.dtype))


@twin(_splat_half)
def splat_half(typing_context, array, value):
    """`splat` in a vector of half the lanes, for loops over several such sums."""
    vector = vector_of(array)
    vector = VectorType(array.dtype, vector.count // 2)

    def generate(context, builder, sig, args):
        scalar = context.cast(builder, args[1], sig.args[1], vector.dtype)
        return llvm.broadcast(builder, scalar, _llvm(context, vector))

    return vector(array, value), generate


def _fma(a: Any, b: Any, c: Any) -> Any:
    if a.dtype == np.float32 and target.has_fma():
        with np.errstate(over="ignore", invalid="ignore"):  # beyond the last column is anything
            return (a.astype(np.float64) * b + c).astype(np.float32)
    return a * b + c


@twin(_fma)
def fma(typing_context, a, b, c):
    """``a * b + c``, rounded once where the target can.

    The twin rounds twice: in float32 the first time to float64, in float64 as if nothing could.
    """

    def generate(context, builder, sig, args):
        return llvm.fma(builder, *args)

    return a(a, a, a), generate


def _select(mask: Any, a: Any, b: Any) -> Any:
    return as_vector(np.where(mask, a, b))


@twin(_select)
def select(typing_context, mask, a, b):
    """The lanes of `a` where the mask is set, those of `b` elsewhere."""

    def generate(context, builder, sig, args):
        return builder.select(*args)

    return a(mask, a, a), generate


def _blend(count: int, a: Any, b: Any) -> Any:
    blended = b.copy()
    blended[:count] = a[:count]
    return blended


@twin(_blend)
def blend(typing_context, count, a, b):
    """The first `count` lanes of `a`, and those of `b` beyond."""

    def generate(context, builder, sig, args):
        mask = llvm.first_lanes(builder, args[0], args[1].type)
        return builder.select(mask, args[1], args[2])

    return a(types.intp, a, a), generate


def _total(vector: Any) -> float:
    vector = _widen(vector)
    while vector.size > 1:
        half = vector.size // 2
        vector = vector[:half] + vector[half:]
    return float(vector[0])


@twin(_total)
def total(typing_context, vector):
    """The sum of all lanes in float64, halves added pairwise: the same order everywhere."""

    def generate(context, builder, sig, args):
        value = _widened(builder, args[0])
        while value.type.count > 1:
            half = value.type.count // 2
            low = llvm.shuffle(builder, value, None, range(half))
            high = llvm.shuffle(builder, value, None, range(half, 2 * half))
            value = builder.fadd(low, high)
        return builder.extract_element(value, llvm.INT32(0))

    return types.float64(vector), generate


def _widen(vector: Any) -> Any:
    return vector.astype(np.float64)


def _widened(builder, value):
    double = ir.VectorType(ir.DoubleType(), value.type.count)
    return value if value.type == double else builder.fpext(value, double)


@twin(_widen)
def widen(typing_context, vector):
    """The vector with float64 lanes."""

    def generate(context, builder, sig, args):
        return _widened(builder, args[0])

    return VectorType(types.float64, vector.count)(vector), generate


def _require_sums(sums: Any) -> None:
    vector_of(sums)
    _require(sums.dtype == types.float64 and sums.mutable, f"writable float64 sums, not {sums}")


def _accumulate(sums: Any, index: int, vector: Any) -> None:
    lanes = checked_slice(sums, index, vector.size)
    lanes += _widen(vector)


@twin(_accumulate)
def accumulate(typing_context, sums, index, vector):
    """Adds the lanes of a vector to the float64 ``sums[index : index + lanes]``."""
    wide = VectorType(types.float64, vector.count)
    _require_sums(sums)

    def generate(context, builder, sig, args):
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1], wide)
        old = llvm.load(builder, pointer, _llvm(context, wide))
        llvm.store(builder, builder.fadd(old, _widened(builder, args[2])), pointer)
        return context.get_dummy_value()

    return types.none(sums, types.intp, vector), generate


def _accumulate_part(sums: Any, index: int, vector: Any, count: int) -> None:
    lanes = checked_slice(sums, index, min(count, vector.size))
    lanes += _widen(vector)[: lanes.size]


@twin(_accumulate_part)
def accumulate_part(typing_context, sums, index, vector, count):
    """Adds the first `count` lanes of a vector to the float64 ``sums[index : index + count]``.

    A count beyond the lanes means all of them.
    """
    wide = VectorType(types.float64, vector.count)
    _require_sums(sums)

    def generate(context, builder, sig, args):
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1], wide)
        value = _llvm(context, wide)
        mask = llvm.first_lanes(builder, args[3], value)
        old = llvm.masked_load(builder, pointer, mask, ir.Constant(value, None))
        llvm.masked_store(builder, builder.fadd(old, _widened(builder, args[2])), pointer, mask)
        return context.get_dummy_value()

    return types.none(sums, types.intp, vector, types.intp), generate
