"""Which kernel serves a shape, and in which tiles.

A plan depends on shape, type and the target's vector width alone, never on the number of threads:
the partial sums, and so the last bits, are the same on one thread and on many.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from nbnorm.jit import target
from nbnorm.jit.simd import lane_count

# A tile's block of x (and of dy) that its second look should still find in the second cache.
TILE_BYTES = 256 << 10
LARGEST_TILE_BYTES = 512 << 10

# Arrays that fit the last cache together are summed whole and then written whole: two sweeps in
# memory order at that cache's speed beat tiles, which jump from sample to sample (336 against 457
# us for (32, 128, 28, 28)). Beyond it the second look at a tile saves a sweep of memory. Small
# arrays are in the second cache anyway, and one kernel is the cheapest to call.
SECOND_CACHE_BYTES = 1 << 20
LAST_CACHE_BYTES = 32 << 20

# Planes shorter than this part of a vector are columns.
SHORTEST_PLANE = 4

# With fewer channels than this, tiles of channels would leave threads idle.
FEW_CHANNELS = 8

MOST_SLICES = 64

# Below this many values a kernel runs on the calling thread: waking the others costs up to 100 us
# when they have slept, which is about the time one thread needs.
PARALLEL_FROM = 1 << 17


class Plan(NamedTuple):
    """How the kernels of a shape run.

    columns     whether the array is seen as columns, else as planes: see kernels/layout.py
    fused       whether a tile does all for its channels; sliced otherwise
    tiles       tiles of the fused kernel, or slices of the sliced sums
    width       fused: channels in a tile; sliced columns: rows; sliced planes: values
    spans       which columns are a channel's
    stride      length of a row of constants
    row_length  columns
    pieces      tiles of the kernel that writes, where sliced
    parallel    whether it is worth more than one thread
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


@functools.lru_cache(maxsize=4096)
def training_plan(shape: tuple[int, int, int], itemsize: int, arrays: int) -> Plan:
    """The plan for kernels that sum over the batch and go through so many arrays of its size."""
    n, c, s = shape
    lanes = lane_count(itemsize)
    size = n * c * s * itemsize
    if s < lanes // SHORTEST_PLANE:
        vector_bytes = n * lanes * itemsize
        if s == 1 and vector_bytes <= LARGEST_TILE_BYTES and (c >= 4 * lanes or c % lanes == 0):
            width = lanes * max(1, TILE_BYTES // vector_bytes)
            if c > width or size <= TILE_BYTES:
                return _fused(shape, True, width, lanes)
        return _sliced_columns(shape, itemsize)
    in_last_cache = SECOND_CACHE_BYTES < size and arrays * size <= LAST_CACHE_BYTES
    if in_last_cache or (c < FEW_CHANNELS and size > SECOND_CACHE_BYTES):
        return _sliced_planes(shape)
    return _fused(shape, False, max(1, LARGEST_TILE_BYTES // (n * s * itemsize)), lanes)


@functools.lru_cache(maxsize=4096)
def elementwise_plan(shape: tuple[int, int, int], itemsize: int) -> Plan:
    """The plan for kernels that only write, each channel's constants being known."""
    if shape[2] < lane_count(itemsize) // SHORTEST_PLANE:
        return _sliced_columns(shape, itemsize)
    return _sliced_planes(shape)


def _fused(shape: tuple[int, int, int], columns: bool, width: int, lanes: int) -> Plan:
    n, c, s = shape
    stride = -(-c // lanes) * lanes if columns else c
    parallel = n * c * s >= PARALLEL_FROM
    return Plan(columns, True, -(-c // width), width, (1, 1, 0), stride, c, 0, parallel)


def _sliced_planes(shape: tuple[int, int, int]) -> Plan:
    n, c, s = shape
    m = n * s
    slices = max(1, min(MOST_SLICES // c, m >> 14))
    size = 1 << 15
    pieces = -(-c * m // size)
    return Plan(
        False, False, slices, size, (1, 1, 0), c, 0, pieces, n * c * s >= PARALLEL_FROM
    )


def _sliced_columns(shape: tuple[int, int, int], itemsize: int) -> Plan:
    n, c, s = shape
    lanes = lane_count(itemsize)
    copies = _copies(n, c * s, itemsize, lanes)
    row_length = copies * c * s
    rows = max(1, n // copies)
    height = max(64, -(-rows // MOST_SLICES), TILE_BYTES // (row_length * itemsize))
    tiles = -(-rows // height)
    return Plan(
        True,
        False,
        tiles,
        height,
        (s, copies, c * s),
        -(-row_length // lanes) * lanes,
        row_length,
        tiles,
        n * c * s >= PARALLEL_FROM,
    )


def _copies(n: int, columns: int, itemsize: int, lanes: int) -> int:
    """Samples to join into a row so that few lanes stay empty and rows begin at a cache line."""
    for copies in range(1, min(n, lanes) + 1):
        length = copies * columns
        empty = -length % lanes
        if empty <= length // 16 and length * itemsize % target.register_bytes() == 0:
            return copies
    return 1
