"""Functions of a vector's lanes: absolute value, square root, rounding, exponential, logarithm.

The first three are instructions of the target. The exponential is not, and Numba calls the C
library for every single one (3.5 ns each); here it is a polynomial on whole vectors. The method is
the classical one (Cody and Waite, *Software Manual for the Elementary Functions*, 1980, chapter 6):
with n = round(v / ln 2) and r = v - n ln 2 in two exact steps, exp(v) = 2^n exp(r), where
|r| <= ln 2 / 2 lets a Taylor polynomial of degree 7 (13 in float64) end below the last bit. From
the same parts, exp(v) - 1 = 2^n (exp(r) - 1) + (2^n - 1) cancels nothing near 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir

from nbnorm.jit import llvm
from nbnorm.jit.options import inlined
from nbnorm.jit.simd import fma, splat, vector_of
from nbnorm.jit.vectors import VectorType, as_vector, twin


class _Format(NamedTuple):
    """What the method needs to know of an IEEE type."""

    mantissa_bits: int
    bias: int
    degree: int
    ln2_high: float  # few enough bits that n * ln2_high is exact
    ln2_low: float
    largest: float  # exp of more than this is inf: 2^n would be, though exp is not always
    smallest: float  # exp of less than this is 0: it would be subnormal


_FORMATS = {
    32: _Format(23, 127, 7, 0.693145751953125, 1.4286067653302e-06, 88.37, -87.33),
    64: _Format(52, 1023, 13, 0.6931471803691238, 1.9082149292705877e-10, 709.4, -708.3),
}


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


def _upper_half(vector: Any) -> Any:
    integers = vector.view(f"i{vector.itemsize}")
    return (integers & ~_lower_bits(8 * vector.itemsize)).view(vector.dtype)


@twin(_upper_half)
def upper_half(typing_context, vector):
    """The lanes with the lower half of their mantissas 0: their squares are exact."""
    mask = ~_lower_bits(vector.dtype.bitwidth)

    def generate(context, builder, sig, args):
        integers = ir.VectorType(ir.IntType(vector.dtype.bitwidth), vector.count)
        masked = builder.and_(builder.bitcast(args[0], integers), _number(integers, mask))
        return builder.bitcast(masked, args[0].type)

    return vector(vector), generate


def _lower_bits(bits: int) -> int:
    return (1 << (_FORMATS[bits].mantissa_bits + 2) // 2) - 1


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

    def generate(context, builder, sig, args):
        (v,) = args
        r, scale = _reduced(builder, v)
        polynomial = _horner(builder, r, _taylor_of_exp(v.type, first=0))
        return _within_range(builder, v, builder.fmul(polynomial, scale), below=0.0)

    return vector(vector), generate


def _expm1(vector: Any) -> Any:
    form = _FORMATS[8 * vector.itemsize]
    result = np.expm1(vector)
    result[vector > vector.dtype.type(form.largest)] = math.inf
    return result


@twin(_expm1)
def expm1(typing_context, vector):
    """The exponential of each lane less 1, at most 2 units in the last place off.

    It is inf where `exp` is, -1 where that is 0, and NaN for NaN.
    """

    def generate(context, builder, sig, args):
        (v,) = args
        r, scale = _reduced(builder, v)
        above_linear = _horner(builder, r, _taylor_of_exp(v.type, first=2))
        less_1 = llvm.fma(builder, builder.fmul(r, r), above_linear, r)
        scale_less_1 = builder.fsub(scale, _number(v.type, 1.0))
        result = llvm.fma(builder, scale, less_1, scale_less_1)
        return _within_range(builder, v, result, below=-1.0)

    return vector(vector), generate


def _format_of(vector: ir.VectorType) -> _Format:
    return _FORMATS[8 * llvm.element_bytes(vector)]


def _number(vector: ir.VectorType, value: float) -> Any:
    return ir.Constant(vector, [value] * vector.count)


def _reduced(builder, v):
    """The r and the 2^n of ``v = n ln 2 + r``."""
    form = _format_of(v.type)
    integers = ir.VectorType(ir.IntType(8 * llvm.element_bytes(v.type)), v.type.count)
    # Adding 1.5 * 2^mantissa_bits rounds to an integer, which then stands in the low bits.
    shift = _number(v.type, 1.5 * 2.0**form.mantissa_bits)
    shifted = llvm.fma(builder, v, _number(v.type, 1 / math.log(2)), shift)
    n = builder.fsub(shifted, shift)
    r = llvm.fma(builder, n, _number(v.type, -form.ln2_high), v)
    r = llvm.fma(builder, n, _number(v.type, -form.ln2_low), r)
    biased = builder.add(builder.bitcast(shifted, integers), _number(integers, form.bias))
    scale = builder.shl(biased, _number(integers, form.mantissa_bits))
    return r, builder.bitcast(scale, v.type)


def _taylor_of_exp(vector: ir.VectorType, first: int) -> list[float]:
    """Coefficients from that of the power `first` on."""
    return [1 / math.factorial(power) for power in range(first, _format_of(vector).degree + 1)]


def _horner(builder, v, coefficients):
    """The polynomial of v with these coefficients, the constant one first."""
    *others, result = (_number(v.type, coefficient) for coefficient in coefficients)
    for coefficient in reversed(others):
        result = llvm.fma(builder, result, v, coefficient)
    return result


def _within_range(builder, v, result, below):
    """The result, but inf or `below` where the exponential of v is beyond the normal range."""
    form = _format_of(v.type)
    too_large = builder.fcmp_ordered(">", v, _number(v.type, form.largest))
    result = builder.select(too_large, _number(v.type, math.inf), result)
    too_small = builder.fcmp_ordered("<", v, _number(v.type, form.smallest))
    return builder.select(too_small, _number(v.type, below), result)


def polynomial(float32: Sequence[float], float64: Sequence[float]) -> Any:
    """A function of a vector: the polynomial with its type's coefficients, the constant first."""
    coefficients = {4: float32, 8: float64}

    def evaluated(vector: Any) -> Any:
        *others, last = coefficients[vector.itemsize]
        result = splat(vector, last)
        for coefficient in reversed(others):
            result = fma(result, vector, splat(vector, coefficient))
        return result

    @twin(evaluated)
    def evaluate(typing_context, vector):
        """The polynomial of each lane."""

        def generate(context, builder, sig, args):
            return _horner(builder, args[0], coefficients[vector.dtype.bitwidth // 8])

        return vector(vector), generate

    return evaluate


# log(1 + v) = 2 artanh(s) with s = v / (2 + v), and artanh(s) / s = 1 + s^2 / 3 + s^4 / 5 + ...,
# where s <= 1/3: so many terms end below the last bit.
_artanh = polynomial(
    float32=[1 / (2 * k + 1) for k in range(1, 9)],
    float64=[1 / (2 * k + 1) for k in range(1, 17)],
)


@inlined
def log1p(v):
    """log(1 + v) of each lane, for v from 0 to 1: at most 2 units in the last place off."""
    s = v / (v + splat(v, 2.0))
    s_squared = s * s
    twice = s + s
    return fma(twice * s_squared, _artanh(s_squared), twice)
