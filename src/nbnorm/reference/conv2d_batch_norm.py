"""Convolutions with batch norm: one and then the other."""

from __future__ import annotations

from typing import Any, NamedTuple

from numpy.typing import ArrayLike

from nbnorm.reference.arrays import Array
from nbnorm.reference.batch_norm import batch_norm_backward, batch_norm_forward
from nbnorm.reference.conv2d import Padding, Pair, conv2d_backward, conv2d_forward


class Conv2dBatchNormGradients(NamedTuple):
    """Gradients of a convolution with batch norm; None where the forward had no such argument."""

    dx: Array
    dweight: Array
    dbias: Array | None
    dgamma: Array | None
    dbeta: Array | None
    dresidual: Array | None


def conv2d_batch_norm_forward(
    x: ArrayLike,
    weight: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    bias: ArrayLike | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    **options: Any,
) -> Array:
    """Convolve a channels-first image, then apply batch norm to each of the k channels.

    Parameters
    ----------
    x : array (n, c, h, w)
    weight : array (k, c / groups, r, s)
    gamma, beta, bias : arrays (k,), optional
    stride, padding, dilation, groups
        As in `conv2d_forward`.
    **options
        statistics, sample_weight, eps, ddof, activation and residual of `batch_norm_forward`.

    Returns
    -------
    y : array (n, k, h', w')

    Examples
    --------
    >>> conv2d_batch_norm_forward([[[[1.0, 2.0, 4.0]]]], [[[[1.0, 1.0]]]], eps=0.0)
    array([[[[-1.,  1.]]]])
    """
    z = conv2d_forward(
        x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    return batch_norm_forward(z, gamma, beta, **options)


def conv2d_batch_norm_inference(
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
    >>> conv2d_batch_norm_inference([[[[3.0, 5.0]]]], [[[[1.0]]]], mean=[1.0], var=[4.0], eps=0.0)
    array([[[[1., 2.]]]])
    """
    given = (mean, var)
    return conv2d_batch_norm_forward(x, weight, gamma, beta, statistics=given, **options)


def conv2d_batch_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    bias: ArrayLike | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    **options: Any,
) -> Conv2dBatchNormGradients:
    """Differentiate `conv2d_batch_norm_forward`: through the batch norm, then the convolution.

    Parameters
    ----------
    dy : array (n, k, h', w')
    x, weight, gamma, beta, bias, stride, padding, dilation, groups, **options
        What the forward was given.

    Returns
    -------
    Conv2dBatchNormGradients
        Each of the shape of what it is the gradient of; None for the gradient of an argument
        that was not given.

    Examples
    --------
    >>> x, weight, given = [[[[2.0, 3.0]]]], [[[[5.0, 7.0]]]], ([0.0], [4.0])
    >>> conv2d_batch_norm_backward([[[[6.0]]]], x, weight, statistics=given, eps=0.0).dx
    array([[[[15., 21.]]]])
    """
    geometry: dict[str, Any] = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
    }
    z = conv2d_forward(x, weight, bias, **geometry)
    dz, *others = batch_norm_backward(dy, z, gamma, beta, **options)
    dx, dweight, dbias = conv2d_backward(dz, x, weight, **geometry)
    return Conv2dBatchNormGradients(dx, dweight, None if bias is None else dbias, *others)
