r"""Every operation in plain NumPy and float64: the specification, written to be read first.

The compiled kernels are tested against this file, and this file against finite differences and
cases worked by hand. It prefers the shortest correct statement to speed, takes its arguments on
trust (checking them is the work of the public functions) and keeps nothing between calls: a
backward is given what its forward was given.

Batch normalization
-------------------
From Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing
Internal Covariate Shift", 2015, https://arxiv.org/abs/1502.03167. Each channel keeps statistics
of its own, taken over its m values::

    mean = sum(x) / m
    var  = sum((x - mean)^2) / (m - ddof)
    s    = sqrt(var + eps)
    xh   = (x - mean) / s
    z    = gamma xh + beta + residual
    y    = activation(z)

Given dy, the gradient of the loss with respect to y, the chain rule starts with
``dz = dy activation'(z)`` and gives at once::

    dresidual = dz
    dbeta     = sum(dz)
    dgamma    = sum(dz xh)

x reaches z along three paths: directly, through the mean and through the variance. With
``d(mean)/dx = 1 / m`` and, because deviations from the mean sum to zero,
``d(var)/dx = 2 (x - mean) / (m - ddof)``, they add up to::

    dx = gamma / s (dz - sum(dz) / m - xh sum(dz xh) / (m - ddof))     statistics of this batch
    dx = gamma / s dz                                                  statistics given (frozen)

The mean's path always divides by m, the variance's by whatever the variance was divided by.

Two slips to avoid
~~~~~~~~~~~~~~~~~~
The text that this library grew out of (N. Curti's PhD thesis, University of Bologna, "BatchNorm
function" in the chapter on neural networks) gets two formulas wrong, and both have been copied:

- ``dgamma = sum(dy mean)``: the factor is xh, the value that gamma multiplies, not the mean;
- ``var`` over m - 1 together with the dx of ``var`` over m: the last term of dx must use the same
  m - ddof as the variance.

``tests/test_reference.py`` shows that finite differences reject each of them.

Dense and convolution
---------------------
Weights are laid out as PyTorch's and ONNX's. In the shapes below n is the batch, c the input
channels, k the output channels, h w the image, r s the convolution's window.

Both also come with a batch norm behind them, which is what it says: one operation and then the
other, and the chain rule through the two. In inference the batch norm is a linear map of each
channel and folds into the weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Activation",
    "BatchNormGradients",
    "Conv2dBatchNormGradients",
    "Conv2dGradients",
    "DenseBatchNormGradients",
    "DenseGradients",
    "activate",
    "activate_derivative",
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_norm_inference",
    "batch_statistics",
    "compensate_statistics",
    "conv2d_backward",
    "conv2d_batch_norm_backward",
    "conv2d_batch_norm_forward",
    "conv2d_batch_norm_inference",
    "conv2d_forward",
    "conv2d_statistics_gradients",
    "cross_iteration_batch_norm_backward",
    "cross_iteration_batch_norm_forward",
    "dense_backward",
    "dense_batch_norm_backward",
    "dense_batch_norm_forward",
    "dense_batch_norm_inference",
    "dense_forward",
    "dense_statistics_gradients",
    "fold_batch_norm",
    "inverse_std",
    "l1_normalize_backward",
    "l1_normalize_forward",
    "l1_penalty",
    "l2_normalize_backward",
    "l2_normalize_forward",
    "l2_penalty",
    "merge_statistics",
]

Array: TypeAlias = NDArray[np.float64]
Activation: TypeAlias = str | tuple[str, float] | None
Pair: TypeAlias = int | tuple[int, int]
Padding: TypeAlias = Pair | Literal["same"]

LEAKY_RELU_SLOPE = 0.01


class BatchNormGradients(NamedTuple):
    """Gradients of batch normalization; None where the forward had no such argument."""

    dx: Array
    dgamma: Array | None
    dbeta: Array | None
    dresidual: Array | None


class DenseGradients(NamedTuple):
    """Gradients of a dense layer."""

    dx: Array
    dweight: Array
    dbias: Array


class Conv2dGradients(NamedTuple):
    """Gradients of a convolution."""

    dx: Array
    dweight: Array
    dbias: Array


class DenseBatchNormGradients(NamedTuple):
    """Gradients of a dense layer with batch norm; None where the forward had no such argument."""

    dx: Array
    dweight: Array
    dbias: Array | None
    dgamma: Array | None
    dbeta: Array | None
    dresidual: Array | None


class Conv2dBatchNormGradients(NamedTuple):
    """Gradients of a convolution with batch norm; None where the forward had no such argument."""

    dx: Array
    dweight: Array
    dbias: Array | None
    dgamma: Array | None
    dbeta: Array | None
    dresidual: Array | None


# --------------------------------------------------------------------------------------------
# Activations
# --------------------------------------------------------------------------------------------


def activate(z: Array, activation: Activation = None) -> Array:
    """Apply an activation elementwise; NaN stays NaN.

    Parameters
    ----------
    z : array of any shape
    activation : None, "relu", "leaky_relu", ("leaky_relu", slope), "silu" or "mish"
        A leaky ReLU's slope is 0.01 unless given.

    Returns
    -------
    array of z's shape

    Examples
    --------
    >>> activate(np.array([-2.0, 0.0, 3.0]), ("leaky_relu", 0.5))
    array([-1.,  0.,  3.])
    """
    match activation:
        case None:
            return z
        case "relu":
            return np.maximum(z, 0.0)
        case "leaky_relu":
            return activate(z, ("leaky_relu", LEAKY_RELU_SLOPE))
        case ("leaky_relu", slope):
            return np.where(z > 0.0, z, slope * z)
        case "silu":
            return z * _sigmoid(z)
        case "mish":
            return z * np.tanh(_softplus(z))
    raise ValueError(f"unknown activation {activation!r}")


def activate_derivative(z: Array, activation: Activation = None) -> Array:
    """Differentiate an activation elementwise, at the value z that entered it; NaN stays NaN.

    At the kink, z = 0, the derivative of ReLU is 0 and that of a leaky ReLU its slope: the value
    on the side of the negative numbers, as PyTorch has it.

    Parameters
    ----------
    z : array of any shape
    activation : as in `activate`

    Returns
    -------
    array of z's shape

    Examples
    --------
    >>> activate_derivative(np.array([-2.0, 0.0, 3.0]), "relu")
    array([0., 0., 1.])
    """
    match activation:
        case None:
            return np.ones_like(z)
        case "relu":
            return activate_derivative(z, ("leaky_relu", 0.0))
        case "leaky_relu":
            return activate_derivative(z, ("leaky_relu", LEAKY_RELU_SLOPE))
        case ("leaky_relu", slope):
            return np.select([z > 0.0, z <= 0.0], [1.0, slope], default=np.nan)
        case "silu":
            # (z sigmoid)' = sigmoid + z sigmoid', and sigmoid' = sigmoid(z) sigmoid(-z).
            return _sigmoid(z) * (1.0 + z * _sigmoid(-z))
        case "mish":
            # With t = tanh(softplus(z)): (z t)' = t + z t', and softplus' = sigmoid.
            t = np.tanh(_softplus(z))
            return t + z * (1.0 - t * t) * _sigmoid(z)
    raise ValueError(f"unknown activation {activation!r}")


def _sigmoid(z: Array) -> Array:
    # 1 / (1 + exp(-z)), written with exp of negative numbers only, which cannot overflow.
    e = np.exp(-np.abs(z))
    return np.where(z < 0.0, e, 1.0) / (1.0 + e)


def _softplus(z: Array) -> Array:
    # log(1 + exp(z)), likewise.
    return np.maximum(z, 0.0) + np.log1p(np.exp(-np.abs(z)))


# --------------------------------------------------------------------------------------------
# Batch normalization
# --------------------------------------------------------------------------------------------


@np.errstate(invalid="ignore")  # inf - inf is NaN, as specified: no news to warn about
def batch_statistics(
    x: ArrayLike, *, axis: int | tuple[int, ...] = 1, ddof: int = 0
) -> tuple[Array, Array]:
    """Take each channel's mean and variance, in two passes.

    Parameters
    ----------
    x : array of any shape
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
    reduced = _reduced_axes(x.ndim, axis)
    m = _values_per_channel(x, reduced)
    mean = np.sum(x, axis=reduced) / m
    # The rounded mean of a constant channel need not be the constant: (0.1 + 0.1 + 0.1) / 3 is
    # not 0.1. Adding the mean of what is left over makes it so, and refines every other mean.
    mean = mean + np.sum(x - np.expand_dims(mean, reduced), axis=reduced) / m
    var = np.sum((x - np.expand_dims(mean, reduced)) ** 2, axis=reduced) / (m - ddof)
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
    reduced = _reduced_axes(x.ndim, axis)
    mean, var = batch_statistics(x, axis=axis, ddof=ddof) if statistics is None else statistics
    xh = (x - np.expand_dims(mean, reduced)) * np.expand_dims(inverse_std(var, eps), reduced)
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
    axis: int | tuple[int, ...] = 1,
    eps: float = 1e-5,
    ddof: int = 0,
    activation: Activation = None,
    residual: ArrayLike | None = None,
) -> BatchNormGradients:
    """Differentiate `batch_norm_forward`; given statistics are constants.

    Parameters
    ----------
    dy : array of x's shape
        The gradient of the loss with respect to the forward's y.
    x, gamma, beta, statistics, axis, eps, ddof, activation, residual
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
    reduced = _reduced_axes(x.ndim, axis)
    m = _values_per_channel(x, reduced)

    # The forward again, as far as the value that entered the activation.
    mean, var = batch_statistics(x, axis=axis, ddof=ddof) if statistics is None else statistics
    inv_std = np.expand_dims(inverse_std(var, eps), reduced)
    xh = (x - np.expand_dims(mean, reduced)) * inv_std
    z = _scale_and_shift(xh, gamma, beta, residual, reduced)

    dz = np.asarray(dy, np.float64) * activate_derivative(z, activation)
    sum_dz = np.sum(dz, axis=reduced)
    sum_dz_xh = np.sum(dz * xh, axis=reduced)

    dx = dz
    if statistics is None:
        dx = (
            dz
            - np.expand_dims(sum_dz / m, reduced)
            - xh * np.expand_dims(sum_dz_xh / (m - ddof), reduced)
        )
    dx = dx * inv_std
    if gamma is not None:
        dx = dx * np.expand_dims(gamma, reduced)

    return BatchNormGradients(
        dx,
        dgamma=None if gamma is None else sum_dz_xh,
        dbeta=None if beta is None else sum_dz,
        dresidual=None if residual is None else dz,
    )


def _reduced_axes(ndim: int, axis: int | tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes that statistics are taken over: those that `axis` does not keep.

    They are also what ``np.expand_dims`` needs to lay a per-channel array along x.
    """
    kept = {int(a) % ndim for a in np.atleast_1d(axis)}
    return tuple(a for a in range(ndim) if a not in kept)


