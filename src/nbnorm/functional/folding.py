"""Batch norm folded into the weights before it, for inference."""

from __future__ import annotations

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
) -> tuple[Array, Array]:
    """Return the weight and bias of a layer that does its own batch norm, for inference.

    For a dense layer or a convolution, in whatever groups::

        scale  = gamma / sqrt(var + eps)
        weight = scale weight            bias = scale (bias - mean) + beta

    so that ``x weight^T + bias`` is the batch norm of what it was before (Jacob et al. 2018,
    https://arxiv.org/abs/1712.05877, section 3.2). Computed in float64 and rounded once.

    Parameters
    ----------
    weight : array (k, c) or (k, c / groups, r, s)
        float32 or float64.
    bias : array (k,) or None
        float32 or float64.
    mean, var : arrays (k,) of float32 or float64
        Running statistics, usually. var is not negative.
    gamma, beta : arrays (k,) of float32 or float64, optional
        Scale and shift; 1 and 0 if not given.
    eps : float, 0 or more
        Added to the variance. Where ``var + eps`` is 0, the weight is 0 and the bias beta.

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
    if weight.ndim not in (2, 4):
        raise checks.wrong_value(function, "weight", weight, "an array of 2 or 4 dimensions")
    kept = weight.shape[:1]
    check_parameters(function, kept, bias=bias)
    normalization = check_normalization(
        function, weight, kept, kept, gamma=gamma, beta=beta, statistics=(mean, var), eps=eps,
        activation=None, residual=None,
    )  # fmt: skip
    return _folded(weight, bias, mean, var, gamma, beta, normalization.eps)


@np.errstate(over="ignore", invalid="ignore")  # overflow and NaN propagate silently
def _folded(
    weight: Array,
    bias: Array | None,
    mean: Array,
    var: Array,
    gamma: Array | None,
    beta: Array | None,
    eps: float,
) -> tuple[Array, Array]:
    """`fold_batch_norm` of checked arguments."""
    shifted = var.astype(np.float64) + eps
    scale = np.divide(1.0, np.sqrt(shifted), out=np.zeros_like(shifted), where=shifted != 0.0)
    if gamma is not None:
        scale *= gamma
    shift = -scale * mean if bias is None else scale * (bias.astype(np.float64) - mean)
    if beta is not None:
        shift += beta
    along_weight = scale.reshape(-1, *(1,) * (weight.ndim - 1))
    return (weight * along_weight).astype(weight.dtype), shift.astype(weight.dtype)
