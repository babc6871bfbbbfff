"""What darknet does to images between convolutions, in plain NumPy: no gradients.

Images are (n, c, h, w). Every function returns a new array.
"""

from __future__ import annotations

import numpy as np

from nbnorm.typing import Array


def max_pool(x: Array, size: int, stride: tuple[int, int], padding: int) -> Array:
    """Return the largest value of each window.

    `padding` counts the rows, or columns, of both sides together, the smaller half first; they
    never win. One axis after the other, as a window is the product of its sides.
    """
    for axis, step in zip((2, 3), stride, strict=True):
        x = _max_along(x, axis, size, step, padding)
    return x


def pooled_size(length: int, size: int, stride: int, padding: int) -> int:
    """Return how many windows there are along a side."""
    return (length + padding - size) // stride + 1


def _max_along(x: Array, axis: int, size: int, stride: int, padding: int) -> Array:
    length = x.shape[axis]
    count = pooled_size(length, size, stride, padding)
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    y = np.full(shape, np.finfo(x.dtype).min, x.dtype)
    y_first, x_first = np.moveaxis(y, axis, 0), np.moveaxis(x, axis, 0)
    for tap in range(size):
        # Window i takes x[begin + i stride] with this tap; i from lo to hi - 1 are inside.
        begin = tap - padding // 2
        lo = max(0, -(begin // stride))
        hi = min(count, (length - 1 - begin) // stride + 1)
        if lo < hi:
            taken = x_first[begin + lo * stride : begin + (hi - 1) * stride + 1 : stride]
            np.maximum(y_first[lo:hi], taken, out=y_first[lo:hi])
    return y


def average_pool(x: Array) -> Array:
    """Return the mean of each channel of each image, as images of one pixel."""
    return x.mean(axis=(2, 3), dtype=np.float64, keepdims=True).astype(x.dtype)


def upsample(x: Array, stride: int, scale: float) -> Array:
    """Repeat each pixel in both directions, times `scale`."""
    n, c, h, w = x.shape
    y = np.empty((n, c, h, stride, w, stride), x.dtype)
    np.multiply(x[:, :, :, np.newaxis, :, np.newaxis], x.dtype.type(scale), out=y)
    return y.reshape(n, c, h * stride, w * stride)


def downsample(x: Array, stride: int, scale: float) -> Array:
    """Sum up blocks of pixels, times `scale`: the transpose of `upsample`."""
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // stride, stride, w // stride, stride)
    return blocks.sum(axis=(3, 5)) * x.dtype.type(scale)


def add_sampled(y: Array, other: Array, alpha: float, beta: float) -> None:
    """Y = alpha y + beta other in place, in the channels and pixels that both have.

    Of the larger image every nth pixel meets one of the smaller (shortcut_cpu in darknet's blas.c).
    """
    c, h, w = (min(sides) for sides in zip(y.shape[1:], other.shape[1:], strict=True))
    down, up = other.shape[3] // w, y.shape[3] // w
    met = y[:, :c, : h * up : up, : w * up : up]
    met *= y.dtype.type(alpha)
    met += other.dtype.type(beta) * other[:, :c, : h * down : down, : w * down : down]


def add_prefix(y: Array, other: Array) -> None:
    """Add as many numbers of each sample as both have, in the order they lie in memory.

    For images of one size these are the channels that both have (shortcut_multilayer_cpu in the
    fork's blas.c).
    """
    flat, added = y.reshape(len(y), -1), other.reshape(len(other), -1)
    count = min(flat.shape[1], added.shape[1])
    flat[:, :count] += added[:, :count]


def softmax(x: Array, groups: int, temperature: float) -> Array:
    """Return exp(x / temperature) over its sum, for each of some groups of a row."""
    parts = x.reshape(len(x), groups, x.shape[1] // groups)
    y = np.exp((parts - parts.max(axis=2, keepdims=True)) / x.dtype.type(temperature))
    y /= y.sum(axis=2, keepdims=True)
    return y.reshape(x.shape)


def logistic(x: Array, out: Array | None = None) -> Array:
    """Return 1 / (1 + exp(-x))."""
    y = np.negative(x, out=out)
    with np.errstate(over="ignore"):  # 1 / inf is the 0 that it should be
        np.exp(y, out=y)
    y += 1
    return np.reciprocal(y, out=y)


def yolo(x: Array, anchors: int, scale_x_y: float, logistics: bool) -> Array:
    """Return predictions as darknet has them: logistic but for width and height of boxes.

    Channels are, for each anchor, x, y, width, height, objectness and the classes. x and y are
    stretched by `scale_x_y` about 1/2.
    """
    n, c, h, w = x.shape
    y = x.copy()
    entries = y.reshape(n, anchors, c // anchors, h, w)
    centres = entries[:, :, :2]
    if logistics:
        logistic(centres, out=centres)
        logistic(entries[:, :, 4:], out=entries[:, :, 4:])
    centres *= x.dtype.type(scale_x_y)
    centres -= x.dtype.type(0.5 * (scale_x_y - 1))
    return y
