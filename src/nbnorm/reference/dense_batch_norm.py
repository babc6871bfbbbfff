"""Dense layers with batch norm: one and then the other."""

from __future__ import annotations

from typing import Any, NamedTuple

from numpy.typing import ArrayLike

from nbnorm.reference.arrays import Array
from nbnorm.reference.batch_norm import batch_norm_backward, batch_norm_forward
from nbnorm.reference.dense import dense_backward, dense_forward


class DenseBatchNormGradients(NamedTuple):
    """Gradients of a dense layer with batch norm; None where the forward had no such argument."""

    dx: Array
    dweight: Array
    dbias: Array | None
    dgamma: Array | None
    dbeta: Array | None
    dresidual: Array | None


def dense_batch_norm_forward(
    x: ArrayLike,
    weight: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    bias: ArrayLike | None = None,
    **options: Any,
) -> Array:
    """Apply a dense layer, then batch norm to each of its k features.

    Parameters
    ----------
    x : array (..., c)
    weight : array (k, c)
    gamma, beta, bias : arrays (k,), optional
    **options
        statistics, sample_weight, eps, ddof, activation and residual of `batch_norm_forward`.

    Returns
    -------
    y : array (..., k)

    Examples
    --------
    >>> dense_batch_norm_forward([[1.0, 2.0], [3.0, 4.0]], weight=[[1.0, 1.0]], eps=0.0)
    array([[-1.],
           [ 1.]])
    """
    return batch_norm_forward(dense_forward(x, weight, bias), gamma, beta, axis=-1, **options)


def dense_batch_norm_inference(
    x: ArrayLike,
    weight: ArrayLike,
    mean: ArrayLike,
    var: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    **options: Any,
) -> Array:
    """Normalize with given statistics: the forward with ``statistics=(mean, var)``.

    Examples
    --------
    >>> dense_batch_norm_inference([[1.0, 2.0]], [[1.0, 1.0]], mean=[1.0], var=[4.0], eps=0.0)
    array([[1.]])
    """
    given = (mean, var)
    return dense_batch_norm_forward(x, weight, gamma, beta, statistics=given, **options)


def dense_batch_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    bias: ArrayLike | None = None,
    **options: Any,
) -> DenseBatchNormGradients:
    """Differentiate `dense_batch_norm_forward`: through the batch norm, then the dense layer.

    Parameters
    ----------
    dy : array (..., k)
    x, weight, gamma, beta, bias, **options
        What the forward was given.

    Returns
    -------
    DenseBatchNormGradients
        Each of the shape of what it is the gradient of; None for the gradient of an argument
        that was not given.

    Examples
    --------
    >>> given = ([0.0], [4.0])
    >>> dense_batch_norm_backward([[6.0]], [[2.0]], [[5.0]], statistics=given, eps=0.0).dweight
    array([[6.]])
    """
    z = dense_forward(x, weight, bias)
    dz, *others = batch_norm_backward(dy, z, gamma, beta, axis=-1, **options)
    dx, dweight, dbias = dense_backward(dz, x, weight)
    return DenseBatchNormGradients(dx, dweight, None if bias is None else dbias, *others)
