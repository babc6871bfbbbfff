"""The standard normal distribution, exact to more digits than long double has."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
from numpy.typing import NDArray

FARTHEST = 50.0  # where 1 - Phi is 0 to all digits


def normal_distribution(z: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The density and the distribution function, in long double."""
    points, places = np.unique(np.clip(z, -FARTHEST, FARTHEST), return_inverse=True)
    with mpmath.workdps(25):
        exact = [mpmath.mpf(float(point)) for point in points]
        density, distribution = (_rounded(map(f, exact)) for f in (mpmath.npdf, mpmath.ncdf))
        return density[places], distribution[places]


def _rounded(values: Any) -> NDArray[Any]:
    return np.array([np.longdouble(mpmath.nstr(value, 22)) for value in values])
