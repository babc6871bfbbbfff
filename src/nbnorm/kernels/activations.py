"""Activations of vectors, and their derivatives.

An activation reaches a kernel as None or as an instance of one of the tuples below. Numba compiles
a kernel once for each of these types, so no loop ever asks which activation it has.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba.core import types

from nbnorm.jit.elementary import exp
from nbnorm.jit.options import by_type, inlined
from nbnorm.jit.simd import fma, select, splat


class ReLU(NamedTuple):
    """max(z, 0)."""


class LeakyReLU(NamedTuple):
    """z where z > 0, else slope z."""

    slope: float


class SiLU(NamedTuple):
    """z / (1 + exp(-z))."""


class Mish(NamedTuple):
    """z tanh(log(1 + exp(z)))."""


def _identity(z, activation):
    return z


def _relu(z, activation):
    zero = splat(z, 0.0)
    return select(z < zero, zero, z)


def _leaky_relu(z, activation):
    return select(z < splat(z, 0.0), splat(z, activation.slope) * z, z)


def _silu(z, activation):
    one = splat(z, 1.0)
    return z / (one + exp(splat(z, 0.0) - z))


# tanh(log(1 + e)) = w / (w + 2) with e = exp(z) and w = e (e + 2). From z = 20 on the quotient is 1
# in float64 too, and stopping there keeps w^2 within float32's range.
_MISH_LARGEST = 20.0


def _mish(z, activation):
    largest = splat(z, _MISH_LARGEST)
    two = splat(z, 2.0)
    e = exp(select(z > largest, largest, z))
    w = e * (e + two)
    return z * (w / (w + two))


def _identity_gradient(dy, z, activation):
    return dy


def _relu_gradient(dy, z, activation):
    zero = splat(z, 0.0)
    return select(z > zero, dy, _unless_nan(z, zero))


def _leaky_relu_gradient(dy, z, activation):
    return select(z > splat(z, 0.0), dy, _unless_nan(z, splat(z, activation.slope) * dy))


@inlined
def _unless_nan(z, value):
    """`value` in the lanes where z <= 0, NaN where z is NaN."""
    return select(z < splat(z, 1.0), value, z)


def _silu_gradient(dy, z, activation):
    # With s = 1 / (1 + e) and e = exp(-z):  silu' = s + z s (1 - s), where 1 - s is e s without
    # its rounding error. Below -80 silu' is 0 to float32's and float64's last digit; stopping
    # there keeps e finite.
    lowest = splat(z, -80.0)
    one = splat(z, 1.0)
    z = select(z < lowest, lowest, z)
    e = exp(splat(z, 0.0) - z)
    s = one / (one + e)
    return dy * fma(z * s, e * s, s)


def _mish_gradient(dy, z, activation):
    # With t = w / (w + 2):  mish' = t + z 4 e (1 + e) / (w + 2)^2
    largest = splat(z, _MISH_LARGEST)
    one, two, four = splat(z, 1.0), splat(z, 2.0), splat(z, 4.0)
    z = select(z > largest, largest, z)
    e = exp(z)
    w = e * (e + two)
    r = one / (w + two)
    return dy * fma(z * r, four * e * (one + e) * r, w * r)


_VALUES = {
    type(None): _identity,
    ReLU: _relu,
    LeakyReLU: _leaky_relu,
    SiLU: _silu,
    Mish: _mish,
}
_GRADIENTS = {
    type(None): _identity_gradient,
    ReLU: _relu_gradient,
    LeakyReLU: _leaky_relu_gradient,
    SiLU: _silu_gradient,
    Mish: _mish_gradient,
}


def activate(z: Any, activation: Any) -> Any:
    """The activation of the vector `z`."""
    return _VALUES[type(activation)](z, activation)


def activation_gradient(dy: Any, z: Any, activation: Any) -> Any:
    """`dy` times the activation's derivative at `z`; 0 (relu) or the slope (leaky relu) at 0."""
    return _GRADIENTS[type(activation)](dy, z, activation)


def python_type(numba_type: Any) -> type:
    """The class of the None or the tuple that a kernel was given."""
    return type(None) if numba_type == types.none else numba_type.instance_class


@by_type(activate)
def _overload_activate(z, activation):
    return _VALUES[python_type(activation)]


@by_type(activation_gradient)
def _overload_activation_gradient(dy, z, activation):
    return _GRADIENTS[python_type(activation)]
