"""What darknet's sections compute, one output number after the other in float64."""

from __future__ import annotations

import itertools
import math

import numpy as np


def logistic(x):
    return 1 / (1 + np.exp(-x))


def each(function):
    """A function of one number, applied to each of an array."""
    return np.vectorize(function, otypes=[float])


def stair(x):
    n = math.floor(x)
    return math.floor(x / 2) if n % 2 == 0 else (x - n) + math.floor(x / 2)


def plse(x):
    if x < -4:
        return 0.01 * (x + 4)
    return 0.01 * (x - 4) + 1 if x > 4 else 0.125 * x + 0.5


def lhtan(x):
    if x < 0:
        return 0.001 * x
    return 0.001 * (x - 1) + 1 if x > 1 else x


def hard_mish(x):
    if x > 0:
        return x
    return x * x / 2 + x if x > -2 else 0


ACTIVATIONS = {
    "linear": lambda x: x,
    "leaky": lambda x: np.where(x > 0, x, 0.1 * x),
    "relu": lambda x: np.maximum(x, 0),
    "logistic": logistic,
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "swish": lambda x: x * logistic(x),
    "revleaky": lambda x: np.where(x > 0, x, 0.1 * x),
    "relie": lambda x: np.where(x > 0, x, 0.01 * x),
    "ramp": lambda x: x * (x > 0) + 0.1 * x,
    "relu6": each(lambda x: min(max(x, 0), 6)),
    "elu": each(lambda x: x if x >= 0 else math.exp(x) - 1),
    "selu": each(lambda x: 1.0507 * x if x >= 0 else 1.0507 * 1.6732 * (math.exp(x) - 1)),
    "gelu": each(lambda x: 0.5 * x * (1 + math.tanh(0.797885 * x + 0.035677 * x**3))),
    "tanh": lambda x: (np.exp(2 * x) - 1) / (np.exp(2 * x) + 1),
    "loggy": lambda x: 2 / (1 + np.exp(-x)) - 1,
    "hardtan": each(lambda x: min(max(x, -1), 1)),
    "stair": each(stair),
    "plse": each(plse),
    "lhtan": each(lhtan),
    "hard_mish": each(hard_mish),
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


def mean_pool(x, size, stride, padding):
    n, c, h, w = x.shape
    high, wide = ((side + padding - size) // stride + 1 for side in (h, w))
    y = np.empty((n, c, high, wide))
    for b, d, i, j in np.ndindex(y.shape):
        seen = []
        for r, s in np.ndindex(size, size):
            row, column = i * stride - padding // 2 + r, j * stride - padding // 2 + s
            if 0 <= row < h and 0 <= column < w:
                seen.append(float(x[b, d, row, column]))
        y[b, d, i, j] = sum(seen) / len(seen) if seen else math.nan
    return y


def reorg(x, w, h, c, stride, forward):
    """reorg_cpu of one sample, with these for its sizes, from flat numbers to flat numbers."""
    y = np.empty_like(x)
    fewer = c // stride**2
    for k, j, i in np.ndindex(c, h, w):
        in_index = i + w * (j + h * k)
        offset = k // fewer
        w2, h2 = i * stride + offset % stride, j * stride + offset // stride
        out_index = w2 + w * stride * (h2 + h * stride * (k % fewer))
        if forward:
            y[out_index] = x[in_index]
        else:
            y[in_index] = x[out_index]
    return y


def flatten(x, size, layers, forward):
    """Flatten of blas.c, of one sample's flat numbers."""
    y = np.empty_like(x)
    for c, i in np.ndindex(layers, size):
        first, second = c * size + i, i * layers + c
        if forward:
            y[second] = x[first]
        else:
            y[first] = x[second]
    return y


def crop(x, high, wide, noadjust):
    n, c, h, w = x.shape
    y = np.empty((n, c, high, wide))
    for b, d, i, j in np.ndindex(y.shape):
        pixel = float(x[b, d, i + (h - high) // 2, j + (w - wide) // 2])
        y[b, d, i, j] = pixel if noadjust else pixel * 2 - 1
    return y


def local(x, weights, biases, size, stride, pad):
    """Weights (places, k, c size size), biases (k, h, w)."""
    n, c, h, w = x.shape
    k, high, wide = biases.shape
    y = np.empty((n, k, high, wide))
    for b, f, i, j in np.ndindex(y.shape):
        y[b, f, i, j] = biases[f, i, j]
        for d, r, s in np.ndindex(c, size, size):
            row, column = i * stride + r - pad, j * stride + s - pad
            if 0 <= row < h and 0 <= column < w:
                weight = weights[i * wide + j, f, (d * size + r) * size + s]
                y[b, f, i, j] += float(weight) * float(x[b, d, row, column])
    return y


def normalization(x, size, alpha, beta, kappa):
    """forward_normalization_layer: norms one channel after the other."""
    squared = x.astype(np.float64) ** 2
    norms = np.full(x.shape, kappa, np.float64)
    for k in range(size // 2):
        norms[:, 0] += alpha * squared[:, k]
    for k in range(1, x.shape[1]):
        norms[:, k] = norms[:, k - 1]
        before, after = k - (size - 1) // 2 - 1, k + size // 2
        if before >= 0:
            norms[:, k] -= alpha * squared[:, before]
        if after < x.shape[1]:
            norms[:, k] += alpha * squared[:, after]
    return x * norms**-beta


def region(x, boxes, classes, softmax_classes, logistic_classes):
    y = x.astype(np.float64)
    for b, box, i, j in np.ndindex(len(x), boxes, *x.shape[2:]):
        first = box * (5 + classes)
        numbers = y[b, first : first + 5 + classes, i, j]
        numbers[[0, 1, 4]] = logistic(numbers[[0, 1, 4]])
        if softmax_classes:
            numbers[5:] = np.exp(numbers[5:]) / np.exp(numbers[5:]).sum()
        elif logistic_classes:
            numbers[5:] = logistic(numbers[5:])
    return y


def gaussian_yolo(x, boxes, classes, scale_x_y):
    y = x.astype(np.float64)
    for b, box, entry in itertools.product(range(len(x)), range(boxes), range(9 + classes)):
        channel = box * (9 + classes) + entry
        if entry not in (4, 6):
            y[b, channel] = logistic(y[b, channel])
        if entry in (0, 2):
            y[b, channel] = y[b, channel] * scale_x_y - 0.5 * (scale_x_y - 1)
    return y


def detection(x, side, classes, softmax_classes):
    y = x.astype(np.float64)
    if softmax_classes:
        for b, cell in np.ndindex(len(x), side**2):
            numbers = y[b, cell * classes : (cell + 1) * classes]
            numbers[:] = np.exp(numbers) / np.exp(numbers).sum()
    return y


# --- recurrent ------------------------------------------------------------------------------


def elman(xs, before, first, own, last, shortcut):
    """Rnn and crnn: three functions of one array each."""
    ys = []
    for x in xs:
        after = first(x) + own(before)
        if shortcut:
            after = after + before
        ys.append(last(after))
        before = after
    return np.stack(ys)


def gru(xs, state, of_input, of_state, activation):
    """Dicts of functions by gate."""
    ys = []
    for x in xs:
        z = logistic(of_input["z"](x) + of_state["z"](state))
        r = logistic(of_input["r"](x) + of_state["r"](state))
        h = activation(of_input["h"](x) + of_state["h"](r * state))
        state = z * state + (1 - z) * h
        ys.append(state)
    return np.stack(ys)


def lstm(xs, h, of_input, of_state):
    c, ys = np.zeros_like(h), []
    for x in xs:
        f, i, o = (logistic(of_input[name](x) + of_state[name](h)) for name in "fio")
        c = f * c + i * np.tanh(of_input["g"](x) + of_state["g"](h))
        h = o * np.tanh(c)
        ys.append(h)
    return np.stack(ys)


# --- boxes ----------------------------------------------------------------------------------


def overlap(one, other):
    """Of two boxes (x, y, w, h): intersection over union."""

    def common(a, b, axis):
        left = max(a[axis] - a[axis + 2] / 2, b[axis] - b[axis + 2] / 2)
        right = min(a[axis] + a[axis + 2] / 2, b[axis] + b[axis + 2] / 2)
        return max(right - left, 0)

    both = common(one, other, 0) * common(one, other, 1)
    either = one[2] * one[3] + other[2] * other[3] - both
    return both / either if either > 0 else 0


def distinct(boxes, limit):
    """do_nms_sort: (x, y, w, h, label, score), class by class, the likeliest first."""
    kept = []
    for label in sorted({box[4] for box in boxes}):
        of_class = sorted((box for box in boxes if box[4] == label), key=lambda box: -box[5])
        scores = [box[5] for box in of_class]
        for i, box in enumerate(of_class):
            if scores[i] == 0:
                continue
            kept.append(box)
            for j in range(i + 1, len(of_class)):
                if overlap(box, of_class[j]) > limit:
                    scores[j] = 0
    return sorted(kept, key=lambda box: -box[5])
