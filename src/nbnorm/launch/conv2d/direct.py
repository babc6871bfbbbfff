"""Direct convolutions on checked arguments: see kernels/conv2d/direct.py."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from nbnorm.jit.simd import lane_count, register_lanes
from nbnorm.jit.threads import run
from nbnorm.kernels.conv2d import direct as kernels
from nbnorm.kernels.conv2d.geometry import WeightOrder
from nbnorm.kernels.gemm.epilogue import Epilogue
from nbnorm.kernels.gemm.microkernel import panel_count
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
from nbnorm.launch.conv2d.tiling import (
    Tiling,
    block_of,
    in_whole_tiles,
    parts_of,
    position_offsets,
    window_scratch,
)
from nbnorm.launch.machine import PARALLEL_FROM_MACS, whole_vectors
from nbnorm.launch.scratch import scratch
from nbnorm.launch.statistics import Summed
from nbnorm.typing import Array

# Bytes of the gradients of the weights, one of each part of the blocks.
SUMS_BYTES = 8 << 20


@functools.lru_cache(maxsize=1024)
def _tiling(x: View, z: View, window: Window, groups: int, itemsize: int) -> Tiling:
    block = block_of(x, z.c, window, itemsize)
    parts = parts_of(x.n, window.rows, block, z.c // groups)
    return Tiling(x, z, window, groups, block, parts, position_offsets(x, window, block))


@functools.lru_cache(maxsize=1024)
def _weight_gradient_tiling(x: View, dz: View, conv: Convolution, itemsize: int) -> Tiling:
    window = forward_window(conv)
    block = block_of(x, dz.c, window, itemsize)
    nbytes = dz.c * conv.c * conv.taps * itemsize
    parts = parts_of(x.n, window.rows, block, conv.k).limited(nbytes, SUMS_BYTES, conv.k)
    channels = in_whole_tiles(np.arange(conv.c))
    return Tiling(x, dz, window, conv.groups, block, parts, channels)


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
    depth, columns = x.c // conv.groups, z.c // conv.groups
    taps = len(window.taps)
    parallel = x.n * window.rows * window.columns * z.c * depth * taps >= PARALLEL_FROM_MACS

    panels = conv.groups * panel_count(columns, dtype.itemsize)
    room = taps * depth * whole_vectors(columns, dtype.itemsize)
    packed = scratch.take("packed", (conv.groups, room), dtype)
    order = WeightOrder(np.array(window.taps), *weights[1:], conv.taps)
    run(
        kernels.pack_weights, panels, parallel, packed,
        window_scratch(panels, conv.taps, dtype), weights.flat, tuple(order), geometry,
    )  # fmt: skip

    room = tiling.positions * min(columns, kernels.CHANNELS_AT_ONCE)
    work = tiling.workspace(dtype)._replace(
        output_blocks=tiling.scratch("output blocks", 1 if tiling.in_place else room, dtype),
        tap_offsets=tiling.scratch("tap offsets", taps, np.int64),
    )
    summed = None
    if sums:
        epilogue, summed = tiling.with_sums(epilogue, dtype)
    run(
        kernels.convolve, tiling.partitions, parallel, z.flat, x.flat,
        packed, tuple(work), tuple(epilogue), activation, geometry,
    )  # fmt: skip
    return summed


def weight_gradient(dweight: Array, dz: Images, x: Images, conv: Convolution) -> None:
    """The gradient of the weights, into a flat array (k, c, r, s)."""
    dtype = x.flat.dtype
    tiling = _weight_gradient_tiling(x.view, dz.view, conv, dtype.itemsize)
    g = tiling.geometry
    parallel = x.n * g.rows * g.columns * dweight.size >= PARALLEL_FROM_MACS
    room = tiling.positions * whole_vectors(conv.k, dtype.itemsize)
    work = tiling.workspace(dtype)._replace(
        output_points=tiling.scratch("panels", room, dtype),
        tap_offsets=tiling.scratch("tap offsets", g.block_images * g.block_rows, np.int64),
    )
    products = scratch.take("weights", (g.block_parts * dweight.size,), dtype)
    run(
        kernels.weight_gradient, tiling.partitions, parallel,
        products, dz.flat, x.flat, tuple(work), tuple(g),
    )  # fmt: skip
    sizes = g.block_parts, conv.groups, conv.taps, conv.c, conv.k
    collect_weights(dweight, products, sizes, parallel)


def collect_weights(
    dweight: Array, products: Array, sizes: tuple[int, int, int, int, int], parallel: bool
) -> None:
    """Products of the sizes (parts, groups, taps, c, k), added and turned to (k, c, taps)."""
    shape = squares_shape(sizes, dweight.itemsize)
    squares = scratch.take("squares", shape, dweight.dtype)
    run(kernels.collect_weights, shape[0], parallel, dweight, squares, products, sizes)


def squares_shape(sizes: tuple[int, int, int, int, int], itemsize: int) -> tuple[int, int]:
    """The tiles of `collect_weights`, and the scratch of each."""
    _, groups, taps, c, k = sizes
    lanes = lane_count(itemsize)
    tiles = groups * -(-k // lanes) * -(-c * taps // kernels.COLLECTED)
    return tiles, register_lanes(itemsize) * lanes
