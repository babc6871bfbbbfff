"""The sizes of a convolution, and the passes of a window that it is worked out in."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import numpy as np

from nbnorm.launch.conv2d.images import Images
from nbnorm.launch.layout import run_of
from nbnorm.typing import Array

Sizes: TypeAlias = tuple[int, ...]


class Convolution(NamedTuple):
    """What convolution it is; c and k count the channels of one group."""

    n: int
    groups: int
    c: int
    k: int
    image: Sizes  # h, w
    window: Sizes  # r, s
    positions: Sizes  # h', w'
    stride: Sizes
    dilation: Sizes
    before: Sizes  # zeros above and to the left
    axis: int  # of the channels, in arrays: 1 or -1
    algorithm: str

    @property
    def taps(self) -> int:
        """Pixels of the window."""
        return math.prod(self.window)

    @property
    def output_shape(self) -> Sizes:
        """The shape of the output's array."""
        channels = self.groups * self.k
        if self.axis == 1:
            return self.n, channels, *self.positions
        return self.n, *self.positions, channels


class Window(NamedTuple):
    """A pass of a window, or of some of its taps: see kernels/conv2d/geometry.py.

    rows, columns, stride   its positions
    tap_rows, tap_columns   pixels from a position to each tap
    taps                    the numbers of these taps in the window
    origin                  where its positions lie in the output: (row, step, column, step)
    """

    rows: int
    columns: int
    stride: Sizes
    tap_rows: Sizes
    tap_columns: Sizes
    taps: Sizes
    origin: Sizes = (0, 1, 0, 1)


@functools.lru_cache(maxsize=1024)
def forward_window(conv: Convolution) -> Window:
    """The pass of a forward; that of the gradient of the weights is the same."""
    rows, columns = np.indices(conv.window).reshape(2, -1)
    return Window(
        rows=conv.positions[0],
        columns=conv.positions[1],
        stride=conv.stride,
        tap_rows=tuple((rows * conv.dilation[0] - conv.before[0]).tolist()),
        tap_columns=tuple((columns * conv.dilation[1] - conv.before[1]).tolist()),
        taps=tuple(range(conv.taps)),
    )


def input_gradient_windows(dx: Images, conv: Convolution) -> Iterator[Window]:
    """The passes over dz that the gradient of the input is put together from.

    Pixels of dx that no pass writes are set to 0.
    """
    for window in windows_by_remainder(conv):
        if window.taps:
            yield window
        else:
            row, row_step, column, column_step = window.origin
            dx.array(-1)[:, row::row_step, column::column_step] = 0


@functools.lru_cache(maxsize=1024)
def windows_by_remainder(conv: Convolution) -> tuple[Window, ...]:
    """A pass over dz for each remainder of dx's pixels by the stride.

    Pixel i meets tap r of position (i + before - r dilation) / stride, where that is whole: for
    each remainder other taps, and sometimes none.
    """
    rows, columns = np.indices(conv.window)
    windows = []
    for row, column in np.ndindex(*conv.stride):
        down = row + conv.before[0] - rows * conv.dilation[0]
        across = column + conv.before[1] - columns * conv.dilation[1]
        met = (down % conv.stride[0] == 0) & (across % conv.stride[1] == 0)
        window = Window(
            rows=-(-(conv.image[0] - row) // conv.stride[0]),
            columns=-(-(conv.image[1] - column) // conv.stride[1]),
            stride=(1, 1),
            tap_rows=tuple((down[met] // conv.stride[0]).tolist()),
            tap_columns=tuple((across[met] // conv.stride[1]).tolist()),
            taps=tuple(np.flatnonzero(met).tolist()),
            origin=(row, conv.stride[0], column, conv.stride[1]),
        )
        if window.rows > 0 and window.columns > 0:
            windows.append(window)
    return tuple(windows)


class Weights(NamedTuple):
    """Weights as a pass takes them: flat, and the steps of kernels/conv2d/geometry.py."""

    flat: Array
    group_step: int
    c_step: int
    k_step: int


def forward_weights(weight: Array, conv: Convolution) -> Weights:
    """The weights from input channels to output channels."""
    size = conv.c * conv.taps
    return Weights(run_of(weight), conv.k * size, conv.taps, size)


def backward_weights(weight: Array, conv: Convolution) -> Weights:
    """The weights from output channels to input channels, for the gradient of the input."""
    size = conv.c * conv.taps
    return Weights(run_of(weight), conv.k * size, size, conv.taps)
