"""What plans are fitted to: caches, numbers of tiles, and the work from which threads pay.

These are constants, not questions to the machine: most of them decide in which pieces sums are
taken, and so the last bits, which are to be the same everywhere.
"""

from __future__ import annotations

import math

from nbnorm.jit.simd import lane_count

# Arrays that fit the last-level cache together are summed whole and then written whole: two sweeps
# in memory order at that cache's speed beat tiles, which jump from sample to sample (336 against
# 457 us for (32, 128, 28, 28)), and the output stays there for its reader. Beyond it the second
# pass over a tile saves a sweep of memory, and streaming stores save reading what is overwritten.
# Small arrays are in the L2 cache anyway, and one kernel is the cheapest to call.
L2_CACHE_BYTES = 1 << 20
LLC_BYTES = 32 << 20

# Addresses that far apart share a set of the L2 cache.
L2_SET_PERIOD = 64 << 10

# A tile's block of an array that a second pass should still find in the L2 cache.
TILE_BYTES = 256 << 10

# Runs of contiguous values shorter than this are never streamed.
SHORTEST_STREAM_BYTES = 1024

# Tiles that share out evenly among few threads.
BALANCED_TILES = 8

# Values in a tile of a kernel that goes through an array once.
TILE_VALUES = 1 << 15

# Slices that a sum is taken in: so many at most, of so many values at least. More would cost more
# to add up than the balance of tiles is worth.
MOST_SLICES = 64
SHORTEST_SLICE_VALUES = 1 << 14

# Below this much work a kernel runs on the calling thread, which needs some 30 us for it: a second
# thread saves 10 us of those if it is awake, and costs 100 us to wake if it is not. Counted in the
# values of an array; in multiply-accumulates of a product; in those of a product without packed
# panels (few rows, narrow groups), which take longer; and for Winograd's algorithm, in values of
# the output times channels of the input, for each of which it multiplies 2.25 times.
PARALLEL_FROM_VALUES = 1 << 17
PARALLEL_FROM_MACS = 1 << 22
PARALLEL_FROM_UNPACKED_MACS = 1 << 19
PARALLEL_FROM_WINOGRAD = 1 << 20


def whole_vectors(columns: int, itemsize: int) -> int:
    """Columns rounded up to whole vectors."""
    lanes = lane_count(itemsize)
    return -(-columns // lanes) * lanes


def is_streamed(shape: tuple[int, ...], itemsize: int, arrays: int, run: int) -> bool:
    """Whether an output is better written past the caches, alignment permitting.

    It is one of so many arrays of its shape that a kernel goes through, and lies in runs of so many
    contiguous values.
    """
    size = math.prod(shape) * itemsize
    return arrays * size > LLC_BYTES and run * itemsize >= SHORTEST_STREAM_BYTES
