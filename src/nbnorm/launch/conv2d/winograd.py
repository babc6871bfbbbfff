"""Convolutions by Winograd's algorithm on checked arguments: see kernels/conv2d/winograd.py."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from nbnorm.jit.simd import lane_count
from nbnorm.jit.threads import run
from nbnorm.kernels.conv2d import winograd as kernels
from nbnorm.kernels.conv2d.geometry import PART_CHANNELS, WeightOrder, Workspace
from nbnorm.kernels.conv2d.winograd import GAP, POINTS, TAPS
from nbnorm.kernels.conv2d.winograd_transforms import PATCH, TILE
from nbnorm.kernels.gemm.epilogue import Epilogue
from nbnorm.kernels.gemm.microkernel import panel_count
from nbnorm.launch.conv2d.convolution import (
    Convolution,
    Sizes,
    Weights,
    Window,
    backward_weights,
    forward_weights,
)
from nbnorm.launch.conv2d.direct import collect_weights
from nbnorm.launch.conv2d.images import Images, View
from nbnorm.launch.conv2d.tiling import (
    BlockSize,
    Tiling,
    in_whole_tiles,
    largest_block,
    last_block,
    parts_of,
    window_scratch,
)
from nbnorm.launch.machine import PARALLEL_FROM_WINOGRAD, whole_vectors
from nbnorm.launch.scratch import scratch
from nbnorm.launch.statistics import Summed
from nbnorm.typing import Array

# Points of the input of a block, and of its output: in the L2 cache beside those of the weights.
POINT_BYTES = 448 << 10
MOST_TILES = 64

# Fewer than these would read all weights anew too often, whatever the L2 cache holds. Of the time
# with 64 tiles, 32 take 0.95 to 1.11 (1.01 to 1.29 for the gradient of the weights), 96 take 0.99
# to 1.05 (0.96 to 1.04): 64 to 512 channels, channels last (Zen 5, two threads).
FEWEST_TILES = 64

# Bytes of the points of the gradients of the weights, one of each part of the blocks.
SUMS_BYTES = 8 << 20


def _tiles(z: View, before: Sizes) -> Window:
    """The window's positions are tiles."""
    return Window(
        rows=-(-z.h // TILE),
        columns=-(-z.w // TILE),
        stride=(TILE, TILE),
        tap_rows=tuple(range(-before[0], PATCH - before[0])),
        tap_columns=tuple(range(-before[1], PATCH - before[1])),
        taps=(),
        origin=(0, TILE, 0, TILE),
    )


def _block_of(x: View, k: int, window: Window, itemsize: int) -> BlockSize:
    def fits(images: int, rows: int) -> bool:
        tiles = images * rows * window.columns
        is_small = POINTS * tiles * max(x.c, k) * itemsize <= POINT_BYTES
        return tiles <= (MOST_TILES if is_small else FEWEST_TILES)

    images, rows = largest_block(x.n, window.rows, fits)
    height, width = ((size - 1) * TILE + PATCH for size in (rows, window.columns))
    return BlockSize(images, rows, height, width, window.tap_rows[0], window.tap_columns[0], True)


@functools.lru_cache(maxsize=1024)
def _tiling(x: View, z: View, before: Sizes, itemsize: int) -> Tiling:
    window = _tiles(z, before)
    block = _block_of(x, z.c, window, itemsize)
    parts = parts_of(x.n, window.rows, block, z.c)
    whole, last = (
        np.arange(images * rows * window.columns) * (x.c + GAP)
        for images, rows in (block[:2], last_block(x.n, window.rows, block))
    )
    return Tiling(x, z, window, 1, block, parts, in_whole_tiles(whole, last))


@functools.lru_cache(maxsize=1024)
def _weight_gradient_tiling(x: View, dz: View, before: Sizes, itemsize: int) -> Tiling:
    window = _tiles(dz, before)
    block = _block_of(x, dz.c, window, itemsize)
    nbytes = POINTS * (x.c * dz.c + GAP) * itemsize
    parts = parts_of(x.n, window.rows, block, dz.c).limited(nbytes, SUMS_BYTES, dz.c)
    return Tiling(x, dz, window, 1, block, parts, in_whole_tiles(np.arange(x.c)))


def _workspace(tiling: Tiling, dtype: Any, transposed: int = 1) -> Workspace:
    """Scratch for the input and its points, and for an offset."""
    room = POINTS * (tiling.positions * (tiling.geometry.c + GAP) + GAP)
    return tiling.workspace(dtype, transposed)._replace(
        input_points=tiling.scratch("input points", room, dtype),
        tap_offsets=tiling.scratch("tap offsets", 1, np.int64),
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
    tiling = _tiling(x.view, z.view, conv.before, z.flat.itemsize)
    weights = forward_weights(weight, conv)
    return _convolve(z, x, weights, False, tiling, epilogue, activation, sums)


def input_gradient(dx: Images, dz: Images, weight: Array, conv: Convolution) -> None:
    """Dx from dz and the weights: the convolution with the window turned by 180 degrees."""
    before = (2 - conv.before[0], 2 - conv.before[1])
    tiling = _tiling(dz.view, dx.view, before, dx.flat.itemsize)
    weights = backward_weights(weight, conv)
    _convolve(dx, dz, weights, True, tiling, Epilogue(), None, False)


def _convolve(
    z: Images,
    x: Images,
    weights: Weights,
    is_reversed: bool,
    tiling: Tiling,
    epilogue: Epilogue,
    activation: Any,
    sums: bool,
) -> Summed | None:
    dtype = z.flat.dtype
    g = tiling.geometry
    parallel = z.flat.size * x.c >= PARALLEL_FROM_WINOGRAD
    panels = panel_count(z.c, dtype.itemsize)
    room = POINTS * (x.c * whole_vectors(z.c, dtype.itemsize) + GAP)
    points = scratch.take("points", (room,), dtype)
    order = WeightOrder(np.arange(TAPS), *weights[1:], TAPS)
    run(
        kernels.transform_weights, panels, parallel, points,
        window_scratch(panels, TAPS, dtype), weights.flat,
        tuple(order), is_reversed, tuple(g),
    )  # fmt: skip

    widest = min(-(-z.c // g.channel_parts) + PART_CHANNELS, z.c)
    pixels = g.block_images * g.block_rows * TILE * z.w
    work = _workspace(tiling, dtype)._replace(
        output_points=tiling.scratch(
            "output points", POINTS * (tiling.positions * widest + GAP), dtype
        ),
        output_blocks=tiling.scratch("output blocks", 1 if z.last else pixels * widest, dtype),
    )
    summed = None
    if sums:
        epilogue, summed = tiling.with_sums(epilogue, dtype)
    run(
        kernels.convolve, tiling.partitions, parallel, z.flat, x.flat,
        points, tuple(work), tuple(epilogue), activation, tuple(g),
    )  # fmt: skip
    return summed


def weight_gradient(dweight: Array, dz: Images, x: Images, conv: Convolution) -> None:
    """The gradient of the weights, into a flat array (k, c, r, s)."""
    dtype = x.flat.dtype
    lanes = lane_count(dtype.itemsize)
    tiling = _weight_gradient_tiling(x.view, dz.view, conv.before, dtype.itemsize)
    g = tiling.geometry
    parallel = dz.flat.size * x.c >= PARALLEL_FROM_WINOGRAD
    pixels = g.block_images * g.block_rows * TILE * dz.w
    room = -(-dz.c // lanes) * POINTS * (tiling.positions * lanes + 3 * GAP)
    work = _workspace(tiling, dtype, 1 if dz.last else pixels * dz.c)._replace(
        output_points=tiling.scratch("output points", room, dtype)
    )
    size = POINTS * (x.c * dz.c + GAP)
    products = scratch.take("weights", (g.block_parts * size,), dtype)
    run(
        kernels.weight_gradient, tiling.partitions, parallel,
        products, dz.flat, x.flat, tuple(work), tuple(g),
    )  # fmt: skip
    spread = scratch.take("spread", (TAPS * x.c * dz.c,), dtype)
    run(
        kernels.return_weights, x.c, parallel, spread, products,
        g.block_parts, (x.c, dz.c),
    )  # fmt: skip
    collect_weights(dweight, spread, (1, 1, TAPS, x.c, dz.c), parallel)
