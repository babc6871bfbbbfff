"""darknet's activations: by layers of this library where they have them, else by NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from nbnorm.checks import describe
from nbnorm.interop.darknet.cfg import Section
from nbnorm.layers import Activation
from nbnorm.typing import Array

# What layers call them, which apply them while the output is in cache; None of what they have not.
IN_LAYERS: Mapping[str, str | tuple[str, float] | None] = {
    "linear": None,
    "leaky": ("leaky_relu", 0.1),
    "revleaky": ("leaky_relu", 0.1),
    "relie": ("leaky_relu", 0.01),
    "relu": "relu",
    "mish": "mish",
    "swish": "silu",
}


def logistic(x: Array) -> Array:
    """Return 1 / (1 + exp(-x))."""
    return np.reciprocal(1 + np.exp(-x))  # 1 / inf is the 0 that it should be


def loggy(x: Array) -> Array:
    """Return 2 / (1 + exp(-x)) - 1."""
    return 2 * logistic(x) - 1


def elu(x: Array) -> Array:
    """Return exp(x) - 1 below 0."""
    return np.where(x < 0, np.expm1(np.minimum(x, 0)), x)


def selu(x: Array) -> Array:
    """Return elu, scaled, with the constants that darknet has."""
    return 1.0507 * np.where(x < 0, 1.6732 * np.expm1(np.minimum(x, 0)), x)


def gelu(x: Array) -> Array:
    """Return x times the normal distribution, by the tanh and the constants that darknet has."""
    return 0.5 * x * (1 + np.tanh((0.797885 + 0.035677 * x * x) * x))


def relu6(x: Array) -> Array:
    """Return x between 0 and 6."""
    return np.clip(x, 0, 6)


def ramp(x: Array) -> Array:
    """Return relu, and a tenth of x everywhere."""
    return np.maximum(x, 0) + 0.1 * x


def hardtan(x: Array) -> Array:
    """Return x between -1 and 1."""
    return np.clip(x, -1, 1)


def lhtan(x: Array) -> Array:
    """Return x between 0 and 1, with a slope of 0.001 outside."""
    inside = np.clip(x, 0, 1)
    return inside + 0.001 * (x - inside)


def plse(x: Array) -> Array:
    """Return x / 8 + 1 / 2 between -4 and 4, with a slope of 0.01 outside."""
    inside = np.clip(x, -4, 4)
    return 0.125 * inside + 0.5 + 0.01 * (x - inside)


def stair(x: Array) -> Array:
    """Return floor(x / 2) where floor(x) is even, and a slope of 1 up to the next step."""
    half = np.floor(x / 2)
    return half + np.maximum(x - 2 * half - 1, 0)


def hard_mish(x: Array) -> Array:
    """Return x above 0, x^2 / 2 + x down to -2, 0 below."""
    inside = np.clip(x, -2, 0)
    return np.maximum(x, 0) + (0.5 * inside + 1) * inside


FUNCTIONS: Mapping[str, Callable[[Array], Array]] = {
    "logistic": logistic,
    "loggy": loggy,
    "tanh": np.tanh,
    "elu": elu,
    "selu": selu,
    "gelu": gelu,
    "relu6": relu6,
    "ramp": ramp,
    "hardtan": hardtan,
    "lhtan": lhtan,
    "plse": plse,
    "stair": stair,
    "hard_mish": hard_mish,
}


class Activating:
    """An activation by darknet's name: a layer's, or what is left to do after it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.in_layer = IN_LAYERS.get(name)
        self._function = FUNCTIONS.get(name)
        self._layer = None if self.in_layer is None else Activation(self.in_layer).eval()

    @classmethod
    def of(cls, section: Section, default: str) -> Activating:
        """Return what a section names."""
        name = section.text("activation", default)
        if name not in IN_LAYERS and name not in FUNCTIONS:
            known = sorted({*IN_LAYERS, *FUNCTIONS})
            raise section.error(f"activation is {describe(name)}; expected one of {known}")
        return cls(name)

    def after(self, y: Array) -> Array:
        """Apply what no layer has."""
        return y if self._function is None else self._function(y)

    def of_sum(self, x: Array, other: Array) -> Array:
        """Return activation(x + other)."""
        if self._layer is not None:
            return self._layer.forward(x, residual=other)[0]
        return self.after(x + other)

    def __call__(self, y: Array) -> Array:
        """Return activation(y)."""
        return self.after(y if self._layer is None else self._layer.forward(y)[0])
