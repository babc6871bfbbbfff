"""Activations and their derivatives."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from nbnorm.reference.arrays import Array

Activation: TypeAlias = str | tuple[str, float] | None
LEAKY_RELU_SLOPE = 0.01


def activate(z: Array, activation: Activation = None) -> Array:
    """Apply an activation elementwise; NaN stays NaN.

    Parameters
    ----------
    z : array of any shape
    activation : None, "relu", "leaky_relu", ("leaky_relu", slope), "silu" or "mish"
        A leaky ReLU's slope is 0.01 unless given.

    Returns
    -------
    array of z's shape

    Examples
    --------
    >>> activate(np.array([-2.0, 0.0, 3.0]), ("leaky_relu", 0.5))
    array([-1.,  0.,  3.])
    """
    match activation:
        case None:
            return z
        case "relu":
            return np.maximum(z, 0.0)
        case "leaky_relu":
            return activate(z, ("leaky_relu", LEAKY_RELU_SLOPE))
        case ("leaky_relu", slope):
            return np.where(z > 0.0, z, slope * z)
        case "silu":
            return z * _sigmoid(z)
        case "mish":
            return z * np.tanh(_softplus(z))
    raise ValueError(f"unknown activation {activation!r}")


def activate_derivative(z: Array, activation: Activation = None) -> Array:
    """Differentiate an activation elementwise, at the value z that entered it; NaN stays NaN.

    At the kink, z = 0, the derivative of ReLU is 0 and that of a leaky ReLU its slope: the value
    on the side of the negative numbers, as PyTorch has it.

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
    match activation:
        case None:
            return np.ones_like(z)
        case "relu":
            return activate_derivative(z, ("leaky_relu", 0.0))
        case "leaky_relu":
            return activate_derivative(z, ("leaky_relu", LEAKY_RELU_SLOPE))
        case ("leaky_relu", slope):
            return np.select([z > 0.0, z <= 0.0], [1.0, slope], default=np.nan)
        case "silu":
            # (z sigmoid)' = sigmoid + z sigmoid', and sigmoid' = sigmoid(z) sigmoid(-z).
            return _sigmoid(z) * (1.0 + z * _sigmoid(-z))
        case "mish":
            # With t = tanh(softplus(z)): (z t)' = t + z t', and softplus' = sigmoid.
            t = np.tanh(_softplus(z))
            return t + z * (1.0 - t * t) * _sigmoid(z)
    raise ValueError(f"unknown activation {activation!r}")


def _sigmoid(z: Array) -> Array:
    # 1 / (1 + exp(-z)), written with exp of negative numbers only, which cannot overflow.
    e = np.exp(-np.abs(z))
    return np.where(z < 0.0, e, 1.0) / (1.0 + e)


def _softplus(z: Array) -> Array:
    # log(1 + exp(z)), likewise.
    return np.maximum(z, 0.0) + np.log1p(np.exp(-np.abs(z)))
