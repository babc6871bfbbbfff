"""Where windows go: the geometry of a convolution, the bands and memory its kernels work with."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from nbnorm.jit.simd import lane_count, register_lanes
from nbnorm.kernels.conv2d.direct import WHOLE
from nbnorm.kernels.gemm.microkernel import TILE_ROWS
from nbnorm.launch.conv2d.images import Images
from nbnorm.launch.machine import BALANCED_TILES
from nbnorm.launch.scratch import scratch
from nbnorm.typing import Array

Sizes: TypeAlias = tuple[int, ...]

# Bytes of a band of the input, and of the output worked out from it: both in the second cache
# beside the weights of a step.
BAND_BYTES = 256 << 10

# More places than these in a band gain nothing: the weights of a step are in the second cache.
MOST_PLACES = 1024

# Fewer than these would read all weights anew too often, whatever the second cache holds.
FEWEST_PLACES = 192

# Shares of the bands, each with scratch of its own.
SHARES = BALANCED_TILES


class Geometry(NamedTuple):
    """The sizes of one convolution; c and k count the channels of one group."""

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


def output_shape(g: Geometry, axis: int) -> Sizes:
    """The shape of a convolution's output, whose channels are along `axis`."""
    channels = g.groups * g.k
    return (g.n, channels, *g.positions) if axis == 1 else (g.n, *g.positions, channels)


class Band(NamedTuple):
    """The piece of the input that a kernel works on at once: see kernels/conv2d/images.py."""

    images: int
    rows: int
    height: int
    width: int
    top: int
    left: int
    copied: bool


