"""Float32 whose deviations are denormal: the channels that are worked out in float64."""

from __future__ import annotations

import numpy as np

from nbnorm.kernels.batch_norm.moments import SMALLEST_SQUARE
from nbnorm.launch.plans import Shape
from nbnorm.typing import Array

# Inverse deviations beyond float32 are infinite there; and well before, products of gradients and
# deviations underflow. Both want an eps of next to nothing.
_WIDE_FROM = 1e30


def may_be_wide(x: Array, eps: float) -> bool:
    """Whether a deviation of x may be so small that float32 cannot hold its inverse."""
    return x.itemsize == 4 and eps < SMALLEST_SQUARE and x.size > 0


def wide_channels(statistics: Array, gamma: Array | None) -> Array:
    """The channels that are worked out in float64: their deviations are denormal, or nearly so."""
    inv_std = statistics[2].reshape(-1)
    largest = inv_std if gamma is None else inv_std * np.maximum(np.abs(gamma.reshape(-1)), 1.0)
    return np.flatnonzero((largest > _WIDE_FROM) & (largest < np.inf))


def in_double(values: Array, shape: Shape, channels: Array) -> Array:
    """Some channels of a flat array of a shape, flat, in float64."""
    return values.reshape(shape)[:, channels].astype(np.float64).reshape(-1)
