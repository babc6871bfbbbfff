"""Convolutions."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from nbnorm.reference.arrays import Array

Pair: TypeAlias = int | tuple[int, int]
Sides: TypeAlias = tuple[tuple[int, int], tuple[int, int]]
Padding: TypeAlias = Pair | Sides | Literal["valid", "same", "same_lower"]


class Conv2dGradients(NamedTuple):
    """Gradients of a convolution."""

    dx: Array
    dweight: Array
    dbias: Array


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
    padding : int, pair, ((top, bottom), (left, right)), "valid", "same" or "same_lower"
        Zeros added around the image: as many on all sides, above and below and left and right, or
        on each side; "valid" is 0. "same" makes h' = h / stride, rounded up, as TensorFlow's and
        ONNX's SAME_UPPER: it adds ``max(0, (h' - 1) stride + dilation (r - 1) + 1 - h)`` rows, an
        odd one below, and columns likewise, an odd one right; "same_lower" adds the odd one above
        and left.
    groups : int
        The first k / groups output channels see the first c / groups input channels, and so on.

    Returns
    -------
    y : array (n, k, h', w') with h' = (h + top + bottom - dilation (r - 1) - 1) // stride + 1,
        and w' likewise

    Examples
    --------
    >>> conv2d_forward(np.arange(9.0).reshape(1, 1, 3, 3), [[[[1.0, 0.0], [0.0, 1.0]]]])
    array([[[[ 4.,  6.],
             [10., 12.]]]])
    """
    x, weight = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    zeros = _zeros_around(x, weight, stride, padding, dilation)
    seen = _windows(_pad(x, zeros), weight, stride, dilation)
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

    zeros = _zeros_around(x, weight, stride, padding, dilation)
    padded = _pad(x, zeros)
    seen = _split(_windows(padded, weight, stride, dilation), 1, groups)
    dweight = np.einsum("ngkhw,ngchwrs->gkcrs", grouped_dy, seen).reshape(weight.shape)

    dpadded = np.zeros_like(padded)
    receivers = _windows(dpadded, weight, stride, dilation)
    for r, s in np.ndindex(weight.shape[2:]):  # one at a time: places of the window overlap
        product = np.einsum("ngkhw,gkc->ngchw", grouped_dy, grouped_weight[..., r, s])
        receivers[..., r, s] += product.reshape(receivers.shape[:4])
    (top, _), (left, _) = zeros
    dx = dpadded[:, :, top : top + x.shape[2], left : left + x.shape[3]]

    return Conv2dGradients(dx, dweight, dbias=dy.sum(axis=(0, 2, 3)))


def _zeros_around(x: Array, weight: Array, stride: Pair, padding: Padding, dilation: Pair) -> Sides:
    """Return ((top, bottom), (left, right))."""
    if not isinstance(padding, str):
        vertical, horizontal = _pair(padding)
        return _pair(vertical), _pair(horizontal)
    if padding == "valid":
        return (0, 0), (0, 0)
    sides = []
    for size, extent, step in zip(
        x.shape[2:], _extent(weight, dilation), _pair(stride), strict=True
    ):
        zeros = max(0, (math.ceil(size / step) - 1) * step + extent - size)
        before = zeros // 2 if padding == "same" else math.ceil(zeros / 2)
        sides.append((before, zeros - before))
    rows, columns = sides
    return rows, columns


def _pad(x: Array, zeros: Sides) -> Array:
    return np.pad(x, ((0, 0), (0, 0), *zeros))


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


def _pair(value: Any) -> tuple[Any, Any]:
    return (value, value) if isinstance(value, int) else value


def _split(a: Array, axis: int, groups: int) -> Array:
    """Split one axis of an array into (groups, the rest of it)."""
    return a.reshape(*a.shape[:axis], groups, a.shape[axis] // groups, *a.shape[axis + 1 :])
