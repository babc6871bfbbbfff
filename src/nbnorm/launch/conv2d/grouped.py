"""Convolutions of narrow groups on checked arguments: see kernels/conv2d/grouped.py."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

from nbnorm.jit.threads import run
from nbnorm.kernels.conv2d import grouped as kernels
from nbnorm.launch.conv2d.images import Images
from nbnorm.launch.conv2d.tiling import (
    SHARES,
    Band,
    Geometry,
    Places,
    buffers,
    counts_of,
    input_places,
    taps_of,
)
from nbnorm.launch.layout import run_of
from nbnorm.launch.machine import PARALLEL_FROM_UNPACKED_MACS, whole_vectors
from nbnorm.launch.scratch import scratch
from nbnorm.launch.statistics import Summed, sums_about
from nbnorm.typing import Array

Sizes: TypeAlias = tuple[int, int, int]


def _band(places: Places, x: Images, k: int, sizes: Sizes) -> tuple[Band, int]:
    """The band, copied unless the convolution is depthwise, and in how many shares."""
    _, inputs, outputs = sizes
    itemsize = x.flat.itemsize
    band = places.band(x, itemsize, k, widened=inputs * k)
    if inputs * outputs > 1:
        band = band._replace(copied=True)
    bands = -(-x.n // band.images) * -(-places.grid[0] // band.rows)
    return band, min(bands, SHARES)


def _wide(band: Band, shares: int, k: int, sizes: Sizes, dtype: Any) -> Array:
    """Scratch for a band with each group's numbers beside its outputs."""
    _, inputs, outputs = sizes
    pixels = band.images * band.height * band.width
    return scratch.take("wide", (shares, pixels * inputs * k if inputs * outputs > 1 else 1), dtype)


def convolve(
    z: Images,
    x: Images,
    weight: Array,
    taps: Array,
    steps: tuple[int, int, int],
    places: Places,
    sizes: Sizes,
    *,
    origin: tuple[int, int, int, int] = (0, 1, 0, 1),
    constants: Array | None = None,
    residual: Array | None = None,
    activation: Any = None,
    sums: bool = False,
) -> Summed | None:
    """As conv_direct.py's `convolve`; `sizes` = (groups, inputs, outputs) of a group."""
    dtype = z.flat.dtype
    packed = scratch.take("packed", (taps.size * sizes[1] * z.c,), dtype)
    kernels.pack_weights(0, sizes[0], packed, weight, taps, steps, sizes)
    band, shares = _band(places, x, z.c, sizes)
    in_place = z.last and origin == (0, 1, 0, 1)
    count = band.images * band.rows * places.grid[1]
    bands, turned, products = buffers(x, band, shares, 1 if in_place else count, z.c, dtype)
    summed = None
    if sums:
        summed = sums_about(counts_of(places, band, z, shares), z.c, dtype)
    work = x.n * math.prod(places.grid[:2]) * packed.size
    run(
        kernels.convolve, kernels.convolve_parallel, shares, work >= PARALLEL_FROM_UNPACKED_MACS,
        z.flat, x.flat, packed, bands, turned, _wide(band, shares, z.c, sizes, dtype), products,
        scratch.take("tables", (shares, taps.size + kernels.PLACES), np.int64), constants, residual,
        activation, None if summed is None else summed.sums,
        None if summed is None else summed.pivots, places.tap_rows, places.tap_columns, x.view,
        z.view, places.grid, origin, tuple(band), sizes, shares,
    )  # fmt: skip
    return summed


def forward(z: Images, x: Images, weight: Array, g: Geometry, **after: Any) -> Summed | None:
    """Z from x and the weights, and what follows: the keywords of `convolve`."""
    count = math.prod(g.window)
    places = Places((*g.positions, *g.stride), *taps_of(g))
    steps = (g.k * g.c * count, count, g.c * count)
    return convolve(
        z, x, run_of(weight), np.arange(count), steps, places, (g.groups, g.c, g.k), **after
    )


def input_gradient(dx: Images, dz: Images, weight: Array, g: Geometry) -> None:
    """Dx from dz and the weights."""
    count = math.prod(g.window)
    steps = (g.k * g.c * count, g.c * count, count)
    for taps, places, origin in input_places(dx, g):
        convolve(dx, dz, run_of(weight), taps, steps, places, (g.groups, g.k, g.c), origin=origin)


def weight_gradient(dweight: Array, dz: Images, x: Images, g: Geometry) -> None:
    """The gradient of the weights, into a flat array (k, c, r, s)."""
    dtype = x.flat.dtype
    sizes = g.groups, g.c, g.k
    places = Places((*g.positions, *g.stride), *taps_of(g))
    band, shares = _band(places, x, dz.c, sizes)
    count = band.images * band.rows * places.grid[1]
    bands, turned, gradients = buffers(x, band, shares, 1 if dz.last else count, dz.c, dtype)
    taps = places.tap_rows.size
    stride = whole_vectors(dz.c, dtype.itemsize)
    sums = scratch.take("weight sums", (shares, taps * g.c, stride), np.float64)
    work = x.n * math.prod(places.grid[:2]) * taps * g.c * dz.c
    run(
        kernels.weight_gradient, kernels.weight_gradient_parallel, shares,
        work >= PARALLEL_FROM_UNPACKED_MACS, sums, dz.flat, x.flat, bands, turned,
        _wide(band, shares, dz.c, sizes, dtype), gradients,
        scratch.take("tables", (shares, taps + kernels.PLACES), np.int64), places.tap_rows,
        places.tap_columns, x.view, dz.view, places.grid, tuple(band), sizes, shares,
    )  # fmt: skip
    kernels.collect_weights(dweight, sums, sizes)
