"""L1 and L2 penalties."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from nbnorm.reference.arrays import Array


def l1_penalty(x: ArrayLike, weight: float) -> tuple[float, Array]:
    """Weigh the sum of absolute values; its gradient is weight sign(x).

    Parameters
    ----------
    x : array
    weight : number

    Returns
    -------
    loss : float
    gradient : array of x's shape

    Examples
    --------
    >>> l1_penalty([3.0, -4.0], 0.5)
    (3.5, array([ 0.5, -0.5]))
    """
    x = np.asarray(x, np.float64)
    return float(weight * np.abs(x).sum()), weight * np.sign(x)


def l2_penalty(x: ArrayLike, weight: float) -> tuple[float, Array]:
    """Weigh half the sum of squares; its gradient is weight x.

    Parameters and result are those of `l1_penalty`.

    Examples
    --------
    >>> l2_penalty([3.0, -4.0], 0.5)
    (6.25, array([ 1.5, -2. ]))
    """
    x = np.asarray(x, np.float64)
    return float(weight / 2 * (x * x).sum()), weight * x
