"""Convolutions by Winograd's algorithm on checked arguments: see kernels/conv2d/winograd.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbnorm.jit.simd import lane_count
from nbnorm.jit.threads import run
from nbnorm.kernels.conv2d import winograd as kernels
from nbnorm.kernels.conv2d.direct import COLLECTED, WHOLE, collect_weights, collect_weights_parallel
from nbnorm.kernels.conv2d.winograd import LINE, POINTS
from nbnorm.kernels.conv2d.winograd_transforms import PATCH, TILE
from nbnorm.kernels.gemm.microkernel import panel_count
from nbnorm.launch.conv2d.images import Images
from nbnorm.launch.conv2d.tiling import (
    Band,
    Geometry,
    Places,
    Sizes,
    balanced,
    buffers,
    counted,
    counts_of,
    slots_of,
    slots_of_sums,
    turned_taps,
)
from nbnorm.launch.layout import run_of
from nbnorm.launch.machine import PARALLEL_FROM_WINOGRAD, whole_vectors
from nbnorm.launch.scratch import scratch
from nbnorm.launch.statistics import Summed, sums_about
from nbnorm.typing import Array

# Points of the input of a band, and of its output: in the second cache beside those of the weights.
POINT_BYTES = 448 << 10
MOST_TILES = 64

# Bytes of the points of the gradients of the weights, of each share of the bands.
SUMS_BYTES = 16 << 20

# Fewer than these would read all weights anew too often, whatever the second cache holds.
FEWEST_TILES = 64


def _tiles(positions: Sizes, before: Sizes) -> Places:
    """The grid of tiles."""
    rows, columns = (-(-size // TILE) for size in positions)
    taps = np.arange(PATCH)
    return Places((rows, columns, TILE, TILE), taps - before[0], taps - before[1])


def _tile_band(places: Places, x: Images, itemsize: int, k: int) -> Band:
    """The band of a grid of tiles."""
    rows, columns = places.grid[:2]

    def fits(many: int, high: int) -> bool:
        tiles = many * high * columns
        small = POINTS * tiles * max(x.c, k) * itemsize <= POINT_BYTES
        return tiles <= (MOST_TILES if small else FEWEST_TILES)

    high = max([i for i in range(1, rows + 1) if fits(1, i)], default=1)
    high = -(-rows // -(-rows // high))
    many = 1
    if high == rows:
        many = max([i for i in range(1, x.n + 1) if fits(i, rows)], default=1)
        many = balanced(x.n, many)
    top, left = int(places.tap_rows[0]), int(places.tap_columns[0])
    height, width = ((size - 1) * TILE + PATCH for size in (high, columns))
    return Band(many, high, height, width, top, left, True)


def convolve(
    z: Images,
    x: Images,
    weight: Array,
    steps: tuple[int, int],
    backwards: bool,
    before: Sizes,
    *,
    constants: Array | None = None,
    residual: Array | None = None,
    activation: Any = None,
    sums: bool = False,
) -> Summed | None:
    """As conv_direct.py's `convolve`, for windows 3x3 of stride 1."""
    dtype = z.flat.dtype
    parallel = z.flat.size * x.c >= PARALLEL_FROM_WINOGRAD
    points = transformed_weights(weight, steps, backwards, (x.c, z.c), parallel)
    places = _tiles((z.h, z.w), before)
    band = _tile_band(places, x, dtype.itemsize, z.c)
    shares = slots_of(places, band, x.n, z.c)
    slots = shares[0] * shares[1]
    tiles = band.images * band.rows * places.grid[1]
    widest = -(-z.c // shares[1]) + WHOLE
    bands, turned, products = buffers(
        x, band, slots, 1 if z.last else band.images * band.rows * TILE * z.w,
        1 if z.last else widest, dtype,
    )  # fmt: skip
    summed = None
    if sums:
        summed = sums_about(counts_of(places, band, z, shares[0], TILE), z.c, dtype)
    rest = (x.n % band.images or band.images) * (places.grid[0] % band.rows or band.rows)
    lines = counted((tiles, rest * places.grid[1]), x.c + LINE)
    run(
        kernels.convolve, kernels.convolve_parallel, slots, parallel, z.flat, x.flat, points,
        bands, turned, _input_points(slots, tiles, x.c, dtype),
        scratch.take("outputs", (slots, POINTS * (tiles * min(widest, z.c) + LINE)), dtype),
        products, lines, scratch.take("tables", (slots, 1), np.int64), constants, residual,
        activation, None if summed is None else summed.sums,
        None if summed is None else summed.pivots, x.view, z.view, places.grid, tuple(band), shares,
    )  # fmt: skip
    return summed


def transformed_weights(
    weight: Array, steps: tuple[int, int], backwards: bool, sizes: tuple[int, int], parallel: bool
) -> Array:
    """The points of the weights, in scratch."""
    dtype = weight.dtype
    depth, columns = sizes
    panels = panel_count(columns, dtype.itemsize)
    room = POINTS * (depth * whole_vectors(columns, dtype.itemsize) + LINE)
    points = scratch.take("points", (room,), dtype)
    run(
        kernels.transform_weights, kernels.transform_weights_parallel, panels, parallel, points,
        weight, turned_taps(panels, kernels.TAPS, dtype), steps, backwards, sizes,
    )  # fmt: skip
    return points


def _input_points(slots: int, tiles: int, c: int, dtype: Any) -> Array:
    """Scratch for the points of the input."""
    return scratch.take("inputs", (slots, POINTS * (tiles * (c + LINE) + LINE)), dtype)


def forward(z: Images, x: Images, weight: Array, g: Geometry, **after: Any) -> Summed | None:
    """Z from x and the weights, and what follows: the keywords of `convolve`."""
    steps = (kernels.TAPS, kernels.TAPS * g.c)
    return convolve(z, x, run_of(weight), steps, False, g.before, **after)


def input_gradient(dx: Images, dz: Images, weight: Array, g: Geometry) -> None:
    """Dx from dz and the weights: the convolution with the window turned round."""
    before = (2 - g.before[0], 2 - g.before[1])
    steps = (kernels.TAPS * g.c, kernels.TAPS)
    convolve(dx, dz, run_of(weight), steps, True, before)


def weight_gradient(dweight: Array, dz: Images, x: Images, g: Geometry) -> None:
    """The gradient of the weights, into a flat array (k, c, r, s)."""
    dtype = x.flat.dtype
    lanes = lane_count(dtype.itemsize)
    parallel = dz.flat.size * x.c >= PARALLEL_FROM_WINOGRAD
    places = _tiles((dz.h, dz.w), g.before)
    band = _tile_band(places, x, dtype.itemsize, dz.c)
    shares = slots_of(places, band, x.n, dz.c)
    size = POINTS * (g.c * g.k + LINE)
    shares = slots_of_sums(shares, size * dtype.itemsize, SUMS_BYTES, g.k)
    slots = shares[0] * shares[1]
    tiles = band.images * band.rows * places.grid[1]
    bands, _, _ = buffers(x, band, slots, 1, 1, dtype)
    room = 1
    if not x.last:
        room = band.images * band.height * x.w * x.c
    if not dz.last:
        room = max(room, band.images * band.rows * TILE * dz.w * dz.c)
    gradient_room = -(-dz.c // lanes) * POINTS * (tiles * lanes + 3 * LINE)
    products = scratch.take("weights", (shares[0] * size,), dtype)
    run(
        kernels.weight_gradient, kernels.weight_gradient_parallel, slots, parallel, products,
        dz.flat, x.flat, bands, scratch.take("turned", (slots, room), dtype),
        _input_points(slots, tiles, x.c, dtype),
        scratch.take("gradients", (slots, gradient_room), dtype),
        counted((x.c,), 1)[0], scratch.take("tables", (slots, 1), np.int64), x.view,
        dz.view, places.grid, tuple(band), shares,
    )  # fmt: skip
    spread = scratch.take("spread", (kernels.TAPS * g.c * g.k,), dtype)
    run(
        kernels.return_weights, kernels.return_weights_parallel, g.c, parallel, spread, products,
        shares[0], (g.c, g.k),
    )  # fmt: skip
    run(
        collect_weights, collect_weights_parallel, -(-g.k // COLLECTED), parallel, dweight, spread,
        (1, 1, kernels.TAPS, g.c, g.k),
    )  # fmt: skip
