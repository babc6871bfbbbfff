"""The pieces of LLVM that intrinsics are built of: vectors, shuffles, masks and calls.

Each function adds to the code of a `builder` and returns the value. A `vector` is the LLVM type of
some lanes of float or double; a *mask* has a bit for each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from nbnorm.jit import target

INT32 = ir.IntType(32)
INTP = ir.IntType(types.intp.bitwidth)


def element_bytes(vector: ir.VectorType) -> int:
    """Bytes of one lane: what a load or store is aligned to, for it may begin at any element."""
    return 4 if isinstance(vector.element, ir.FloatType) else 8


def vector_suffix(vector: ir.VectorType) -> str:
    """What LLVM appends to the name of an intrinsic on this vector: ``v64f32``."""
    return f"v{vector.count}f{8 * element_bytes(vector)}"


def call(builder: Any, name: str, result: Any, arguments: Sequence[Any]) -> Any:
    """Calls LLVM's intrinsic ``llvm.<name>``."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}")
    return builder.call(function, arguments)


# --- lanes ----------------------------------------------------------------------------------


def shuffle(builder: Any, first: Any, second: Any, lanes: Sequence[int]) -> Any:
    """A vector of chosen lanes of two vectors, those of `second` numbered after those of `first`.

    `second` may be None where none of its lanes is chosen.
    """
    if second is None:
        second = ir.Constant(first.type, ir.Undefined)
    chosen = ir.Constant(ir.VectorType(INT32, len(lanes)), list(lanes))
    return builder.shuffle_vector(first, second, chosen)


def broadcast(builder: Any, scalar: Any, vector: ir.VectorType) -> Any:
    """The scalar in all lanes; `vector` may be one of integers."""
    single = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, INT32(0))
    return shuffle(builder, single, None, [0] * vector.count)


def fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c``, rounded once where the target can."""
    if not target.has_fma():
        return builder.fadd(builder.fmul(a, b), c)
    return call(builder, f"fma.{vector_suffix(a.type)}", a.type, [a, b, c])


# --- memory ---------------------------------------------------------------------------------


def vector_at(builder: Any, data: Any, index: Any, vector: ir.VectorType) -> Any:
    """The address ``data + index``, in elements, as that of a vector."""
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def load(builder: Any, pointer: Any, vector: ir.VectorType) -> Any:
    """The vector at an address."""
    return builder.load(pointer, align=element_bytes(vector))


def store(builder: Any, value: Any, pointer: Any) -> None:
    """Writes a vector to an address."""
    builder.store(value, pointer, align=element_bytes(value.type))


def first_lanes(builder: Any, count: Any, vector: ir.VectorType) -> Any:
    """The mask of the first `count` lanes; of all of them if there are fewer."""
    lane = ir.IntType(8 * element_bytes(vector))
    lanes = ir.VectorType(lane, vector.count)
    # A count beyond the lanes would not fit the narrow lane index: clamp it first.
    limit = count.type(vector.count)
    count = builder.select(builder.icmp_signed("<", count, limit), count, limit)
    count = builder.trunc(count, lane) if lane.width < count.type.width else count
    numbers = ir.Constant(lanes, list(range(vector.count)))
    return builder.icmp_signed("<", numbers, broadcast(builder, count, lanes))


def mask_if(builder: Any, condition: Any, mask: Any) -> Any:
    """The mask if the condition holds, else that of no lane."""
    return builder.select(condition, mask, ir.Constant(mask.type, None))


def masked_load(builder: Any, pointer: Any, mask: Any, others: Any) -> Any:
    """The lanes of the mask, and those of `others` elsewhere, where memory is not touched."""
    name = f"masked.load.{vector_suffix(others.type)}.p0"
    alignment = INT32(element_bytes(others.type))
    return call(builder, name, others.type, [pointer, alignment, mask, others])


def masked_store(builder: Any, value: Any, pointer: Any, mask: Any) -> None:
    """Writes the lanes of the mask."""
    name = f"masked.store.{vector_suffix(value.type)}.p0"
    alignment = INT32(element_bytes(value.type))
    call(builder, name, ir.VoidType(), [value, pointer, alignment, mask])
