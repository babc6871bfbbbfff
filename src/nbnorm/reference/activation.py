"""Activations and their derivatives."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np

from nbnorm.reference.arrays import Array

Activation: TypeAlias = str | tuple[str, float] | None

# The parameter of those that have one, where only the name is given.
_DEFAULTS = {"leaky_relu": 0.01, "elu": 1.0}

# Klambauer et al., "Self-Normalizing Neural Networks", 2017, https://arxiv.org/abs/1706.02515.
_SELU_SCALE = 1.0507009873554804934193349852946
_SELU_ALPHA = 1.6732632423543772848170429916717


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
        case "relu6":
            return np.clip(z, 0.0, 6.0)
        case ("elu", alpha):
            return np.where(z > 0.0, z, alpha * np.expm1(np.minimum(z, 0.0)))
        case "selu":
            return _SELU_SCALE * activate(z, ("elu", _SELU_ALPHA))
        case "gelu":
            return np.maximum(z, -40.0) * _normal_distribution(z)  # far out 0, not -inf times 0
        case "silu":
            return z * _sigmoid(z)
        case "mish":
            return z * np.tanh(_softplus(z))
        case "hard_swish":
            return np.maximum(z, -3.0) * activate(z, "hard_sigmoid")  # far out 0, likewise
        case "sigmoid":
            return _sigmoid(z)
        case "hard_sigmoid":
            return np.clip(z + 3.0, 0.0, 6.0) / 6.0
        case "tanh":
            return np.tanh(z)
        case "softplus":
            return _softplus(z)
    raise ValueError(f"unknown activation {activation!r}")


def activate_derivative(z: Array, activation: Activation = None) -> Array:
    """Differentiate an activation elementwise, at the value z that entered it; NaN stays NaN.

    Where it jumps it is taken from one side, the one that PyTorch takes.

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
        case "relu6":
            return np.select([(z > 0.0) & (z < 6.0), ~np.isnan(z)], [1.0, 0.0], default=np.nan)
        case ("elu", alpha):
            return np.where(z > 0.0, 1.0, alpha * np.exp(np.minimum(z, 0.0)))
        case "selu":
            return _SELU_SCALE * activate_derivative(z, ("elu", _SELU_ALPHA))
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
        case "hard_swish":
            inside = np.clip(z, -3.0, 3.0) / 3.0 + 0.5
            return np.select([z <= -3.0, z >= 3.0], [0.0, 1.0], default=inside)
        case "sigmoid":
            return _sigmoid(z) * _sigmoid(-z)
        case "hard_sigmoid":
            return np.select([np.abs(z) < 3.0, ~np.isnan(z)], [1.0 / 6.0, 0.0], default=np.nan)
        case "tanh":
            # tanh(z) = 2 sigmoid(2 z) - 1
            return 4.0 * _sigmoid(2.0 * z) * _sigmoid(-2.0 * z)
        case "softplus":
            return _sigmoid(z)
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