def _values_per_channel(x: Array, reduced: tuple[int, ...]) -> int:
    return math.prod(x.shape[a] for a in reduced)


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


# --------------------------------------------------------------------------------------------
# Dense
# --------------------------------------------------------------------------------------------


def dense_forward(x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> Array:
    """Multiply by a weight matrix and add a bias: y = x W^T + b.

    Parameters
    ----------
    x : array (..., c)
    weight : array (k, c)
    bias : array (k,), optional

    Returns
    -------
    y : array (..., k)

    Examples
    --------
    >>> dense_forward([[1.0, 2.0]], weight=[[3.0, 4.0], [5.0, 6.0]], bias=[0.0, 1.0])
    array([[11., 18.]])
    """
    y = np.asarray(x, np.float64) @ np.asarray(weight, np.float64).T
    return y if bias is None else y + np.asarray(bias, np.float64)


def dense_backward(dy: ArrayLike, x: ArrayLike, weight: ArrayLike) -> DenseGradients:
    """Differentiate `dense_forward`: dx = dy W, dW = dy^T x, db = sum(dy).

    Parameters
    ----------
    dy : array (..., k)
    x : array (..., c)
    weight : array (k, c)

    Returns
    -------
    DenseGradients
        dx (..., c), dweight (k, c), dbias (k,).

    Examples
    --------
    >>> dense_backward([[1.0, 10.0]], [[1.0, 2.0]], [[3.0, 4.0], [5.0, 6.0]]).dweight
    array([[ 1.,  2.],
           [10., 20.]])
    """
    dy, x, weight = (np.asarray(a, np.float64) for a in (dy, x, weight))
    rows = math.prod(x.shape[:-1])
    dy_rows = dy.reshape(rows, weight.shape[0])
    x_rows = x.reshape(rows, weight.shape[1])
    return DenseGradients(dx=dy @ weight, dweight=dy_rows.T @ x_rows, dbias=dy_rows.sum(axis=0))


# --------------------------------------------------------------------------------------------
# Convolution
# --------------------------------------------------------------------------------------------


def conv2d_forward(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Array:
    """Slide a window over a channels-first image (cross-correlation, as every framework has it).

    Parameters
    ----------
    x : array (n, c, h, w)
    weight : array (k, c / groups, r, s)
    bias : array (k,), optional
    stride, dilation : int or pair
    padding : int or pair or "same"
        Zeros added on both sides; "same", for stride 1, keeps the image's size, and an odd zero
        goes to the bottom and the right.
    groups : int
        The first k / groups output channels see the first c / groups input channels, and so on.

    Returns
    -------
    y : array (n, k, h', w') with h' = (h + padding - dilation (r - 1) - 1) // stride + 1, where
        padding counts both sides, and w' likewise

    Examples
    --------
    >>> conv2d_forward(np.arange(9.0).reshape(1, 1, 3, 3), [[[[1.0, 0.0], [0.0, 1.0]]]])
    array([[[[ 4.,  6.],
             [10., 12.]]]])
    """
    x, weight = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    seen = _windows(_pad(x, weight, padding, dilation), weight, stride, dilation)
    y = np.einsum("ngchwrs,gkcrs->ngkhw", _split(seen, 1, groups), _split(weight, 0, groups))
    y = y.reshape(x.shape[0], weight.shape[0], *y.shape[3:])
    return y if bias is None else y + np.asarray(bias, np.float64)[:, np.newaxis, np.newaxis]


def conv2d_backward(
    dy: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Conv2dGradients:
    """Differentiate `conv2d_forward`.

    Each weight receives what it saw times dy; each pixel, from every place of the window that saw
    it, the weight it met there times dy.

    Parameters
    ----------
    dy : array (n, k, h', w')
    x, weight, stride, padding, dilation, groups
        What the forward was given.

    Returns
    -------
    Conv2dGradients
        dx of x's shape, dweight of weight's, dbias (k,).

    Examples
    --------
    >>> conv2d_backward([[[[1.0, 10.0]]]], [[[[2.0, 3.0, 4.0]]]], [[[[5.0, 6.0]]]]).dx
    array([[[[ 5., 56., 60.]]]])
    """
    dy, x, weight = (np.asarray(a, np.float64) for a in (dy, x, weight))
    grouped_dy, grouped_weight = _split(dy, 1, groups), _split(weight, 0, groups)

    padded = _pad(x, weight, padding, dilation)
    seen = _split(_windows(padded, weight, stride, dilation), 1, groups)
    dweight = np.einsum("ngkhw,ngchwrs->gkcrs", grouped_dy, seen).reshape(weight.shape)

    dpadded = np.zeros_like(padded)
    receivers = _windows(dpadded, weight, stride, dilation)
    for r, s in np.ndindex(weight.shape[2:]):  # one at a time: places of the window overlap
        product = np.einsum("ngkhw,gkc->ngchw", grouped_dy, grouped_weight[..., r, s])
        receivers[..., r, s] += product.reshape(receivers.shape[:4])
    (top, _), (left, _) = _zeros_around(weight, padding, dilation)
    dx = dpadded[:, :, top : top + x.shape[2], left : left + x.shape[3]]

    return Conv2dGradients(dx, dweight, dbias=dy.sum(axis=(0, 2, 3)))


def _zeros_around(
    weight: Array, padding: Padding, dilation: Pair
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return ((top, bottom), (left, right))."""
    if isinstance(padding, str):  # "same": as many zeros as the window covers beyond one pixel
        rows, columns = (size - 1 for size in _extent(weight, dilation))
        return (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)
    vertical, horizontal = _pair(padding)
    return (vertical, vertical), (horizontal, horizontal)


def _pad(x: Array, weight: Array, padding: Padding, dilation: Pair) -> Array:
    return np.pad(x, ((0, 0), (0, 0), *_zeros_around(weight, padding, dilation)))


def _windows(padded: Array, weight: Array, stride: Pair, dilation: Pair) -> Array:
    """View an image as what the window sees at each of its places: (n, c, h', w', r, s)."""
    extent = _extent(weight, dilation)
    image_axes: Any = (2, 3)  # Any: NumPy before 2.3 declares a single axis, and takes several
    view = np.lib.stride_tricks.sliding_window_view(padded, extent, image_axes, writeable=True)
    (down, right), (rows_apart, columns_apart) = _pair(stride), _pair(dilation)
    return view[:, :, ::down, ::right, ::rows_apart, ::columns_apart]


def _extent(weight: Array, dilation: Pair) -> tuple[int, int]:
    """Return how many rows and columns a dilated window covers."""
    rows_apart, columns_apart = _pair(dilation)
    return rows_apart * (weight.shape[2] - 1) + 1, columns_apart * (weight.shape[3] - 1) + 1


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _split(a: Array, axis: int, groups: int) -> Array:
    """Split one axis of an array into (groups, the rest of it)."""
    return a.reshape(*a.shape[:axis], groups, a.shape[axis] // groups, *a.shape[axis + 1 :])


# --------------------------------------------------------------------------------------------
# Dense and convolution with batch norm
# --------------------------------------------------------------------------------------------


def fold_batch_norm(
    weight: ArrayLike,
    bias: ArrayLike | None,
    mean: ArrayLike,
    var: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
) -> tuple[Array, Array]:
    """Fold a batch norm with given statistics into the weight and bias before it.

    With scale = gamma / sqrt(var + eps), ``scale (W x + b - mean) + beta`` is
    ``(scale W) x + (scale (b - mean) + beta)``.

    Parameters
    ----------
    weight : array (k, c) or (k, c / groups, r, s)
    bias : array (k,) or None
    mean, var : arrays (k,)
    gamma, beta : arrays (k,), optional
    eps : float

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
    return np.expand_dims(scale, tuple(range(1, weight.ndim))) * weight, shift


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
        statistics, eps, ddof, activation and residual of `batch_norm_forward`.

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
        statistics, eps, ddof, activation and residual of `batch_norm_forward`.

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


# --------------------------------------------------------------------------------------------
# Batch normalization over the last few batches
# --------------------------------------------------------------------------------------------


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
    https://arxiv.org/abs/2002.05712, equations 9 to 12, every value (not every batch) weighing the
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
    reduced = _reduced_axes(x.ndim, axis)
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
    m = _values_per_channel(x, _reduced_axes(x.ndim, axis))
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
    x, weight, stride, padding, dilation, groups
        As in `conv2d_forward`.

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
    of layers before it being small (Yao et al. 2020, equations 5 to 8)::

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


# --------------------------------------------------------------------------------------------
# L1 and L2
# --------------------------------------------------------------------------------------------

Summed: TypeAlias = int | tuple[int, ...] | None


def l1_normalize_forward(x: ArrayLike, *, axis: Summed = 1, eps: float = 1e-12) -> Array:
    """Divide by the sum of absolute values; 0 where that and eps are 0.

    Parameters
    ----------
    x : array
    axis : the axes summed over, None for all but the first
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


def _sum_along(values: Array, axis: Summed) -> Array:
    axes = tuple(range(1, values.ndim)) if axis is None else axis
    return np.sum(values, axis=axes, keepdims=True)


def _over(values: Array, norm: Array) -> Array:
    return np.divide(values, norm, out=np.zeros_like(values), where=norm != 0.0)
