"""Division by the L1 and L2 norm."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from nbnorm.reference.arrays import Array

Summed: TypeAlias = int | tuple[int, ...] | str | None


def l1_normalize_forward(x: ArrayLike, *, axis: Summed = 1, eps: float = 1e-12) -> Array:
    """Divide by the sum of absolute values; 0 where that and eps are 0.

    Parameters
    ----------
    x : array
    axis : the axes summed over; None for all of them, "sample" for all but the first
    eps : added to the sum

    Returns
    -------
    y : array of x's shape

    Examples
    --------
    >>> l1_normalize_forward([[1.0, -3.0]])
    array([[ 0.25, -0.75]])
    """
    x = np.asarray(x, np.float64)
    return _over(x, _sum_along(np.abs(x), axis) + eps)


def l1_normalize_backward(
    dy: ArrayLike, x: ArrayLike, *, axis: Summed = 1, eps: float = 1e-12
) -> Array:
    """Differentiate `l1_normalize_forward`: (dy - sign(x) sum(dy y)) / (sum(|x|) + eps).

    Parameters
    ----------
    dy : array of x's shape
    x, axis, eps : what the forward was given

    Returns
    -------
    dx : array of x's shape

    Examples
    --------
    >>> l1_normalize_backward([[4.0, 0.0]], [[1.0, -3.0]])
    array([[0.75, 0.25]])
    """
    dy, x = np.asarray(dy, np.float64), np.asarray(x, np.float64)
    y = l1_normalize_forward(x, axis=axis, eps=eps)
    along = _sum_along(dy * y, axis)
    return _over(dy - np.sign(x) * along, _sum_along(np.abs(x), axis) + eps)


def l2_normalize_forward(x: ArrayLike, *, axis: Summed = 1, eps: float = 1e-12) -> Array:
    """Divide by the root of the sum of squares and eps; 0 where both are 0.

    Parameters and result are those of `l1_normalize_forward`.

    Examples
    --------
    >>> l2_normalize_forward([[3.0, -4.0]], eps=0.0)
    array([[ 0.6, -0.8]])
    """
    x = np.asarray(x, np.float64)
    return _over(x, np.sqrt(_sum_along(x * x, axis) + eps))


def l2_normalize_backward(
    dy: ArrayLike, x: ArrayLike, *, axis: Summed = 1, eps: float = 1e-12
) -> Array:
    """Differentiate `l2_normalize_forward`: (dy - y sum(dy y)) / sqrt(sum(x^2) + eps).

    Parameters and result are those of `l1_normalize_backward`.

    Examples
    --------
    >>> l2_normalize_backward([[5.0, 0.0]], [[3.0, 4.0]], eps=0.0)
    array([[ 0.64, -0.48]])
    """
    dy, x = np.asarray(dy, np.float64), np.asarray(x, np.float64)
    y = l2_normalize_forward(x, axis=axis, eps=eps)
    return _over(dy - y * _sum_along(dy * y, axis), np.sqrt(_sum_along(x * x, axis) + eps))


def _sum_along(values: Array, axis: Summed) -> Array:
    axes = tuple(range(1, values.ndim)) if isinstance(axis, str) else axis
    return np.sum(values, axis=axes, keepdims=True)


def _over(values: Array, norm: Array) -> Array:
    return np.divide(values, norm, out=np.zeros_like(values), where=norm != 0.0)
