"""Convolutions of narrow groups on checked arguments: see kernels/conv2d/grouped.py."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from nbnorm.jit.threads import run
from nbnorm.kernels.conv2d import grouped as kernels
from nbnorm.kernels.conv2d.geometry import WeightOrder, Workspace
from nbnorm.kernels.gemm.epilogue import Epilogue
from nbnorm.launch.conv2d.convolution import (
    Convolution,
    Weights,
    Window,
    backward_weights,
    forward_weights,
    forward_window,
    input_gradient_windows,
)
from nbnorm.launch.conv2d.images import Images, View
from nbnorm.launch.conv2d.tiling import Tiling, block_of, parts_of
from nbnorm.launch.machine import PARALLEL_FROM_UNPACKED_MACS, whole_vectors
from nbnorm.launch.scratch import scratch
from nbnorm.launch.statistics import Summed
from nbnorm.typing import Array


def _is_depthwise(groups: int, c: int, k: int) -> bool:
    return groups == c == k


@functools.lru_cache(maxsize=1024)
def _tiling(x: View, z: View, window: Window, groups: int, itemsize: int) -> Tiling:
    block = block_of(x, z.c, window, itemsize, widened=x.c // groups * z.c)
    if not _is_depthwise(groups, x.c, z.c):
        block = block._replace(copied=True)
    parts = parts_of(x.n, window.rows, block, z.c // groups)
    return Tiling(x, z, window, groups, block, parts, np.zeros((1, 1), np.int64))


def _workspace(tiling: Tiling, dtype: Any) -> Workspace:
    """Scratch for the input, for its channels as each group sees them, and for offsets."""
    g = tiling.geometry
    room = g.block_images * g.input_height * g.input_width * (g.c // g.groups) * g.k
    if _is_depthwise(g.groups, g.c, g.k):
        room = 1
    return tiling.workspace(dtype)._replace(
        input_points=tiling.scratch("input points", room, dtype),
        tap_offsets=tiling.scratch(
            "tap offsets", g.tap_rows.size + kernels.PIXELS_AT_ONCE, np.int64
        ),
    )


def forward(
    z: Images,
    x: Images,
    weight: Array,
    conv: Convolution,
    epilogue: Epilogue,
    activation: Any,
    sums: bool,
) -> Summed | None:
    """Z from x and the weights, and what follows."""
    weights, window = forward_weights(weight, conv), forward_window(conv)
    return _convolve(z, x, weights, window, conv, epilogue, activation, sums)


def input_gradient(dx: Images, dz: Images, weight: Array, conv: Convolution) -> None:
    """Dx from dz and the weights."""
    weights = backward_weights(weight, conv)
    for window in input_gradient_windows(dx, conv):
        _convolve(dx, dz, weights, window, conv, Epilogue(), None, False)


def _convolve(
    z: Images,
    x: Images,
    weights: Weights,
    window: Window,
    conv: Convolution,
    epilogue: Epilogue,
    activation: Any,
    sums: bool,
) -> Summed | None:
    """One pass of a window."""
    dtype = z.flat.dtype
    tiling = _tiling(x.view, z.view, window, conv.groups, dtype.itemsize)
    geometry = tuple(tiling.geometry)
    packed = scratch.take("packed", (len(window.taps) * x.c // conv.groups * z.c,), dtype)
    order = WeightOrder(np.array(window.taps), *weights[1:], conv.taps)
    kernels.pack_weights(0, conv.groups, packed, weights.flat, tuple(order), geometry)

    room = 1 if tiling.in_place else tiling.positions * z.c
    work = _workspace(tiling, dtype)._replace(
        output_blocks=tiling.scratch("output blocks", room, dtype)
    )
    summed = None
    if sums:
        epilogue, summed = tiling.with_sums(epilogue, dtype)
    parallel = x.n * window.rows * window.columns * packed.size >= PARALLEL_FROM_UNPACKED_MACS
    run(
        kernels.convolve, tiling.partitions, parallel, z.flat, x.flat,
        packed, tuple(work), tuple(epilogue), activation, geometry,
    )  # fmt: skip
    return summed


def weight_gradient(dweight: Array, dz: Images, x: Images, conv: Convolution) -> None:
    """The gradient of the weights, into a flat array (k, c, r, s)."""
    dtype = x.flat.dtype
    tiling = _tiling(x.view, dz.view, forward_window(conv), conv.groups, dtype.itemsize)
    g = tiling.geometry
    room = 1 if dz.last else tiling.positions * dz.c
    work = _workspace(tiling, dtype)._replace(
        output_points=tiling.scratch("output points", room, dtype)
    )
    ld = whole_vectors(dz.c, dtype.itemsize)
    sums = scratch.take("weight sums", (g.block_parts, conv.taps * conv.c, ld), np.float64)
    parallel = x.n * g.rows * g.columns * dweight.size >= PARALLEL_FROM_UNPACKED_MACS
    run(
        kernels.weight_gradient, tiling.partitions, parallel,
        sums, dz.flat, x.flat, tuple(work), tuple(g),
    )  # fmt: skip
    kernels.collect_weights(dweight, sums, (conv.groups, conv.c, conv.k))
