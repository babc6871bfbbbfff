"""Activations of vectors, and their gradients.

An activation reaches a kernel as None or as an instance of one of the classes below, whose fields
are its parameters: finite numbers. Numba compiles a kernel once for each of these types, so no loop
ever asks which activation it has, and what nobody uses is not compiled.

The docstring of a class is its formula and, in a sentence of its own, what its derivative is where
it jumps. The methods take and return vectors:

value       the activation of z
gradient    dy times the derivative at z

NaN stays NaN in both. A class and its line in `ACTIVATIONS` are all that the library needs for a
new activation, and its reference (reference/activation.py) all that the tests need.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba.core import types

from nbnorm.jit.elementary import exp
from nbnorm.jit.normal import LARGEST, normal_distribution
from nbnorm.jit.options import by_type, inlined
from nbnorm.jit.simd import fma, select, splat


@inlined
def _at_least(z, bound):
    """The larger of z and a number; NaN stays NaN."""
    bound = splat(z, bound)
    return select(z < bound, bound, z)


@inlined
def _at_most(z, bound):
    """The smaller of z and a number; NaN stays NaN."""
    bound = splat(z, bound)
    return select(z > bound, bound, z)


@inlined
def _unless_nan(z, value):
    """`value` in the lanes where z <= 0, NaN where z is NaN."""
    return select(z < splat(z, 1.0), value, z)


class ReLU(NamedTuple):
    """max(z, 0). The derivative at 0 is 0."""

    def value(self, z):
        return _at_least(z, 0.0)

    def gradient(self, dy, z):
        zero = splat(z, 0.0)
        return select(z > zero, dy, _unless_nan(z, zero))


class LeakyReLU(NamedTuple):
    """z where z > 0, else slope z. The derivative at 0 is the slope."""

    slope: float = 0.01

    def value(self, z):
        return select(z < splat(z, 0.0), splat(z, self.slope) * z, z)

    def gradient(self, dy, z):
        return select(z > splat(z, 0.0), dy, _unless_nan(z, splat(z, self.slope) * dy))


class GELU(NamedTuple):
    """z Phi(z), where Phi is the normal distribution function (not its approximation by tanh)."""

    # Beyond LARGEST, Phi(-z) and phi(z) are 0, and the product with z is to be 0 for infinity too.

    def value(self, z):
        _, distribution = normal_distribution(z)
        return _at_least(z, -LARGEST) * distribution

    def gradient(self, dy, z):
        density, distribution = normal_distribution(z)
        return dy * fma(_at_most(_at_least(z, -LARGEST), LARGEST), density, distribution)


class SiLU(NamedTuple):
    """z / (1 + exp(-z))."""

    def value(self, z):
        one = splat(z, 1.0)
        return z / (one + exp(splat(z, 0.0) - z))

    def gradient(self, dy, z):
        # With s = 1 / (1 + e) and e = exp(-z):  silu' = s + z s (1 - s), where 1 - s is e s without
        # its rounding error. Below -80 silu' is 0 to float32's and float64's last digit; stopping
        # there keeps e finite.
        one = splat(z, 1.0)
        z = _at_least(z, -80.0)
        e = exp(splat(z, 0.0) - z)
        s = one / (one + e)
        return dy * fma(z * s, e * s, s)


class Mish(NamedTuple):
    """z tanh(log(1 + exp(z)))."""

    # tanh(log(1 + e)) = w / (w + 2) with e = exp(z) and w = e (e + 2). From z = 20 on the quotient
    # is 1 in float64 too, and stopping there keeps w^2 within float32's range.

    def value(self, z):
        two = splat(z, 2.0)
        e = exp(_at_most(z, 20.0))
        w = e * (e + two)
        return z * (w / (w + two))

    def gradient(self, dy, z):
        # With t = w / (w + 2):  mish' = t + z 4 e (1 + e) / (w + 2)^2
        one, two, four = splat(z, 1.0), splat(z, 2.0), splat(z, 4.0)
        z = _at_most(z, 20.0)
        e = exp(z)
        w = e * (e + two)
        r = one / (w + two)
        return dy * fma(z * r, four * e * (one + e) * r, w * r)


# By the name that is given as an argument, with the default parameters.
ACTIVATIONS: dict[str, Any] = {
    "relu": ReLU(),
    "leaky_relu": LeakyReLU(),
    "gelu": GELU(),
    "silu": SiLU(),
    "mish": Mish(),
}


def activate(activation: Any, z: Any) -> Any:
    """The activation of the vector `z`; None is the identity."""
    return z if activation is None else activation.value(z)


def activation_gradient(activation: Any, dy: Any, z: Any) -> Any:
    """`dy` times the activation's derivative at `z`."""
    return dy if activation is None else activation.gradient(dy, z)


@by_type(activate)
def _overload_activate(activation, z):
    if activation == types.none:
        return lambda activation, z: z
    return activation.instance_class.value


@by_type(activation_gradient)
def _overload_activation_gradient(activation, dy, z):
    if activation == types.none:
        return lambda activation, dy, z: dy
    return activation.instance_class.gradient
