"""Activations and their derivatives."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np

from nbnorm.reference.arrays import Array

Activation: TypeAlias = str | tuple[str, float] | None

# The parameter of those that have one, where only the name is given.
_DEFAULTS = {"leaky_relu": 0.01}


def activate(z: Array, activation: Activation = None) -> Array:
    """Apply an activation elementwise; NaN stays NaN.

    Parameters
    ----------
    z : array of any shape
    activation : None, the name of an activation, or (name, parameter)
        "relu" or ("leaky_relu", 0.2), say: docs/activations.md lists them.

    Returns
    -------
    array of z's shape

    Examples
    --------
    >>> activate(np.array([-2.0, 0.0, 3.0]), ("leaky_relu", 0.5))
    array([-1.,  0.,  3.])
    """
    match _with_parameter(activation):
        case None:
            return z
        case "relu":
            return np.maximum(z, 0.0)
        case ("leaky_relu", slope):
            return np.where(z > 0.0, z, slope * z)
        case "gelu":
            return np.maximum(z, -40.0) * _normal_distribution(z)  # far out 0, not -inf times 0
        case "silu":
            return z * _sigmoid(z)
        case "mish":
            return z * np.tanh(_softplus(z))
    raise ValueError(f"unknown activation {activation!r}")


def activate_derivative(z: Array, activation: Activation = None) -> Array:
    """Differentiate an activation elementwise, at the value z that entered it; NaN stays NaN.

    Where the derivative jumps it is taken from one side, the one that PyTorch takes: that of the
    negative numbers at 0.

    Parameters
    ----------
    z : array of any shape
    activation : as in `activate`

    Returns
    -------
    array of z's shape

    Examples
    --------
    >>> activate_derivative(np.array([-2.0, 0.0, 3.0]), "relu")
    array([0., 0., 1.])
    """
    match _with_parameter(activation):
        case None:
            return np.ones_like(z)
        case "relu":
            return activate_derivative(z, ("leaky_relu", 0.0))
        case ("leaky_relu", slope):
            return np.select([z > 0.0, z <= 0.0], [1.0, slope], default=np.nan)
        case "gelu":
            # (z Phi)' = Phi + z phi, where phi is the density.
            z = np.clip(z, -40.0, 40.0)
            density = np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
            return _normal_distribution(z) + z * density
        case "silu":
            # (z sigmoid)' = sigmoid + z sigmoid', and sigmoid' = sigmoid(z) sigmoid(-z).
            return _sigmoid(z) * (1.0 + z * _sigmoid(-z))
        case "mish":
            # With t = tanh(softplus(z)): (z t)' = t + z t', and softplus' = sigmoid.
            t = np.tanh(_softplus(z))
            return t + z * (1.0 - t * t) * _sigmoid(z)
    raise ValueError(f"unknown activation {activation!r}")


def _with_parameter(activation: Activation) -> Activation:
    if isinstance(activation, str) and activation in _DEFAULTS:
        return activation, _DEFAULTS[activation]
    return activation


def _sigmoid(z: Array) -> Array:
    # 1 / (1 + exp(-z)), written with exp of negative numbers only, which cannot overflow.
    e = np.exp(-np.abs(z))
    return np.where(z < 0.0, e, 1.0) / (1.0 + e)


def _normal_distribution(z: Array) -> Array:
    # Of the standard normal distribution: erfc(-z / sqrt(2)) / 2, in float64.
    complement = np.vectorize(math.erfc, otypes=[np.float64])
    return 0.5 * complement(-z / math.sqrt(2.0))


def _softplus(z: Array) -> Array:
    # log(1 + exp(z)), likewise.
    return np.maximum(z, 0.0) + np.log1p(np.exp(-np.abs(z)))
