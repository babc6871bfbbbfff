"""Direct convolutions on checked arguments: see kernels/conv2d/direct.py."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nbnorm.jit.threads import run
from nbnorm.kernels.conv2d import direct as kernels
from nbnorm.kernels.gemm.microkernel import panel_count
from nbnorm.launch.conv2d.images import Images
from nbnorm.launch.conv2d.tiling import (
    Geometry,
    Places,
    buffers,
    counted,
    counts_of,
    input_places,
    lines_of,
    slots_of,
    slots_of_sums,
    taps_of,
    turned_taps,
)
from nbnorm.launch.layout import run_of
from nbnorm.launch.machine import PARALLEL_FROM_MACS, whole_vectors
from nbnorm.launch.scratch import scratch
from nbnorm.launch.statistics import Summed, sums_about
from nbnorm.typing import Array

# Bytes of the gradients of the weights, one of each share of the bands.
SUMS_BYTES = 8 << 20


def convolve(
    z: Images,
    x: Images,
    weight: Array,
    taps: Array,
    steps: tuple[int, int, int],
    places: Places,
    groups: int,
    window: int,
    *,
    origin: tuple[int, int, int, int] = (0, 1, 0, 1),
    constants: Array | None = None,
    residual: Array | None = None,
    activation: Any = None,
    sums: bool = False,
) -> Summed | None:
    """The product of a window's taps, and what follows it: see kernels/conv2d/direct.py.

    `weight` is flat, and `taps` and `steps` say where in it the weights are: see `pack_weights`;
    `window` is how many taps lie together there.
    """
    dtype = z.flat.dtype
    depth, columns = x.c // groups, z.c // groups
    work = x.n * math.prod(places.grid[:2]) * z.c * depth * taps.size
    parallel = work >= PARALLEL_FROM_MACS

    panels = panel_count(columns, dtype.itemsize)
    room = taps.size * depth * whole_vectors(columns, dtype.itemsize)
    packed = scratch.take("packed", (groups, room), dtype)
    run(
        kernels.pack_weights, kernels.pack_weights_parallel, panels * groups, parallel, packed,
        weight, turned_taps(panels * groups, window, dtype), taps, steps,
        (depth, columns, panels, window),
    )  # fmt: skip

    band = places.band(x, dtype.itemsize, z.c)
    shares = slots_of(places, band, x.n, columns)
    slots = shares[0] * shares[1]
    count = band.images * band.rows * places.grid[1]
    in_place = z.last and origin == (0, 1, 0, 1)
    bands, turned, products = buffers(
        x, band, slots, 1 if in_place else count, min(columns, kernels.COLUMNS), dtype
    )
    pitch, high = (band.width, band.height) if band.copied else (x.w, x.h)
    lines = lines_of(places.grid, x.n, x.c, pitch, high * pitch * x.c, band.images, band.rows)
    summed = None
    if sums:
        summed = sums_about(counts_of(places, band, z, shares[0]), z.c, dtype)
    run(
        kernels.convolve, kernels.convolve_parallel, slots, parallel, z.flat, x.flat, packed, bands,
        turned, products, lines, scratch.take("tables", (slots, taps.size), np.int64), constants,
        residual, activation, None if summed is None else summed.sums,
        None if summed is None else summed.pivots, places.tap_rows, places.tap_columns, x.view,
        z.view, places.grid, origin, tuple(band), groups, shares,
    )  # fmt: skip
    return summed


def forward(z: Images, x: Images, weight: Array, g: Geometry, **after: Any) -> Summed | None:
    """Z from x and the weights, and what follows: the keywords of `convolve`."""
    tap_rows, tap_columns = taps_of(g)
    places = Places((*g.positions, *g.stride), tap_rows, tap_columns)
    count = math.prod(g.window)
    return convolve(
        z, x, run_of(weight), np.arange(count), (g.k * g.c * count, count, g.c * count), places,
        g.groups, count, **after,
    )  # fmt: skip


def input_gradient(dx: Images, dz: Images, weight: Array, g: Geometry) -> None:
    """Dx from dz and the weights."""
    count = math.prod(g.window)
    steps = (g.k * g.c * count, g.c * count, count)
    flat = run_of(weight)
    for taps, places, origin in input_places(dx, g):
        convolve(dx, dz, flat, taps, steps, places, g.groups, count, origin=origin)


def weight_gradient(dweight: Array, dz: Images, x: Images, g: Geometry) -> None:
    """The gradient of the weights, into a flat array (k, c, r, s)."""
    dtype = x.flat.dtype
    tap_rows, tap_columns = taps_of(g)
    places = Places((*g.positions, *g.stride), tap_rows, tap_columns)
    work = x.n * math.prod(g.positions) * dweight.size
    parallel = work >= PARALLEL_FROM_MACS
    band = places.band(x, dtype.itemsize, dz.c)
    shares = slots_of(places, band, x.n, g.k)
    shares = slots_of_sums(shares, dweight.nbytes, SUMS_BYTES, g.k)
    slots = shares[0] * shares[1]
    bands, turned, _ = buffers(x, band, slots, 1, 1, dtype)
    count = band.images * band.rows * places.grid[1]
    products = scratch.take("weights", (shares[0] * dweight.size,), dtype)
    run(
        kernels.weight_gradient, kernels.weight_gradient_parallel, slots, parallel, products,
        dz.flat, x.flat, bands, turned,
        scratch.take("panels", (slots, count * whole_vectors(g.k, dtype.itemsize)), dtype),
        counted((g.c,), 1)[0], scratch.take("tables", (slots, band.images * band.rows), np.int64),
        tap_rows, tap_columns, x.view, dz.view, places.grid, tuple(band), g.groups, shares,
    )  # fmt: skip
    run(
        kernels.collect_weights, kernels.collect_weights_parallel,
        -(-g.groups * g.k // kernels.COLLECTED), parallel, dweight, products,
        (shares[0], g.groups, tap_rows.size, g.c, g.k),
    )  # fmt: skip
