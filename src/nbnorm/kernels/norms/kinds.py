"""What tells the L1 norm from the L2 norm, for vectors.

As an activation, an order reaches a kernel as an instance of one of the tuples below, and Numba
compiles the kernel once for each.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from nbnorm.jit.elementary import absolute, square_root
from nbnorm.jit.options import by_type, inlined
from nbnorm.jit.simd import fma, select, splat
from nbnorm.jit.vectors import Vector, VectorType


class L1(NamedTuple):
    """sum(|x|)."""


class L2(NamedTuple):
    """sqrt(sum(x^2))."""


@inlined
def signed(v, value):
    """`value` with the sign of v: minus value where v < 0, 0 where v is 0, NaN where v is NaN."""
    zero = splat(v, 0.0)
    return select(v > zero, value, select(v < zero, zero - value, v * zero))


def _add_magnitude(sums, v, order):
    return sums + absolute(v)


def _add_square(sums, v, order):
    return fma(v, v, sums)


def _same(value, order):
    return value


def _root(value, order):
    return math.sqrt(value)


def _roots(value, order):
    return square_root(value)


def _subtract_sign(g, v, y, along, order):
    return g - signed(v, along)


def _subtract_multiple(g, v, y, along, order):
    return g - y * along


def _weigh_sign(v, weight, order):
    return signed(v, weight)


def _weigh(v, weight, order):
    return v * weight


_SUMMANDS: dict[type, Any] = {L1: _add_magnitude, L2: _add_square}
_ROOTS: dict[type, Any] = {L1: (_same, _same), L2: (_root, _roots)}  # of a number, of a vector
_DIRECTIONS: dict[type, Any] = {L1: _subtract_sign, L2: _subtract_multiple}
_PENALTIES: dict[type, Any] = {L1: _weigh_sign, L2: _weigh}


def add(sums: Any, v: Any, order: Any) -> Any:
    """Sums plus abs(v) or v^2."""
    return _SUMMANDS[type(order)](sums, v, order)


def root(value: Any, order: Any) -> Any:
    """The norm of what has such a sum, a number or a vector."""
    return _ROOTS[type(order)][isinstance(value, Vector)](value, order)


def without(g: Any, v: Any, y: Any, along: Any, order: Any) -> Any:
    """The gradient `g` of y less `along` times that of the norm: sign(v), or y."""
    return _DIRECTIONS[type(order)](g, v, y, along, order)


def penalty_gradient(v: Any, weight: Any, order: Any) -> Any:
    """The gradient of weight sum(|v|), or of weight / 2 sum(v^2)."""
    return _PENALTIES[type(order)](v, weight, order)


@by_type(add)
def _overload_add(sums, v, order):
    return _SUMMANDS[order.instance_class]


@by_type(root)
def _overload_root(value, order):
    return _ROOTS[order.instance_class][isinstance(value, VectorType)]


@by_type(without)
def _overload_without(g, v, y, along, order):
    return _DIRECTIONS[order.instance_class]


@by_type(penalty_gradient)
def _overload_penalty_gradient(v, weight, order):
    return _PENALTIES[order.instance_class]
