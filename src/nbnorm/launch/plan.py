"""Which kernel serves a shape, and in which tiles.

A plan depends on shape, type and the target's vector width alone, never on the number of threads:
the partial sums, and so the last bits, are the same on one thread and on many.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from nbnorm.jit import target
from nbnorm.jit.simd import lane_count
from nbnorm.launch.machine import (
    BALANCED_TILES,
    L2_CACHE_BYTES,
    L2_SET_PERIOD,
    LLC_BYTES,
    MOST_SLICES,
    PARALLEL_FROM_VALUES,
    SHORTEST_SLICE_VALUES,
    SHORTEST_STREAM_BYTES,
    TILE_BYTES,
    TILE_VALUES,
    is_streamed,
    whole_vectors,
)

# The largest tile of planes: its block of x (and of dy), twice what a second pass surely finds.
LARGEST_TILE_BYTES = 512 << 10

# Rows of a block of columns that may share a set of the L2 cache, which they do if their length is
# a power of two: of (256, 1024), 16 rows meet in each set, as many as it holds, and the second pass
# over the block misses. With 8 it hits: (32, 200704), batch norm per activation of 64 x 56 x 56,
# took 2.4 ms forward and 2.5 backward, in slices 2.6 and 3.7.
MOST_LINES = 8

# Planes shorter than this part of a vector are columns.
SHORTEST_PLANE = 4

# With fewer channels than this, tiles of channels would leave threads idle.
FEW_CHANNELS = 8

# Rows of a slice of columns. In more of them float64 sums lose digits: those of (3,000,000, 16)
# were 4.0e-15 off rather than 4.2e-16, in the same time.
MOST_ROWS = 256
MIN_ROWS = 16


class Plan(NamedTuple):
    """How the kernels of a shape run.

    columns     whether the array is seen as columns, else as planes: see kernels/channels.py
    fused       whether a tile does all for its channels; sliced otherwise
    tiles       tiles of the fused kernel, or slices of the sliced sums
    width       fused: channels in a tile; sliced columns: rows; sliced planes: values
    spans       which columns are a channel's
    stride      length of a row of constants
    row_length  columns
    pieces      tiles of the kernel that writes, where sliced
    parallel    whether it is worth more than one thread
    streamed    whether to write past the caches, alignment permitting
    """

    columns: bool
    fused: bool
    tiles: int
    width: int
    spans: tuple[int, int, int]
    stride: int
    row_length: int
    pieces: int
    parallel: bool
    streamed: bool


@functools.lru_cache(maxsize=4096)
def training_plan(shape: tuple[int, int, int], itemsize: int, arrays: int) -> Plan:
    """The plan for kernels that sum over the batch and go through so many arrays of its size."""
    n, c, s = shape
    size = n * c * s * itemsize
    if _is_columns(s, itemsize):
        lanes = lane_count(itemsize)
        vector_bytes = n * lanes * itemsize
        if s == 1 and vector_bytes <= TILE_BYTES and _lines_in_a_set(n, c * itemsize) <= MOST_LINES:
            width = lanes * (TILE_BYTES // vector_bytes)
            if c > width or size <= TILE_BYTES:
                return _fused(shape, itemsize, arrays, width)
        return _sliced_columns(shape, itemsize, arrays)
    in_order = arrays * size <= LLC_BYTES or s * itemsize < SHORTEST_STREAM_BYTES
    if size > L2_CACHE_BYTES and (in_order or c < FEW_CHANNELS):
        return _sliced_planes(shape, itemsize, arrays)
    width = min(LARGEST_TILE_BYTES // (n * s * itemsize), c // BALANCED_TILES)
    return _fused(shape, itemsize, arrays, max(1, width))


@functools.lru_cache(maxsize=4096)
def elementwise_plan(shape: tuple[int, int, int], itemsize: int) -> Plan:
    """The plan for kernels that only write, each channel's constants being known."""
    sliced = _sliced_columns if _is_columns(shape[2], itemsize) else _sliced_planes
    return sliced(shape, itemsize, 2)


def _is_columns(s: int, itemsize: int) -> bool:
    return s < lane_count(itemsize) // SHORTEST_PLANE


def _lines_in_a_set(rows: int, row_bytes: int) -> int:
    """Rows of a block of columns whose lines meet in one set of the L2 cache."""
    return -(-rows * math.gcd(row_bytes, L2_SET_PERIOD) // L2_SET_PERIOD)


def _fused(shape: tuple[int, int, int], itemsize: int, arrays: int, width: int) -> Plan:
    _, c, s = shape
    columns = _is_columns(s, itemsize)
    return Plan(
        columns=columns,
        fused=True,
        tiles=-(-c // width),
        width=width,
        spans=(1, 1, 0),
        stride=whole_vectors(c, itemsize) if columns else c,
        row_length=c,
        pieces=0,
        parallel=math.prod(shape) >= PARALLEL_FROM_VALUES,
        streamed=is_streamed(shape, itemsize, arrays, c if columns else s),
    )


def _sliced_planes(shape: tuple[int, int, int], itemsize: int, arrays: int) -> Plan:
    n, c, s = shape
    width = max(1, TILE_VALUES // s) * s if s < TILE_VALUES else TILE_VALUES
    return Plan(
        columns=False,
        fused=False,
        tiles=max(1, min(MOST_SLICES // c, n * s // SHORTEST_SLICE_VALUES)),
        width=width,
        spans=(1, 1, 0),
        stride=c,
        row_length=0,
        pieces=-(-math.prod(shape) // width),
        parallel=math.prod(shape) >= PARALLEL_FROM_VALUES,
        streamed=is_streamed(shape, itemsize, arrays, s),
    )


def _sliced_columns(shape: tuple[int, int, int], itemsize: int, arrays: int) -> Plan:
    n, c, s = shape
    copies = _copies(n, c * s, itemsize)
    row_length = copies * c * s
    rows = n // copies
    wanted = max(1, rows * row_length * itemsize // TILE_BYTES)
    wanted = min(MOST_SLICES, -(-wanted // BALANCED_TILES) * BALANCED_TILES)
    height = min(MOST_ROWS, max(MIN_ROWS, -(-rows // wanted)))
    tiles = max(1, -(-rows // height))
    return Plan(
        columns=True,
        fused=False,
        tiles=tiles,
        width=height,
        spans=(s, copies, c * s),
        stride=whole_vectors(row_length, itemsize),
        row_length=row_length,
        pieces=tiles,
        parallel=math.prod(shape) >= PARALLEL_FROM_VALUES,
        streamed=is_streamed(shape, itemsize, arrays, row_length),
    )


def _copies(n: int, columns: int, itemsize: int) -> int:
    """Samples to join into a row so that few lanes stay empty and rows begin at a cache line."""
    lanes = lane_count(itemsize)
    for copies in range(1, min(n, lanes) + 1):
        length = copies * columns
        empty = -length % lanes
        if empty <= length // 16 and length * itemsize % target.register_bytes() == 0:
            return copies
    return 1
