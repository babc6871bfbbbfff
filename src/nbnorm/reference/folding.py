"""Batch norm folded into the weights before it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from nbnorm.reference.arrays import Array
from nbnorm.reference.batch_norm import inverse_std


def fold_batch_norm(
    weight: ArrayLike,
    bias: ArrayLike | None,
    mean: ArrayLike,
    var: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    out_axis: int | tuple[int, ...] = 0,
) -> tuple[Array, Array]:
    """Fold a batch norm with given statistics into the weight and bias before it.

    With scale = gamma / sqrt(var + eps), ``scale (W x + b - mean) + beta`` is
    ``(scale W) x + (scale (b - mean) + beta)``.

    Parameters
    ----------
    weight : array of two dimensions or more, such as (k, c) or (k, c / groups, r, s)
    bias : array (k,) or None
    mean, var : arrays (k,)
    gamma, beta : arrays (k,), optional
    eps : float
    out_axis : the axis or axes of weight along which the output channels lie, in C order

    Returns
    -------
    weight, bias : arrays of weight's shape and (k,)

    Examples
    --------
    >>> fold_batch_norm([[2.0, 4.0]], None, mean=[3.0], var=[4.0], beta=[10.0], eps=0.0)
    (array([[1., 2.]]), array([8.5]))
    """
    weight = np.asarray(weight, np.float64)
    scale = inverse_std(var, eps) * (1.0 if gamma is None else np.asarray(gamma, np.float64))
    shift = (0.0 if bias is None else np.asarray(bias, np.float64)) - np.asarray(mean, np.float64)
    shift = scale * shift + (0.0 if beta is None else np.asarray(beta, np.float64))
    axes = [axis % weight.ndim for axis in np.atleast_1d(out_axis)]
    along_weight = [size if axis in axes else 1 for axis, size in enumerate(weight.shape)]
    return scale.reshape(along_weight) * weight, shift
