"""Gradients by finite differences, the judge of every gradient that is derived by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# For arrays of values of about 1. The differences below err by STEP^4 / 30 times the fifth
# derivative and by the rounding of the loss over STEP: 1e-14 and 1e-12 times a small factor. The
# worst that the tests see is 6e-12 of the largest entry, and a wrong formula is off by percents.
STEP = 1e-3
TOLERANCE = 1e-10


def gradient(loss: Callable[[Array], float], at: Array) -> Array:
    """Differentiate a scalar function of an array by fourth-order central differences."""
    result = np.empty_like(at)
    for i in np.ndindex(at.shape):

        def moved(steps: int, i: tuple[int, ...] = i) -> float:
            point = at.copy()
            point[i] += steps * STEP
            return loss(point)

        result[i] = (8.0 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / (12.0 * STEP)
    return result


def assert_gradient(claimed: Array, loss: Callable[[Array], float], at: Array) -> None:
    """Check a claimed gradient; its error is measured against the gradient's largest entry."""
    expected = gradient(loss, at)
    assert claimed.shape == expected.shape
    np.testing.assert_allclose(claimed, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())
