"""What darknet does to images between convolutions, in plain NumPy: no gradients.

Images are (n, c, h, w). Every function returns a new array.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nbnorm.typing import Array

# --- windows --------------------------------------------------------------------------------


def pooled_size(length: int, size: int, stride: int, padding: int) -> int:
    """Return how many windows there are along a side.

    `padding` counts the rows, or columns, of both sides together, the smaller half first.
    """
    return (length + padding - size) // stride + 1


def max_pool(x: Array, size: int, stride: tuple[int, int], padding: int) -> Array:
    """Return the largest value of each window; what is outside of the image never wins.

    One axis after the other, as a window is the product of its sides.
    """
    for axis, step in zip((2, 3), stride, strict=True):
        y = _empty_windows(x, axis, size, step, padding)
        y[...] = np.finfo(x.dtype).min
        y_first, x_first = np.moveaxis(y, axis, 0), np.moveaxis(x, axis, 0)
        for windows, taken in _taps(x.shape[axis], len(y_first), size, step, padding):
            np.maximum(y_first[windows], x_first[taken], out=y_first[windows])
        x = y
    return x


def mean_pool(x: Array, size: int, stride: tuple[int, int], padding: int) -> Array:
    """Return the mean of each window's pixels in the image; NaN of a window without any."""
    dtype = x.dtype
    x = x.astype(np.float64)
    for axis, step in zip((2, 3), stride, strict=True):
        y = _empty_windows(x, axis, size, step, padding)
        y[...] = 0
        y_first, x_first = np.moveaxis(y, axis, 0), np.moveaxis(x, axis, 0)
        counts = np.zeros(len(y_first))
        for windows, taken in _taps(x.shape[axis], len(y_first), size, step, padding):
            y_first[windows] += x_first[taken]
            counts[windows] += 1
        y_first /= counts[:, np.newaxis, np.newaxis, np.newaxis]
        x = y
    return x.astype(dtype)


def _empty_windows(x: Array, axis: int, size: int, stride: int, padding: int) -> Array:
    count = pooled_size(x.shape[axis], size, stride, padding)
    return np.empty((*x.shape[:axis], count, *x.shape[axis + 1 :]), x.dtype)


def _taps(
    length: int, count: int, size: int, stride: int, padding: int
) -> Iterator[tuple[slice, slice]]:
    """Yield for each place in a window: which windows have it in the image, and where.

    However large a window is, only places that some window has in the image are visited.
    """
    before = padding // 2
    for tap in range(max(0, before - (count - 1) * stride), min(size, before + length)):
        # Window i takes x[begin + i stride] with this tap; i from lo to hi - 1 are inside.
        begin = tap - before
        lo = max(0, -(begin // stride))
        hi = min(count, (length - 1 - begin) // stride + 1)
        if lo < hi:
            last = begin + (hi - 1) * stride
            yield slice(lo, hi), slice(begin + lo * stride, last + 1, stride)


def average_pool(x: Array) -> Array:
    """Return the mean of each channel of each image, as images of one pixel."""
    return x.mean(axis=(2, 3), dtype=np.float64, keepdims=True).astype(x.dtype)


def local_product(x: Array, weights: Array, size: int, stride: int, padding: int) -> Array:
    """Return (n, k, places): each window times the weights (k, c size size) of its place."""
    margin = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, margin), (size, size), (2, 3))
    windows = windows[:, :, ::stride, ::stride].transpose(2, 3, 1, 4, 5, 0)  # h w c r s n
    columns = windows.reshape(len(weights), weights.shape[2], len(x))
    return np.matmul(weights, columns).transpose(2, 1, 0)


# --- pixels ---------------------------------------------------------------------------------


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


def blocks_to_channels(x: Array, stride: int) -> Array:
    """Return images whose channels are the pixels of blocks, row by row, each of all channels."""
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // stride, stride, w // stride, stride)
    return blocks.transpose(0, 3, 5, 1, 2, 4).reshape(n, c * stride**2, h // stride, w // stride)


def deinterleave(x: Array, stride: int) -> Array:
    """Return `blocks_to_channels` of the same numbers seen as fewer, larger images.

    c channels of h x w pixels are taken for c / stride^2 of (h stride) x (w stride), the numbers in
    their order; the result is to be seen as the shape that was wanted.
    """
    n, c, h, w = x.shape
    return blocks_to_channels(x.reshape(n, c // stride**2, h * stride, w * stride), stride)


def interleave(x: Array, stride: int) -> Array:
    """Undo `deinterleave`: channels to the pixels of blocks."""
    n, c, h, w = x.shape
    blocks = x.reshape(n, stride, stride, c // stride**2, h, w)
    return blocks.transpose(0, 3, 4, 1, 5, 2).reshape(n, c // stride**2, h * stride, w * stride)


def flattened(x: Array, reverse: bool) -> Array:
    """Return the numbers with the channels last, or in reverse first, seen as the same shape."""
    n, c, h, w = x.shape
    rows = x.reshape((n, h * w, c) if reverse else (n, c, h * w))
    return rows.transpose(0, 2, 1).reshape(x.shape)


# --- sums and norms -------------------------------------------------------------------------


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
    """Add in place the channels that both have (shortcut_multilayer_cpu in the fork's blas.c)."""
    c = min(y.shape[1], other.shape[1])
    y[:, :c] += other[:, :c]


def softmax(x: Array, groups: int, temperature: float) -> Array:
    """Return exp(x / temperature) over its sum, for each of some groups of a row."""
    parts = x.reshape(len(x), groups, x.shape[1] // groups)
    return softmax_along(parts, 2, temperature).reshape(x.shape)


def softmax_along(x: Array, axis: int, temperature: float = 1) -> Array:
    """Return exp(x / temperature) over its sum along an axis."""
    y = np.exp((x - x.max(axis=axis, keepdims=True)) / x.dtype.type(temperature))
    y /= y.sum(axis=axis, keepdims=True)
    return y


def local_norms(x: Array, size: int, alpha: float, kappa: float) -> Array:
    """Return kappa + alpha times the squares of the channels around each, in float64.

    As darknet sums them up: the window of channel 0 has the first ``size // 2`` channels, and each
    next one takes in one channel and leaves one out. So channel ``size // 2`` is never taken in,
    and left out all the same.
    """
    squares = np.square(x, dtype=np.float64)
    changes = np.zeros_like(squares)
    changes[:, 0] = squares[:, : size // 2].sum(axis=1)
    c = x.shape[1]
    first = size // 2 + 1  # what channel 1 takes in
    if first < c:
        changes[:, 1 : c - size // 2] += squares[:, first:]
    behind = (size - 1) // 2 + 1
    if behind < c:
        changes[:, behind:] -= squares[:, : c - behind]
    return kappa + alpha * np.cumsum(changes, axis=1)
