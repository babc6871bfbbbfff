"""Batch normalization: see the head of the package for the mathematics."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from nbnorm.reference.activation import Activation, activate, activate_derivative
from nbnorm.reference.arrays import Array


class BatchNormGradients(NamedTuple):
    """Gradients of batch normalization; None where the forward had no such argument."""

    dx: Array
    dgamma: Array | None
    dbeta: Array | None
    dresidual: Array | None


@np.errstate(invalid="ignore")  # inf - inf is NaN, as specified: no news to warn about
def batch_statistics(
    x: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    axis: int | tuple[int, ...] = 1,
    ddof: int = 0,
) -> tuple[Array, Array]:
    """Take each channel's mean and variance, in two passes.

    With weights of the places, m is their sum and every term of a sum is w times as large.

    Parameters
    ----------
    x : array of any shape
    sample_weight : array that broadcasts against x, the kept axes at length 1, optional
    axis : int or tuple of ints
        The axes that keep statistics of their own; all others are reduced.
    ddof : 0 or 1
        The variance is the sum of squared deviations over m - ddof.

    Returns
    -------
    mean, var : arrays of the kept axes' shape, in the order in which x has them

    Examples
    --------
    >>> mean, var = batch_statistics([[1.0, 7.0], [3.0, 7.0]])
    >>> mean, var
    (array([2., 7.]), array([1., 0.]))
    """
    x = np.asarray(x, np.float64)
    reduced = reduced_axes(x.ndim, axis)
    w = places_of(x, reduced, sample_weight)
    m = np.sum(w)
    mean = np.sum(w * x, axis=reduced) / m
    # The rounded mean of a constant channel need not be the constant: (0.1 + 0.1 + 0.1) / 3 is
    # not 0.1. Adding the mean of what is left over makes it so, and refines every other mean.
    mean = mean + np.sum(w * (x - np.expand_dims(mean, reduced)), axis=reduced) / m
    var = np.sum(w * (x - np.expand_dims(mean, reduced)) ** 2, axis=reduced) / (m - ddof)
    return mean, var


def inverse_std(var: ArrayLike, eps: float) -> Array:
    """Return 1 / sqrt(var + eps), and 0 where var + eps is 0: a constant channel becomes beta.

    Examples
    --------
    >>> inverse_std([4.0, 0.0], eps=0.0)
    array([0.5, 0. ])
    """
    shifted = np.asarray(var, np.float64) + eps
    return np.divide(1.0, np.sqrt(shifted), out=np.zeros_like(shifted), where=shifted != 0.0)


@np.errstate(invalid="ignore")
def batch_norm_forward(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    statistics: tuple[ArrayLike, ArrayLike] | None = None,
    sample_weight: ArrayLike | None = None,
    axis: int | tuple[int, ...] = 1,
    eps: float = 1e-5,
    ddof: int = 0,
    activation: Activation = None,
    residual: ArrayLike | None = None,
) -> Array:
    """Normalize each channel of x, scale and shift it: activation(gamma xh + beta + residual).

    Parameters
    ----------
    x : array of any shape
    gamma, beta : arrays of the kept axes' shape, optional
    statistics : (mean, var), optional
        Arrays of the kept axes' shape. By default the statistics of x itself.
    sample_weight : as in `batch_statistics`, optional
    axis : int or tuple of ints
        The axes that keep statistics of their own.
    eps : float
        Added to the variance, inside the root.
    ddof : 0 or 1
        Divides the variance by m - ddof; of no effect where statistics are given.
    activation : as in `activate`
    residual : array of x's shape, optional

    Returns
    -------
    y : array of x's shape

    Examples
    --------
    >>> batch_norm_forward([[1.0], [3.0]], gamma=[2.0], beta=[10.0], eps=0.0)
    array([[ 8.],
           [12.]])
    """
    x = np.asarray(x, np.float64)
    reduced = reduced_axes(x.ndim, axis)
    w = places_of(x, reduced, sample_weight)
    mean, var = statistics or batch_statistics(x, sample_weight=sample_weight, axis=axis, ddof=ddof)
    deviations = _deviations(x, mean, w if statistics is None else None, reduced)
    xh = deviations * np.expand_dims(inverse_std(var, eps), reduced)
    return activate(_scale_and_shift(xh, gamma, beta, residual, reduced), activation)


def batch_norm_inference(
    x: ArrayLike,
    mean: ArrayLike,
    var: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    axis: int | tuple[int, ...] = 1,
    eps: float = 1e-5,
    activation: Activation = None,
    residual: ArrayLike | None = None,
) -> Array:
    """Normalize with given statistics: `batch_norm_forward` with ``statistics=(mean, var)``.

    Examples
    --------
    >>> batch_norm_inference([[3.0], [5.0]], mean=[1.0], var=[4.0], eps=0.0)
    array([[1.],
           [2.]])
    """
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
def batch_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    statistics: tuple[ArrayLike, ArrayLike] | None = None,
    sample_weight: ArrayLike | None = None,
    axis: int | tuple[int, ...] = 1,
    eps: float = 1e-5,
    ddof: int = 0,
    activation: Activation = None,
    residual: ArrayLike | None = None,
) -> BatchNormGradients:
    """Differentiate `batch_norm_forward`; given statistics are constants, and so are weights.

    The path through mean and variance leads to x by way of its weight, so that its terms are w
    times as large; what comes along it are the sums over all places, whatever their weights.

    Parameters
    ----------
    dy : array of x's shape
        The gradient of the loss with respect to the forward's y.
    x, gamma, beta, statistics, sample_weight, axis, eps, ddof, activation, residual
        What the forward was given.

    Returns
    -------
    BatchNormGradients
        dx and dresidual of x's shape, dgamma and dbeta of the kept axes'; None for the gradient
        of an argument that was not given.

    Examples
    --------
    >>> gradients = batch_norm_backward([[1.0], [0.0]], [[3.0], [5.0]], gamma=[6.0],
    ...                                 statistics=([1.0], [4.0]), eps=0.0)
    >>> gradients.dgamma
    array([1.])
    >>> gradients.dx
    array([[3.],
           [0.]])
    """
    x = np.asarray(x, np.float64)
    reduced = reduced_axes(x.ndim, axis)
    w = places_of(x, reduced, sample_weight)
    m = np.sum(w)

    # The forward again, as far as the value that entered the activation.
    mean, var = statistics or batch_statistics(x, sample_weight=sample_weight, axis=axis, ddof=ddof)
    inv_std = np.expand_dims(inverse_std(var, eps), reduced)
    xh = _deviations(x, mean, w if statistics is None else None, reduced) * inv_std
    z = _scale_and_shift(xh, gamma, beta, residual, reduced)

    dz = np.asarray(dy, np.float64) * activate_derivative(z, activation)
    sum_dz = np.sum(dz, axis=reduced)
    sum_dz_xh = np.sum(dz * xh, axis=reduced)

    dx = dz
    if statistics is None:
        through_mean = np.expand_dims(sum_dz / m, reduced)
        through_var = xh * np.expand_dims(sum_dz_xh / (m - ddof), reduced)
        dx = dz - w * (through_mean + through_var)
    dx = dx * inv_std
    if gamma is not None:
        dx = dx * np.expand_dims(gamma, reduced)

    return BatchNormGradients(
        dx,
        dgamma=None if gamma is None else sum_dz_xh,
        dbeta=None if beta is None else sum_dz,
        dresidual=None if residual is None else dz,
    )


def batch_norm_gradient_sums(
    dy: ArrayLike,
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    **options: Any,
) -> Array:
    """The two sums over x in the dx of `batch_norm_backward`: sum(dz) and sum(dz xh).

    Of a part of a batch, they add up over the parts.

    Parameters
    ----------
    dy, x, gamma, beta, **options
        As in `batch_norm_backward`.

    Returns
    -------
    array (2, ...) of the kept axes' shape

    Examples
    --------
    >>> batch_norm_gradient_sums([[1.0], [0.0]], [[3.0], [5.0]], statistics=([1.0], [4.0]), eps=0.0)
    array([[1.],
           [1.]])
    """
    x = np.asarray(x, np.float64)
    kept = np.sum(x, axis=reduced_axes(x.ndim, options.get("axis", 1))).shape
    # dbeta and dgamma, whether there are beta and gamma or not.
    gamma = np.ones(kept) if gamma is None else gamma
    beta = np.zeros(kept) if beta is None else beta
    _, dgamma, dbeta, _ = batch_norm_backward(dy, x, gamma, beta, **options)
    return np.array([dbeta, dgamma])


def reduced_axes(ndim: int, axis: int | tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes that statistics are taken over: those that `axis` does not keep.

    They are also what ``np.expand_dims`` needs to lay a per-channel array along x.
    """
    kept = {int(a) % ndim for a in np.atleast_1d(axis)}
    return tuple(a for a in range(ndim) if a not in kept)


