"""Batch normalization over the last few batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nbnorm.reference.activation import Activation
from nbnorm.reference.arrays import Array
from nbnorm.reference.batch_norm import (
    BatchNormGradients,
    batch_norm_backward,
    batch_norm_forward,
    batch_statistics,
    inverse_std,
    reduced_axes,
    values_per_channel,
)
from nbnorm.reference.conv2d import conv2d_backward, conv2d_forward
from nbnorm.reference.dense import dense_backward, dense_forward


@np.errstate(invalid="ignore")
def merge_statistics(
    parts: Sequence[tuple[ArrayLike, ArrayLike, int]],
) -> tuple[Array, Array, int]:
    """Merge the means, variances (over m) and counts m of several batches into those of all.

    The squared deviations of a batch from the mean of all are those from its own mean, and m times
    the square of the distance between the two means (Chan, Golub and LeVeque 1979).

    Examples
    --------
    >>> merge_statistics([([2.0], [1.0], 2), ([6.0], [1.0], 2)])
    (array([4.]), array([5.]), 4)
    """
    means, variances = (np.array([part[i] for part in parts], np.float64) for i in (0, 1))
    counts = np.array([part[2] for part in parts])
    shares = (counts / counts.sum()).reshape(-1, *(1,) * (means.ndim - 1))
    mean = np.sum(shares * means, axis=0)
    var = np.sum(shares * (variances + (means - mean) ** 2), axis=0)
    return mean, var, int(counts.sum())


def cross_iteration_batch_norm_forward(
    x: ArrayLike,
    earlier: Sequence[tuple[ArrayLike, ArrayLike, int]],
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    axis: int | tuple[int, ...] = 1,
    eps: float = 1e-5,
    ddof: int = 0,
    activation: Activation = None,
    residual: ArrayLike | None = None,
) -> Array:
    """Normalize each channel by the statistics of x and of earlier batches together.

    Yao, Cao, Zheng, Huang and Lin, "Cross-Iteration Batch Normalization", 2020,
    https://arxiv.org/abs/2002.05712, section 3, every value (not every batch) weighing the
    same. What is known of the earlier batches is constant.

    Parameters
    ----------
    x, gamma, beta, axis, eps, ddof, activation, residual
        As in `batch_norm_forward`.
    earlier : means, variances and counts of batches, as in `merge_statistics`

    Returns
    -------
    y : array of x's shape

    Examples
    --------
    >>> cross_iteration_batch_norm_forward([[5.0], [7.0]], [([2.0], [1.0], 2)], eps=4.0)
    array([[0.33333333],
           [1.        ]])
    """
    x = np.asarray(x, np.float64)
    mean, var, _ = _with_earlier(x, earlier, axis, ddof)
    return batch_norm_forward(
        x,
        gamma,
        beta,
        statistics=(mean, var),
        axis=axis,
        eps=eps,
        activation=activation,
        residual=residual,
    )


@np.errstate(invalid="ignore")
def cross_iteration_batch_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    earlier: Sequence[tuple[ArrayLike, ArrayLike, int]],
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    axis: int | tuple[int, ...] = 1,
    eps: float = 1e-5,
    ddof: int = 0,
    activation: Activation = None,
    residual: ArrayLike | None = None,
) -> BatchNormGradients:
    """Differentiate `cross_iteration_batch_norm_forward`.

    Let x have m values in a channel and mean m1, all batches M values and mean; p = m / M is the
    share of x. z depends on x directly and through mean and var of all, whose gradients are::

        dmean = -gamma / s sum(dz)            dvar = -gamma / (2 s^2) sum(dz xh)

    where sums are over x alone: the y of earlier batches have been and gone. One value moves m1
    by 1 / m and mean by p / m = 1 / M. It moves var in two ways: within x, by p 2 (x - m1) / m,
    and by the distance of x's mean from that of all, by p 2 (m1 - mean) / m; that the mean of all
    moves too is of no effect, deviations from it summing to zero. Together::

        d(var)/dx = 2 (x - mean) / M          (M - ddof for the variance over M - ddof)

    Put together, that is the gradient of batch norm with M in the place of m::

        dx = gamma / s (dz - sum(dz) / M - xh sum(dz xh) / (M - ddof))

    Parameters
    ----------
    dy : array of x's shape
        The gradient of the loss with respect to the forward's y.
    x, earlier, gamma, beta, axis, eps, ddof, activation, residual
        What the forward was given.

    Returns
    -------
    BatchNormGradients

    Examples
    --------
    >>> earlier = [([2.0], [1.0], 2)]
    >>> cross_iteration_batch_norm_backward([[1.0], [0.0]], [[5.0], [7.0]], earlier, eps=4.0).dx
    array([[ 0.24074074],
           [-0.11111111]])
    """
    x = np.asarray(x, np.float64)
    mean, var, count = _with_earlier(x, earlier, axis, ddof)
    gradients = batch_norm_backward(
        dy,
        x,
        gamma,
        beta,
        statistics=(mean, var),
        axis=axis,
        eps=eps,
        activation=activation,
        residual=residual,
    )
    # So far mean and var are constants, and dx is gamma / s dz. Now what comes through them.
    reduced = reduced_axes(x.ndim, axis)
    deviation = x - np.expand_dims(mean, reduced)
    s = 1.0 / np.expand_dims(inverse_std(var, eps), reduced)
    dmean = -np.sum(gradients.dx, axis=reduced, keepdims=True)
    dvar = -np.sum(gradients.dx * deviation, axis=reduced, keepdims=True) / (2.0 * s * s)
    dx = gradients.dx + dmean / count + dvar * 2.0 * deviation / (count - ddof)
    return gradients._replace(dx=dx)


def _with_earlier(
    x: Array,
    earlier: Sequence[tuple[ArrayLike, ArrayLike, int]],
    axis: int | tuple[int, ...],
    ddof: int,
) -> tuple[Array, Array, int]:
    mean, var = batch_statistics(x, axis=axis)
    m = values_per_channel(x, reduced_axes(x.ndim, axis))
    mean, var, count = merge_statistics([(mean, var, m), *earlier])
    return mean, var * (count / (count - ddof)), count


def dense_statistics_gradients(x: ArrayLike, weight: ArrayLike) -> tuple[Array, Array]:
    """Differentiate the mean and variance (over m) of a dense layer's outputs by its weights.

    With z = x weight^T and n rows: ``d(mean_k)/d(weight_k) = mean(x)``, and
    ``d(var_k)/d(weight_k) = 2 / n sum((z_k - mean_k) x)``.

    Parameters
    ----------
    x : array (n, c)
    weight : array (k, c)

    Returns
    -------
    dmean, dvar : arrays (k, c)

    Examples
    --------
    >>> dense_statistics_gradients([[1.0], [3.0]], [[2.0]])
    (array([[2.]]), array([[4.]]))
    """
    z = dense_forward(x, weight)
    deviation = z - np.mean(z, axis=0)
    dmean = dense_backward(np.ones_like(z) / len(z), x, weight).dweight
    return dmean, dense_backward(2.0 * deviation / len(z), x, weight).dweight


def conv2d_statistics_gradients(
    x: ArrayLike, weight: ArrayLike, **options: Any
) -> tuple[Array, Array]:
    """Differentiate the mean and variance (over m) of a convolution's channels by its weights.

    Parameters
    ----------
    x, weight
        As in `conv2d_forward`.
    **options
        Its stride, padding, dilation and groups.

    Returns
    -------
    dmean, dvar : arrays of weight's shape

    Examples
    --------
    >>> conv2d_statistics_gradients([[[[1.0, 3.0]]]], [[[[2.0]]]])
    (array([[[[2.]]]]), array([[[[4.]]]]))
    """
    z = conv2d_forward(x, weight, **options)
    m = z.size // z.shape[1]
    deviation = z - np.mean(z, axis=(0, 2, 3), keepdims=True)
    dmean = conv2d_backward(np.ones_like(z) / m, x, weight, **options).dweight
    return dmean, conv2d_backward(2.0 * deviation / m, x, weight, **options).dweight


def compensate_statistics(
    mean: ArrayLike, var: ArrayLike, dmean: ArrayLike, dvar: ArrayLike, change: ArrayLike
) -> tuple[Array, Array]:
    """Carry a batch's statistics over to weights that have changed since.

    By Taylor's theorem, with the derivatives by the weights of the layer directly in front, those
    of layers before it being small (Yao et al. 2020)::

        mean' = mean + sum(dmean change)        var' = max(0, var + sum(dvar change))

    The mean is linear in the weights, so mean' is exact for the same x. The paper expands the mean
    of the squares rather than the variance and takes its maximum with the square of mean', so that
    var' >= 0; that differs by -sum(dmean change)^2, which is of second order and, unlike the
    variance, depends on the mean of x.

    Parameters
    ----------
    mean, var : arrays (k,)
    dmean, dvar, change : arrays (k, ...)

    Returns
    -------
    mean, var : arrays (k,)

    Examples
    --------
    >>> compensate_statistics([4.0], [4.0], [[2.0]], [[4.0]], [[0.1]])
    (array([4.2]), array([4.4]))
    """
    change = np.asarray(change, np.float64)
    along = tuple(range(1, change.ndim))
    moved = np.asarray(mean) + np.sum(dmean * change, axis=along)
    return moved, np.maximum(0.0, np.asarray(var) + np.sum(dvar * change, axis=along))