class Places(NamedTuple):
    """Where a window goes, and where its taps are: see kernels/conv2d/images.py."""

    grid: tuple[int, ...]
    tap_rows: Array
    tap_columns: Array

    def band(self, x: Images, itemsize: int, k: int, widened: int = 0) -> Band:
        """The band of this grid for an input and an output of k channels.

        `widened` is how many numbers a pixel becomes where that is more than its channels.
        """
        rows, columns, down, across = self.grid
        top, left = int(self.tap_rows.min()), int(self.tap_columns.min())
        tall, wide = int(self.tap_rows.max()) - top + 1, int(self.tap_columns.max()) - left + 1
        width = (columns - 1) * across + wide

        def height(places: int) -> int:
            return (places - 1) * down + tall

        inside = top >= 0 and left >= 0 and top + height(rows) <= x.h and left + width <= x.w

        def fits(many: int, high: int) -> bool:
            pixels = many * high * columns
            taken = many * height(high) * width * max(x.c, widened) * itemsize
            small = max(taken, pixels * k * itemsize) <= BAND_BYTES
            return pixels <= (MOST_PLACES if small else FEWEST_PLACES)

        high = max([i for i in range(1, rows + 1) if fits(1, i)], default=1)
        high = -(-rows // -(-rows // high))
        many = 1
        if high == rows:
            many = max([i for i in range(1, x.n + 1) if fits(i, rows)], default=1)
            many = balanced(x.n, many)
        return Band(many, high, height(high), width, top, left, not (inside and x.last))


def taps_of(g: Geometry) -> tuple[Array, Array]:
    """Row and column of each tap of the window, seen from the place of its first pixel."""
    rows, columns = np.indices(g.window).reshape(2, -1)
    return rows * g.dilation[0] - g.before[0], columns * g.dilation[1] - g.before[1]


@functools.lru_cache(maxsize=1024)
def lines_of(
    grid: tuple[int, ...], n: int, c: int, pitch: int, image_step: int, images: int, rows: int
) -> Array:
    """Where each place of a band begins in its input: of a whole band, and of the last one.

    Filled up to whole tiles of the multiply, which reads them too.
    """
    high, across, down, right = grid
    lines = np.zeros((2, whole_tiles(images * rows * across)), np.int64)
    last_images = n % images or images
    last_rows = high % rows or rows
    for line, (many, tall) in zip(lines, ((images, rows), (last_images, last_rows)), strict=True):
        one, i, j = np.indices((many, tall, across))
        begins = (one * image_step + (i * down * pitch + j * right) * c).reshape(-1)
        line[: begins.size] = begins
        line[begins.size :] = begins[-1]
    return lines


@functools.lru_cache(maxsize=1024)
def counted(sizes: tuple[int, ...], step: int) -> Array:
    """0, step, 2 step, ... for each of some counts, the last one repeated in whole tiles."""
    lines = np.arange(whole_tiles(max(sizes)))
    return np.array([np.minimum(lines, size - 1) * step for size in sizes])


def whole_tiles(rows: int) -> int:
    """Rows of all tiles of the multiply that so many rows take."""
    return -(-rows // TILE_ROWS) * TILE_ROWS


def input_places(
    dx: Images, g: Geometry
) -> Iterator[tuple[Array, Places, tuple[int, int, int, int]]]:
    """The convolutions of dz that the gradient of the input is put together from.

    Pixel i of dx meets tap r of place (i + before - r dilation) / stride, where that is whole: for
    each remainder of i by the stride, other taps. Yields their numbers, the places, and where in dx
    these lie; pixels that no tap meets are set to 0.
    """
    rows, columns = np.indices(g.window)
    for vertical, horizontal in np.ndindex(*g.stride):
        down = vertical + g.before[0] - rows * g.dilation[0]
        across = horizontal + g.before[1] - columns * g.dilation[1]
        met = (down % g.stride[0] == 0) & (across % g.stride[1] == 0)
        grid = tuple(
            -(-(size - first) // step)
            for size, first, step in zip(g.image, (vertical, horizontal), g.stride, strict=True)
        )
        if min(grid) <= 0:
            continue
        if not met.any():
            pixels = dx.array(-1)
            pixels[:, vertical :: g.stride[0], horizontal :: g.stride[1]] = 0
            continue
        places = Places((*grid, 1, 1), down[met] // g.stride[0], across[met] // g.stride[1])
        yield np.flatnonzero(met), places, (vertical, g.stride[0], horizontal, g.stride[1])


def balanced(n: int, most: int) -> int:
    """Images of a band, so that there are 8, 4 or 2 times as many bands, or as few as can be."""
    for bands in (BALANCED_TILES, BALANCED_TILES // 2, 2):
        if -(-n // most) <= bands <= n:
            return -(-n // bands)
    return most


def slots_of(places: Places, band: Band, n: int, columns: int) -> tuple[int, int]:
    """Shares of the bands, and of the output channels where the bands are few."""
    bands = -(-n // band.images) * -(-places.grid[0] // band.rows)
    by_band = min(bands, SHARES)
    if bands < BALANCED_TILES:
        return by_band, max(1, min(-(-BALANCED_TILES // bands), columns // WHOLE))
    return by_band, 1


def slots_of_sums(
    shares: tuple[int, int], nbytes: int, limit: int, columns: int
) -> tuple[int, int]:
    """The shares where each one of the bands has `nbytes` of sums: no more than fit the limit.

    Large sums are shared out by output channels instead.
    """
    most = max(1, limit // nbytes)
    if most >= shares[0]:
        return shares
    return most, max(1, min(BALANCED_TILES // most, columns // WHOLE))


def buffers(
    x: Images, band: Band, slots: int, places: int, columns: int, dtype: Any
) -> tuple[Array, Array, Array]:
    """Scratch for bands, for turning their channels, and for products."""
    pixels = band.images * band.height * band.width
    return (
        scratch.take("bands", (slots, pixels * x.c if band.copied else 1), dtype),
        scratch.take(
            "turned", (slots, 1 if x.last else band.images * band.height * x.w * x.c), dtype
        ),
        scratch.take("products", (slots, places * columns), dtype),
    )


def turned_taps(tiles: int, window: int, dtype: Any) -> Array:
    """Scratch for the taps of a channel, for the columns of a panel."""
    lanes = register_lanes(dtype.itemsize)
    rows = -(-window // lanes) * lanes
    return scratch.take("turned taps", (tiles, rows * lane_count(dtype.itemsize)), dtype)


def counts_of(places: Places, band: Band, z: Images, shares: int, rows: int = 1) -> Array:
    """Values of a channel in each share of the bands, whose places are `rows` rows of z each."""
    down = -(-places.grid[0] // band.rows)
    bands = -(-z.n // band.images) * down
    counts = np.zeros(shares, np.int64)
    for share in range(shares):
        for block in range(bands * share // shares, bands * (share + 1) // shares):
            images = min(band.images, z.n - block // down * band.images)
            high = min(band.rows * rows, z.h - block % down * band.rows * rows)
            counts[share] += images * high * z.w
    return counts