def values_per_channel(x: Array, reduced: tuple[int, ...]) -> int:
    """The number m where places have no weights."""
    return math.prod(x.shape[a] for a in reduced)


def places_of(x: Array, reduced: tuple[int, ...], sample_weight: ArrayLike | None) -> Array:
    """The weights of all places of a channel, with the kept axes at length 1."""
    shape = [size if axis in reduced else 1 for axis, size in enumerate(x.shape)]
    weights = 1.0 if sample_weight is None else np.asarray(sample_weight, np.float64)
    return np.broadcast_to(weights, shape)


def _deviations(x: Array, mean: ArrayLike, w: Array | None, reduced: tuple[int, ...]) -> Array:
    """Subtract a mean that was given, or if there are weights the batch's own.

    A mean of 1e12 has four digits after the point: the batch's own is subtracted in two parts, as
    float64 has it, and what is left over.
    """
    deviations = x - np.expand_dims(mean, reduced)
    if w is None:
        return deviations
    rest = np.sum(w * deviations, axis=reduced) / np.sum(w)
    return deviations - np.expand_dims(rest, reduced)


def _scale_and_shift(
    xh: Array,
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
    residual: ArrayLike | None,
    reduced: tuple[int, ...],
) -> Array:
    z = xh
    if gamma is not None:
        z = z * np.expand_dims(gamma, reduced)
    if beta is not None:
        z = z + np.expand_dims(beta, reduced)
    if residual is not None:
        z = z + np.asarray(residual, np.float64)
    return z
