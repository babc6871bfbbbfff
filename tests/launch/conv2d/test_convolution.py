"""The passes of a window: each pixel and tap of a convolution meet in one of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from nbnorm.launch.conv2d.convolution import (
    Convolution,
    backward_weights,
    forward_weights,
    forward_window,
    input_gradient_windows,
)
from nbnorm.launch.conv2d.images import Images


def convolution(image, window, stride=(1, 1), dilation=(1, 1), before=(0, 0), groups=1):
    """One whose last windows end within the image, or as far beyond it as they began before it."""
    positions = tuple(
        (size + 2 * b - d * (r - 1) - 1) // s + 1
        for size, r, s, d, b in zip(image, window, stride, dilation, before, strict=True)
    )
    return Convolution(
        n=2, groups=groups, c=3, k=2, image=image, window=window, positions=positions,
        stride=stride, dilation=dilation, before=before, axis=1, algorithm="auto",
    )  # fmt: skip


CASES = [
    convolution((4, 5), (3, 3), before=(1, 1)),
    convolution((7, 6), (3, 2), stride=(2, 3), before=(1, 0)),
    convolution((6, 7), (1, 1), stride=(2, 2)),  # most pixels are seen by no window
    convolution((9, 8), (3, 2), stride=(2, 2), dilation=(2, 3), before=(2, 1)),
    convolution((2, 9), (2, 3), stride=(5, 4), before=(1, 0)),
]
each_case = pytest.mark.parametrize("conv", CASES, ids=lambda conv: f"{conv.image} {conv.window}")


def meetings(conv):
    """What a forward adds up: all (position, tap, pixel) within the image, by the definition."""
    found = set()
    for tap, (r, s) in enumerate(np.ndindex(*conv.window)):
        for i, j in np.ndindex(*conv.positions):
            row = i * conv.stride[0] + r * conv.dilation[0] - conv.before[0]
            column = j * conv.stride[1] + s * conv.dilation[1] - conv.before[1]
            if 0 <= row < conv.image[0] and 0 <= column < conv.image[1]:
                found.add(((i, j), tap, (row, column)))
    return found


def seen(window, image):
    """The (pixel of the output, tap, pixel of the input) of a pass, as kernels work them out."""
    row, row_step, column, column_step = window.origin
    for i, j in itertools.product(range(window.rows), range(window.columns)):
        written = row + i * row_step, column + j * column_step
        for tap, down, across in zip(
            window.taps, window.tap_rows, window.tap_columns, strict=True
        ):  # fmt: skip
            read = i * window.stride[0] + down, j * window.stride[1] + across
            if 0 <= read[0] < image[0] and 0 <= read[1] < image[1]:
                yield written, tap, read


@each_case
def test_a_forward_is_one_pass(conv):
    found = list(seen(forward_window(conv), conv.image))
    assert len(found) == len(set(found))
    assert set(found) == meetings(conv)


@each_case
def test_the_gradient_of_the_input_meets_the_same(conv):
    dx = Images(np.full(2 * 3 * np.prod(conv.image), np.nan), 2, *conv.image, 3, True)
    found = [
        (position, tap, pixel)
        for window in input_gradient_windows(dx, conv)
        for pixel, tap, position in seen(window, conv.positions)
    ]
    assert len(found) == len(set(found))
    assert set(found) == meetings(conv)


@each_case
def test_each_pixel_of_the_input_is_written_once(conv):
    dx = Images(np.full(2 * 3 * np.prod(conv.image), np.nan), 2, *conv.image, 3, True)
    writes = np.zeros(conv.image, int)
    for window in input_gradient_windows(dx, conv):
        row, row_step, column, column_step = window.origin
        pixels = writes[row::row_step, column::column_step]
        assert pixels.shape == (window.rows, window.columns)
        pixels += 1
    pixels = dx.array(-1)
    assert (pixels[:, writes == 0] == 0).all()
    assert np.isnan(pixels[:, writes == 1]).all()
    assert writes.max() == 1


@pytest.mark.parametrize(("order", "forth"), [(forward_weights, True), (backward_weights, False)])
def test_weights_lie_where_their_steps_say(order, forth):
    conv = convolution((5, 5), (2, 3), groups=2)
    weight = np.arange(conv.groups * conv.k * conv.c * conv.taps, dtype=np.float64)
    weight = weight.reshape(conv.groups * conv.k, conv.c, *conv.window)
    weights = order(weight, conv)
    by_group = weight.reshape(conv.groups, conv.k, conv.c, conv.taps)
    for (group, k, c, tap), number in np.ndenumerate(by_group):
        read, written = (c, k) if forth else (k, c)
        at = group * weights.group_step + tap + read * weights.c_step + written * weights.k_step
        assert weights.flat[at] == number
