"""Group and instance normalization: batch norm's formulas, with statistics of each sample."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from nbnorm.reference.activation import Activation, activate, activate_derivative
from nbnorm.reference.arrays import Array
from nbnorm.reference.batch_norm import BatchNormGradients, batch_statistics, inverse_std


def group_norm_forward(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    num_groups: int,
    axis: int = 1,
    eps: float = 1e-5,
    activation: Activation = None,
    residual: ArrayLike | None = None,
) -> Array:
    """Normalize each sample's groups of channels: activation(gamma xh + beta + residual).

    Parameters
    ----------
    x : array of any shape, samples first
    gamma, beta : arrays (c,), optional
    num_groups : int
        A divisor of the number of channels.
    axis : int
        That of the channels.
    eps : float
        Added to the variance, inside the root.
    activation : as in `activate`
    residual : array of x's shape, optional

    Returns
    -------
    y : array of x's shape

    Examples
    --------
    >>> group_norm_forward([[1.0, 3.0, 10.0, 30.0]], num_groups=2, eps=0.0)
    array([[-1.,  1., -1.,  1.]])
    """
    xh, _ = _standardize(x, num_groups, axis, eps)
    return activate(_scale_and_shift(xh, gamma, beta, residual, axis), activation)


def group_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    num_groups: int,
    axis: int = 1,
    eps: float = 1e-5,
    activation: Activation = None,
    residual: ArrayLike | None = None,
) -> BatchNormGradients:
    """Differentiate `group_norm_forward`.

    Parameters
    ----------
    dy : array of x's shape
    x, gamma, beta, num_groups, axis, eps, activation, residual : what the forward was given

    Returns
    -------
    BatchNormGradients

    Examples
    --------
    >>> group_norm_backward([[1.0, 0.0]], [[1.0, 3.0]], beta=[0.0, 0.0], num_groups=1).dbeta
    array([1., 0.])
    """
    dy = np.asarray(dy, np.float64)
    xh, inv_std = _standardize(x, num_groups, axis, eps)
    z = _scale_and_shift(xh, gamma, beta, residual, axis)
    dz = dy * activate_derivative(z, activation)
    scaled = _grouped(dz * _along(gamma, axis, dz.ndim), num_groups, axis)
    own = _grouped(xh, num_groups, axis)
    with np.errstate(invalid="ignore"):
        dx = inv_std * (scaled - _mean(scaled) - own * _mean(scaled * own))
    others = tuple(a for a in range(dz.ndim) if a != axis % dz.ndim)
    return BatchNormGradients(
        _ungrouped(dx, dz.shape, axis),
        None if gamma is None else np.sum(dz * xh, axis=others),
        None if beta is None else np.sum(dz, axis=others),
        None if residual is None else dz,
    )


def instance_norm_forward(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    axis: int = 1,
    eps: float = 1e-5,
    activation: Activation = None,
    residual: ArrayLike | None = None,
) -> Array:
    """Normalize each channel of each sample: a group norm of as many groups as channels.

    Parameters and result are those of `group_norm_forward`.

    Examples
    --------
    >>> instance_norm_forward([[[1.0, 3.0], [10.0, 30.0]]], eps=0.0)
    array([[[-1.,  1.],
            [-1.,  1.]]])
    """
    return group_norm_forward(
        x, gamma, beta, num_groups=np.shape(x)[axis], axis=axis, eps=eps, activation=activation,
        residual=residual,
    )  # fmt: skip


def instance_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    axis: int = 1,
    eps: float = 1e-5,
    activation: Activation = None,
    residual: ArrayLike | None = None,
) -> BatchNormGradients:
    """Differentiate `instance_norm_forward`.

    Parameters and result are those of `group_norm_backward`.

    Examples
    --------
    >>> instance_norm_backward([[[1.0, 0.0]]], [[[1.0, 3.0]]], beta=[0.0]).dbeta
    array([1.])
    """
    return group_norm_backward(
        dy, x, gamma, beta, num_groups=np.shape(x)[axis], axis=axis, eps=eps,
        activation=activation, residual=residual,
    )  # fmt: skip


@np.errstate(invalid="ignore")
def _standardize(x: ArrayLike, num_groups: int, axis: int, eps: float) -> tuple[Array, Array]:
    """Xh in x's shape, and 1 / s of each group of each sample."""
    x = np.asarray(x, np.float64)
    grouped = _grouped(x, num_groups, axis)
    mean, var = (each[..., None] for each in batch_statistics(grouped, axis=(0, 1)))
    inv_std = inverse_std(var, eps)
    return _ungrouped((grouped - mean) * inv_std, x.shape, axis), inv_std


def _grouped(x: Array, num_groups: int, axis: int) -> Array:
    """(samples, groups, values of a group)."""
    return np.moveaxis(x, axis, 1).reshape(len(x), num_groups, x[:1].size // max(1, num_groups))


def _ungrouped(grouped: Array, shape: tuple[int, ...], axis: int) -> Array:
    """The opposite of `_grouped`."""
    first = np.moveaxis(np.empty(shape), axis, 1).shape
    return np.moveaxis(grouped.reshape(first), 1, axis)


def _mean(grouped: Array) -> Array:
    return np.mean(grouped, axis=2, keepdims=True)


def _along(numbers: ArrayLike | None, axis: int, ndim: int) -> Array:
    """Numbers for the channels, to broadcast against x; 1 where there are none."""
    if numbers is None:
        return np.ones(())
    shape = [1] * ndim
    shape[axis] = -1
    return np.asarray(numbers, np.float64).reshape(shape)


def _scale_and_shift(
    xh: Array,
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
    residual: ArrayLike | None,
    axis: int,
) -> Array:
    z = xh * _along(gamma, axis, xh.ndim)
    if beta is not None:
        z = z + _along(beta, axis, xh.ndim)
    return z if residual is None else z + np.asarray(residual, np.float64)
