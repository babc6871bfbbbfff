"""What darknet's sections compute, one output number after the other in float64."""

from __future__ import annotations

import itertools

import numpy as np


def logistic(x):
    return 1 / (1 + np.exp(-x))


ACTIVATIONS = {
    "linear": lambda x: x,
    "leaky": lambda x: np.where(x > 0, x, 0.1 * x),
    "relu": lambda x: np.maximum(x, 0),
    "logistic": logistic,
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "swish": lambda x: x * logistic(x),
}


def convolution(x, weight, stride=(1, 1), padding=0, dilation=1, groups=1):
    n, _, h, w = x.shape
    k, per_group, size, _ = weight.shape
    high = (h + 2 * padding - dilation * (size - 1) - 1) // stride[0] + 1
    wide = (w + 2 * padding - dilation * (size - 1) - 1) // stride[1] + 1
    y = np.zeros((n, k, high, wide))
    for b, f, i, j in np.ndindex(y.shape):
        first = f // (k // groups) * per_group
        for d, r, s in np.ndindex(per_group, size, size):
            row = i * stride[0] - padding + r * dilation
            column = j * stride[1] - padding + s * dilation
            if 0 <= row < h and 0 <= column < w:
                y[b, f, i, j] += float(x[b, first + d, row, column]) * float(weight[f, d, r, s])
    return y


def normalized(z, biases, scales, mean, variance, dialect):
    """Batch norm along axis 1 by each dialect's formula, as its source has it."""
    shape = (1, -1, *(1,) * (z.ndim - 2))
    biases, scales, mean, variance = (
        np.asarray(one, np.float64).reshape(shape) for one in (biases, scales, mean, variance)
    )
    if dialect == "pjreddie":
        z = (z - mean) / (np.sqrt(variance) + 0.000001)
    else:
        z = (z - mean) / np.sqrt(variance + 0.00001)
    return z * scales + biases


def max_pool(x, size, stride, padding):
    n, c, h, w = x.shape
    high, wide = (
        (side + padding - size) // step + 1 for side, step in zip((h, w), stride, strict=True)
    )
    y = np.full((n, c, high, wide), -np.finfo(np.float32).max, np.float32)
    for b, d, i, j in np.ndindex(y.shape):
        for r, s in np.ndindex(size, size):
            row = i * stride[0] - padding // 2 + r
            column = j * stride[1] - padding // 2 + s
            if 0 <= row < h and 0 <= column < w:
                y[b, d, i, j] = max(y[b, d, i, j], x[b, d, row, column])
    return y


def upsampled(x, stride, scale):
    n, c, h, w = x.shape
    y = np.empty((n, c, h * stride, w * stride))
    for b, d, i, j in np.ndindex(y.shape):
        y[b, d, i, j] = scale * x[b, d, i // stride, j // stride]
    return y


def downsampled(x, stride, scale):
    n, c, h, w = x.shape
    y = np.zeros((n, c, h // stride, w // stride))
    for b, d, i, j in np.ndindex(x.shape):
        y[b, d, i // stride, j // stride] += scale * x[b, d, i, j]
    return y


def shortcut(before, added, alpha=1.0, beta=1.0):
    """As shortcut_cpu has it: flat indices, one side's stride and the other's sample."""
    n, c1, h1, w1 = added.shape
    _, c2, h2, w2 = before.shape
    stride, sample = max(w1 // w2, 1), max(w2 // w1, 1)
    y = before.astype(np.float64)
    for b, k, j, i in itertools.product(
        range(n), range(min(c1, c2)), range(min(h1, h2)), range(min(w1, w2))
    ):
        out, add = (b, k, j * sample, i * sample), (b, k, j * stride, i * stride)
        y[out] = alpha * y[out] + beta * added[add]
    return y


def softmax(x, groups, temperature):
    y = np.empty(x.shape)
    size = x.shape[1] // groups
    for row, out in zip(x.astype(np.float64), y, strict=True):
        for first in range(0, len(row), size):
            e = np.exp(row[first : first + size] / temperature)
            out[first : first + size] = e / sum(e)
    return y


def yolo(x, anchors, classes, scale_x_y, new_coords):
    """entry_index of yolo_layer.c: anchor, then entry, then place."""
    y = x.astype(np.float64)
    for b, anchor, entry in itertools.product(range(len(x)), range(anchors), range(5 + classes)):
        channel = anchor * (5 + classes) + entry
        if entry not in (2, 3) and not new_coords:
            y[b, channel] = logistic(y[b, channel])
        if entry < 2:
            y[b, channel] = y[b, channel] * scale_x_y - 0.5 * (scale_x_y - 1)
    return y
