"""The operations that differ between the L1 and the L2 norm.

A kind of norm reaches a kernel as an instance of one of the classes below, as an activation does,
and Numba compiles the kernel once for each. The methods take and return vectors, but for `root`:

add                  sums plus the summands of v
lifted               what a sum becomes of numbers that are `lift` times as large
root, roots          the norm of a sum, a number or a vector
subtract_projection  the gradient g of y less `projection` times that of the norm, where y = v / d
penalty_gradient     the gradient of weight sum(|v|), or of weight / 2 sum(v^2)
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from nbnorm.jit.elementary import absolute, square_root
from nbnorm.jit.options import by_type, inlined
from nbnorm.jit.simd import fma, select, splat


@inlined
def signed(v, value):
    """`value` with the sign of v: minus value where v < 0, 0 where v is 0, NaN where v is NaN."""
    zero = splat(v, 0.0)
    return select(v > zero, value, select(v < zero, zero - value, v * zero))


class L1(NamedTuple):
    """sum(|x|)."""

    def add(self, sums, v):
        return sums + absolute(v)

    def lifted(self, total, lift):
        return total * lift

    def root(self, total):
        return total

    def roots(self, totals):
        return totals

    def subtract_projection(self, g, v, y, projection):
        return g - signed(v, projection)

    def penalty_gradient(self, v, weight):
        return signed(v, weight)


class L2(NamedTuple):
    """sqrt(sum(x^2))."""

    def add(self, sums, v):
        return fma(v, v, sums)

    def lifted(self, total, lift):
        return total * lift * lift

    def root(self, total):
        return math.sqrt(total)

    def roots(self, totals):
        return square_root(totals)

    def subtract_projection(self, g, v, y, projection):
        return g - y * projection

    def penalty_gradient(self, v, weight):
        return v * weight


def add(kind: Any, sums: Any, v: Any) -> Any:
    """Sums plus abs(v) or v^2."""
    return kind.add(sums, v)


def lifted(kind: Any, total: Any, lift: Any) -> Any:
    """A sum times lift, or lift^2; both are numbers or both are vectors."""
    return kind.lifted(total, lift)


def root(kind: Any, total: Any) -> Any:
    """The norm whose sum is a number."""
    return kind.root(total)


def roots(kind: Any, totals: Any) -> Any:
    """The norms whose sums are a vector."""
    return kind.roots(totals)


def subtract_projection(kind: Any, g: Any, v: Any, y: Any, projection: Any) -> Any:
    """The gradient `g` of y less `projection` times that of the norm: sign(v), or y."""
    return kind.subtract_projection(g, v, y, projection)


def penalty_gradient(kind: Any, v: Any, weight: Any) -> Any:
    """The gradient of weight sum(|v|), or of weight / 2 sum(v^2)."""
    return kind.penalty_gradient(v, weight)


@by_type(add)
def _overload_add(kind, sums, v):
    return kind.instance_class.add


@by_type(lifted)
def _overload_lifted(kind, total, lift):
    return kind.instance_class.lifted


@by_type(root)
def _overload_root(kind, total):
    return kind.instance_class.root


@by_type(roots)
def _overload_roots(kind, totals):
    return kind.instance_class.roots


@by_type(subtract_projection)
def _overload_subtract_projection(kind, g, v, y, projection):
    return kind.instance_class.subtract_projection


@by_type(penalty_gradient)
def _overload_penalty_gradient(kind, v, weight):
    return kind.instance_class.penalty_gradient
