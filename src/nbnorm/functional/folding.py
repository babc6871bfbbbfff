"""Batch norm folded into the weights before it, for inference."""

from __future__ import annotations

import math

import numpy as np

from nbnorm import checks
from nbnorm.functional.arguments import check_normalization, check_parameters
from nbnorm.typing import Array


def fold_batch_norm(
    weight: Array,
    bias: Array | None,
    mean: Array,
    var: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    *,
    eps: float = 1e-5,
    out_axis: int | tuple[int, ...] = 0,
) -> tuple[Array, Array]:
    """Return the weight and bias of a layer that does its own batch norm, for inference.

    For a dense layer or a convolution over any number of axes, in whatever groups::

        scale  = gamma / sqrt(var + eps)
        weight = scale weight            bias = scale (bias - mean) + beta

    so that ``x weight^T + bias`` is the batch norm of what it was before (Jacob et al. 2018,
    https://arxiv.org/abs/1712.05877, section 3.2). Computed in float64 and rounded once.

    Parameters
    ----------
    weight : array (k, c), (k, c / groups, r, s) or another of two dimensions or more
        float32 or float64.
    bias : array (k,) or None
        float32 or float64.
    mean, var : arrays (k,) of float32 or float64
        Running statistics, usually. var is not negative.
    gamma, beta : arrays (k,) of float32 or float64, optional
        Scale and shift; 1 and 0 if not given.
    eps : float, 0 or more
        Added to the variance. Where ``var + eps`` is 0, the weight is 0 and the bias beta.
    out_axis : int or tuple of ints
        Where the k output channels are in weight: along one axis, or in C order along several.

    Returns
    -------
    weight : array of weight's shape and type
    bias : array (k,) of weight's type

    Raises
    ------
    ValueError
        A shape does not fit or a value is out of range.
    TypeError
        An argument is of the wrong type.

    Notes
    -----
    The output channels of other weights:

    ==================================================  =================================  ========
    of                                                  shape                              out_axis
    ==================================================  =================================  ========
    PyTorch's Linear, Conv1d, Conv2d, Conv3d            (k, c / groups, ...)               0
    PyTorch's ConvTranspose1d, 2d, 3d                   (c, k, ...)                        1
    in groups, after ``weight.reshape(groups, c //      (groups, c / groups, k / groups,   (0, 2)
    groups, *weight.shape[1:])``                        ...)
    Keras's Dense, Conv1D, Conv2D, Conv3D               (..., c / groups, k)               -1
    Keras's Conv1DTranspose, 2D, 3D                     (..., k, c)                        -2
    Keras's DepthwiseConv1D, 2D                         (..., c, multiplier)               (-2, -1)
    ==================================================  =================================  ========

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import fold_batch_norm
    >>> weight, mean, var = np.array([[2.0, 4.0]]), np.array([3.0]), np.array([4.0])
    >>> fold_batch_norm(weight, None, mean, var, beta=np.array([10.0]), eps=0.0)
    (array([[1., 2.]]), array([8.5]))
    """
    function = "fold_batch_norm"
    checks.array(function, "weight", weight)
    if weight.ndim < 2:
        raise checks.wrong_value(function, "weight", weight, "an array of 2 dimensions or more")
    out_axes = checks.axes(function, out_axis, weight.ndim, "out_axis")
    kept = (math.prod(weight.shape[axis] for axis in out_axes),)
    check_parameters(function, kept, bias=bias)
    normalization = check_normalization(
        function, weight, kept, kept, gamma=gamma, beta=beta, statistics=(mean, var), eps=eps,
        activation=None, residual=None,
    )  # fmt: skip
    return _folded(weight, bias, mean, var, gamma, beta, normalization.eps, out_axes)


@np.errstate(over="ignore", invalid="ignore")  # overflow and NaN propagate silently
def _folded(
    weight: Array,
    bias: Array | None,
    mean: Array,
    var: Array,
    gamma: Array | None,
    beta: Array | None,
    eps: float,
    out_axes: tuple[int, ...],
) -> tuple[Array, Array]:
    """`fold_batch_norm` of checked arguments."""
    shifted = var.astype(np.float64) + eps
    scale = np.divide(1.0, np.sqrt(shifted), out=np.zeros_like(shifted), where=shifted != 0.0)
    if gamma is not None:
        scale *= gamma
    shift = -scale * mean if bias is None else scale * (bias.astype(np.float64) - mean)
    if beta is not None:
        shift += beta
    along_weight = scale.reshape(
        [size if axis in out_axes else 1 for axis, size in enumerate(weight.shape)]
    )
    return (weight * along_weight).astype(weight.dtype), shift.astype(weight.dtype)
