"""Functions of a vector's lanes: absolute value, square root, rounding, exponential.

The first three are instructions of the target. The exponential is not, and Numba calls the C
library for every single one (3.5 ns each); here it is a polynomial on whole vectors. The method is
the classical one (Cody and Waite, *Software Manual for the Elementary Functions*, 1980, chapter 6):
with n = round(v / ln 2) and r = v - n ln 2 in two exact steps, exp(v) = 2^n exp(r), where
|r| <= ln 2 / 2 lets a Taylor polynomial of degree 7 (13 in float64) end below the last bit.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir

from nbnorm.jit import llvm
from nbnorm.jit.simd import vector_of
from nbnorm.jit.vectors import VectorType, as_vector, twin


class _Format(NamedTuple):
    """What the method needs to know of an IEEE type."""

    mantissa_bits: int
    bias: int
    degree: int
    ln2_high: float  # few enough bits that n * ln2_high is exact
    largest: float  # exp of more than this is inf: 2^n would be, though exp is not always
    smallest: float  # exp of less than this is 0: it would be subnormal


_FORMATS = {
    32: _Format(23, 127, 7, 0.693145751953125, 88.37, -87.33),
    64: _Format(52, 1023, 13, 0.6931471803691238, 709.4, -708.3),
}
_LN2_LOW = {32: 1.4286067653302e-06, 64: 1.9082149292705877e-10}


def _call(builder, name, value):
    """LLVM's intrinsic of one vector."""
    return llvm.call(builder, f"{name}.{llvm.vector_suffix(value.type)}", value.type, [value])


def _absolute(vector: Any) -> Any:
    return abs(vector)


@twin(_absolute)
def absolute(typing_context, vector):
    """The lanes without their signs."""

    def generate(context, builder, sig, args):
        return _call(builder, "fabs", args[0])

    return vector(vector), generate


def _square_root(vector: Any) -> Any:
    return np.sqrt(vector)


@twin(_square_root)
def square_root(typing_context, vector):
    """The square root of each lane, rounded correctly; NaN below 0."""

    def generate(context, builder, sig, args):
        return _call(builder, "sqrt", args[0])

    return vector(vector), generate


def _narrow(like: Any, vector: Any) -> Any:
    with np.errstate(over="ignore", under="ignore"):
        return as_vector(np.asarray(vector, like.dtype))


@twin(_narrow)
def narrow(typing_context, like, vector):
    """The float64 lanes of a vector in the element type of an array, the opposite of `widen`."""
    target = VectorType(vector_of(like).dtype, vector.count)

    def generate(context, builder, sig, args):
        if sig.return_type == sig.args[1]:
            return args[1]
        return builder.fptrunc(args[1], context.get_value_type(sig.return_type))

    return target(like, vector), generate


def _exp(vector: Any) -> Any:
    form = _FORMATS[8 * vector.itemsize]
    result = np.exp(vector)
    result[vector > vector.dtype.type(form.largest)] = math.inf
    result[vector < vector.dtype.type(form.smallest)] = 0.0
    return result


@twin(_exp)
def exp(typing_context, vector):
    """The exponential of each lane, at most 0.9 units in the last place off (1.2 without fma).

    It is inf from 88.37 on in float32 (709.4 in float64), a little below the end of the type's
    range, 0 below its normal range, and NaN for NaN.
    """
    bits = vector.dtype.bitwidth
    form = _FORMATS[bits]

    def generate(context, builder, sig, args):
        (v,) = args
        integers = ir.VectorType(ir.IntType(bits), vector.count)

        def number(value):
            return ir.Constant(v.type, [value] * vector.count)

        def integer(value):
            return ir.Constant(integers, [value] * vector.count)

        # Adding 1.5 * 2^mantissa_bits rounds to an integer, which then stands in the low bits.
        shift = number(1.5 * 2.0**form.mantissa_bits)
        shifted = llvm.fma(builder, v, number(1 / math.log(2)), shift)
        n = builder.fsub(shifted, shift)
        r = llvm.fma(builder, n, number(-form.ln2_high), v)
        r = llvm.fma(builder, n, number(-_LN2_LOW[bits]), r)
        polynomial = number(1 / math.factorial(form.degree))
        for power in reversed(range(form.degree)):
            polynomial = llvm.fma(builder, polynomial, r, number(1 / math.factorial(power)))
        biased = builder.add(builder.bitcast(shifted, integers), integer(form.bias))
        scale = builder.bitcast(builder.shl(biased, integer(form.mantissa_bits)), v.type)
        result = builder.fmul(polynomial, scale)
        too_large = builder.fcmp_ordered(">", v, number(form.largest))
        result = builder.select(too_large, number(math.inf), result)
        too_small = builder.fcmp_ordered("<", v, number(form.smallest))
        return builder.select(too_small, number(0.0), result)

    return vector(vector), generate
