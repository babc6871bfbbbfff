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

# A tile's block of x (and of dy) that its second look should still find in the second cache.
TILE_BYTES = 256 << 10
LARGEST_TILE_BYTES = 512 << 10

# Planes shorter than this are columns, if a block of them fits a tile.
SHORT_PLANE_BYTES = 1024

# With fewer channels than this, tiles of channels would leave threads idle.
FEW_CHANNELS = 8
SLICED_FROM_BYTES = 1 << 20

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
def training_plan(shape: tuple[int, int, int], itemsize: int) -> Plan:
    """The plan for kernels that sum over the batch."""
    n, c, s = shape
    lanes = lane_count(itemsize)
    group = lanes // math.gcd(s, lanes)  # channels that fill whole vectors
    group_bytes = n * group * s * itemsize
    fits = group_bytes <= LARGEST_TILE_BYTES
    if s == 1 or s * itemsize < SHORT_PLANE_BYTES and (n >= 8 and fits or s < lanes // 4):
        if fits and c >= group and (c >= 4 * group or c % group == 0):
            width = group * max(1, TILE_BYTES // group_bytes)
            if c > width or n * c * s * itemsize <= TILE_BYTES:
                return _fused(shape, True, width, lanes)
        return _sliced_columns(shape, itemsize)
    if c < FEW_CHANNELS and n * c * s * itemsize >= SLICED_FROM_BYTES:
        return _sliced_planes(shape)
    return _fused(shape, False, max(1, TILE_BYTES // (n * s * itemsize)), lanes)


@functools.lru_cache(maxsize=4096)
def elementwise_plan(shape: tuple[int, int, int], itemsize: int) -> Plan:
    """The plan for kernels that only write, each channel's constants being known."""
    if shape[2] * itemsize < SHORT_PLANE_BYTES // 8:
        return _sliced_columns(shape, itemsize)
    return _sliced_planes(shape)


def _fused(shape: tuple[int, int, int], columns: bool, width: int, lanes: int) -> Plan:
    n, c, s = shape
    tiles = -(-c // width)
    parallel = n * c * s >= PARALLEL_FROM
    if not columns:
        return Plan(False, True, tiles, width, (1, 1, 0), c, 0, 0, parallel)
    stride = -(-c * s // lanes) * lanes
    return Plan(True, True, tiles, width, (s, 1, 0), stride, c * s, 0, parallel)


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
