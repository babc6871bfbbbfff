"""Activations of vectors, and their gradients.

An activation reaches a kernel as None or as an instance of one of the classes below, whose fields
are its parameters: finite numbers. Numba compiles a kernel once for each of these types, so no loop
ever asks which activation it has, and what nobody uses is not compiled.

The first line of a class's docstring is its formula and, where its derivative jumps, the derivative
there: that of PyTorch. The methods take and return vectors:

value       the activation of z
gradient    dy times the derivative at z

NaN stays NaN in both. A class and its line in `ACTIVATIONS` are all that the library needs for a
new activation, its reference (reference/activation.py) is all that the tests need; and the stub,
__init__.pyi, has its name for those who call kernels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba.core import types

from nbnorm.jit.elementary import absolute, exp, expm1, log1p
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


@inlined
def _if_between(z, low, high, value):
    """`value` in the lanes where low < z < high, with low <= 0; else 0, but NaN where z is NaN."""
    zero = splat(z, 0.0)
    value = select(z < splat(z, high), value, zero)
    return select(z > splat(z, low), value, _unless_nan(z, zero))


@inlined
def _sigmoid(z):
    one = splat(z, 1.0)
    return one / (one + exp(splat(z, 0.0) - z))


@inlined
def _hard_sigmoid(z):
    return _at_most(_at_least(z + splat(z, 3.0), 0.0), 6.0) * splat(z, 1 / 6)


class ReLU(NamedTuple):
    """max(z, 0); derivative 0 at 0."""

    def value(self, z):
        return _at_least(z, 0.0)

    def gradient(self, dy, z):
        zero = splat(z, 0.0)
        return select(z > zero, dy, _unless_nan(z, zero))


class LeakyReLU(NamedTuple):
    """z where z > 0, else slope z; derivative slope at 0."""

    slope: float = 0.01

    def value(self, z):
        return select(z < splat(z, 0.0), splat(z, self.slope) * z, z)

    def gradient(self, dy, z):
        return select(z > splat(z, 0.0), dy, _unless_nan(z, splat(z, self.slope) * dy))


class ReLU6(NamedTuple):
    """min(max(z, 0), 6); derivative 0 at 0 and 6."""

    def value(self, z):
        return _at_most(_at_least(z, 0.0), 6.0)

    def gradient(self, dy, z):
        return _if_between(z, 0.0, 6.0, dy)


class ELU(NamedTuple):
    """z where z > 0, else alpha (exp(z) - 1); derivative alpha at 0."""

    alpha: float = 1.0

    def value(self, z):
        return select(z > splat(z, 0.0), z, splat(z, self.alpha) * expm1(z))

    def gradient(self, dy, z):
        return select(z > splat(z, 0.0), dy, splat(z, self.alpha) * exp(z) * dy)


_SELU_SCALE = 1.0507009873554804934193349852946
_SELU_SCALED_ALPHA = _SELU_SCALE * 1.6732632423543772848170429916717


class SELU(NamedTuple):
    """scale elu(z) with alpha 1.6733 and scale 1.0507; derivative scale alpha at 0.

    Both are rounded here. They are those of Klambauer et al., "Self-Normalizing Neural Networks",
    2017, https://arxiv.org/abs/1706.02515: selu(z) has mean 0 and variance 1 where z has.
    """

    def value(self, z):
        below = splat(z, _SELU_SCALED_ALPHA) * expm1(z)
        return select(z > splat(z, 0.0), splat(z, _SELU_SCALE) * z, below)

    def gradient(self, dy, z):
        below = splat(z, _SELU_SCALED_ALPHA) * exp(z) * dy
        return select(z > splat(z, 0.0), splat(z, _SELU_SCALE) * dy, below)


class GELU(NamedTuple):
    """z Phi(z), where Phi is the normal distribution function.

    Exact, as is the default of PyTorch: not the approximation by tanh. 0 at -inf.
    """

    # Beyond LARGEST, Phi(-z) and phi(z) are 0; to stop there keeps infinity out of the products.

    def value(self, z):
        _, distribution = normal_distribution(z)
        return _at_least(z, -LARGEST) * distribution

    def gradient(self, dy, z):
        density, distribution = normal_distribution(z)
        return dy * fma(_at_most(_at_least(z, -LARGEST), LARGEST), density, distribution)


class SiLU(NamedTuple):
    """z / (1 + exp(-z)).

    NaN at -inf, as in PyTorch.
    """

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
    """z tanh(log(1 + exp(z))).

    NaN at -inf, as in PyTorch.
    """

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


class HardSwish(NamedTuple):
    """z min(max(z + 3, 0), 6) / 6; derivative 0 at -3 and 1 at 3.

    0 at -inf.
    """

    def value(self, z):
        return _at_least(z, -3.0) * _hard_sigmoid(z)

    def gradient(self, dy, z):
        slope = fma(z, splat(z, 1 / 3), splat(z, 0.5))
        inside = select(z < splat(z, 3.0), slope * dy, dy)
        return select(z > splat(z, -3.0), inside, _unless_nan(z, splat(z, 0.0)))


class Sigmoid(NamedTuple):
    """1 / (1 + exp(-z))."""

    def value(self, z):
        return _sigmoid(z)

    def gradient(self, dy, z):
        # s (1 - s) with s = 1 / (1 + e) and 1 - s = e s: the same for z and -z.
        one = splat(z, 1.0)
        e = exp(splat(z, 0.0) - absolute(z))
        s = one / (one + e)
        return dy * (e * s * s)


class HardSigmoid(NamedTuple):
    """min(max(z + 3, 0), 6) / 6; derivative 0 at -3 and 3.

    That of PyTorch and Keras 3. Keras 2 had min(max(0.2 z + 0.5, 0), 1).
    """

    def value(self, z):
        return _hard_sigmoid(z)

    def gradient(self, dy, z):
        return _if_between(z, -3.0, 3.0, dy * splat(z, 1 / 6))


class Tanh(NamedTuple):
    """tanh(z)."""

    def value(self, z):
        # (e - 1) / (e + 1) with e = exp(2 z). From z = 20 on it is 1 in float64 too.
        less_1 = expm1(splat(z, 2.0) * _at_most(z, 20.0))
        return less_1 / (less_1 + splat(z, 2.0))

    def gradient(self, dy, z):
        # 1 / cosh(z)^2 = 4 e / (1 + e)^2 with e = exp(-2 |z|): 1 - tanh(z)^2 would cancel.
        e = exp(splat(z, -2.0) * absolute(z))
        r = splat(z, 2.0) / (splat(z, 1.0) + e)
        return dy * (e * r * r)


class Softplus(NamedTuple):
    """log(1 + exp(z))."""

    def value(self, z):
        return _at_least(z, 0.0) + log1p(exp(splat(z, 0.0) - absolute(z)))

    def gradient(self, dy, z):
        return dy * _sigmoid(z)


# By the name that is given as an argument, with the default parameters.
ACTIVATIONS: dict[str, Any] = {
    "relu": ReLU(),
    "leaky_relu": LeakyReLU(),
    "relu6": ReLU6(),
    "elu": ELU(),
    "selu": SELU(),
    "gelu": GELU(),
    "silu": SiLU(),
    "mish": Mish(),
    "hard_swish": HardSwish(),
    "sigmoid": Sigmoid(),
    "hard_sigmoid": HardSigmoid(),
    "tanh": Tanh(),
    "softplus": Softplus(),
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
