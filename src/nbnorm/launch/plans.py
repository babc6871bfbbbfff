"""Which kernels of batch norm serve a shape, in which tiles, and with which memory they run.

`Fused`                one kernel does all: each tile sums a few channels, finishes their constants
                       and writes them while they are in the L2 cache
`Planes`, `Columns`    three kernels, each over tiles of its own: `sum`, then `normalize` or `apply`
                       with constants worked out between them (launch/statistics.py)

kernels/channels.py says what planes and columns are, and what the array of constants is.

A plan depends on shape, type and the target's vector width alone, never on the number of threads:
the partial sums, and so the last bits, are the same on one thread and on many.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from nbnorm.jit import target
from nbnorm.jit.simd import lane_count
from nbnorm.jit.threads import run
from nbnorm.kernels.batch_norm import fused, gradients, normalize, sums
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
from nbnorm.launch.scratch import ALIGNMENT, address, scratch
from nbnorm.typing import Array

Shape: TypeAlias = tuple[int, int, int]

# Two numbers a channel: arrays (c,) of one type.
Pair: TypeAlias = tuple[Array, Array]

# The largest tile of planes: its block of x (and of dy), twice what a second pass surely finds.
LARGEST_TILE_BYTES = 512 << 10

# The smallest, so that a small array is one tile: the forward of (8, 16, 4, 4) took 2.1 us rather
# than the 2.6 of eight tiles.
SMALLEST_TILE_BYTES = 16 << 10

# Rows of a block of columns that may share a set of the L2 cache, which they do if their length is
# a power of two: of (256, 1024), 16 rows meet in each set, as many as it holds, and the second pass
# over the block misses. With 8 it hits: (32, 200704), batch norm per activation of 64 x 56 x 56,
# took 2.4 ms forward and 2.5 backward, in slices 2.6 and 3.7.
MOST_ROWS_IN_A_SET = 8

# Planes shorter than this part of a vector are columns.
SHORTEST_PLANE = 4

# Tiles that planes are summed in: all channels of some samples, so that memory is read in its
# order. Channel by channel, where the planes of (32, 2048, 7, 7) lie 400 KB apart, the forward took
# 770 us rather than 460 and the backward 1850 rather than 900; those of (32, 128, 28, 28) took 430
# rather than 340 and 790 rather than 690 (two cores of Zen 5).
SUMMED_TILES = 16

# Values of a channel that are worth a slice, whose sums have to be added up.
FEWEST_SUMMED_VALUES = 64

# With fewer channels than this, tiles of channels would leave threads idle.
FEW_CHANNELS = 8

# Rows of a slice of columns, however many slices that makes: in longer slices float64 sums lose
# digits; those of (3,000,000, 16) were 4.0e-15 off rather than 4.2e-16, in the same time.
MOST_ROWS = 256
MIN_ROWS = 16


class Fused(NamedTuple):
    """All of a batch norm in one kernel.

    shape     (n, c, s)
    columns   whether channels are columns, else planes
    tiles     of the kernel
    width     channels in a tile
    ld        leading dimension of sums and constants: c, for columns in whole vectors
    parallel  whether it is worth more than one thread
    streamed  whether to write past the caches, alignment permitting
    """

    shape: Shape
    columns: bool
    tiles: int
    width: int
    ld: int
    parallel: bool
    streamed: bool

    def forward(
        self,
        y: Array,
        statistics: Array,
        x: Array,
        residual: Array | None,
        parameters: Pair,
        eps: float,
        ddof: int,
        activation: Any,
    ) -> None:
        """Y and the statistics (4, c) of the batch."""
        worker = fused.forward_planes
        stream = self.streamed
        if self.columns:
            worker = fused.forward_columns
            stream = stream and _on_lines(y, self.shape[1])
        run(
            worker, self.tiles, self.parallel, y, statistics,
            scratch.take("sums", (2, self.ld), np.float64),
            scratch.take("constants", (3, self.ld), x.dtype), x, residual, parameters, eps, ddof,
            activation, stream, self.width, self.shape,
        )  # fmt: skip

    def backward(
        self,
        dx: Array | None,
        dresidual: Array | None,
        dgamma_dbeta: Array,
        dy: Array,
        x: Array,
        residual: Array | None,
        statistics: Array,
        parameters: Pair,
        ddof: int,
        activation: Any,
        frozen: bool,
    ) -> None:
        """Dx and dresidual, unless they are None, and dgamma and dbeta (2, c)."""
        worker = fused.backward_planes
        stream = self.streamed and dx is not None
        if self.columns:
            worker = fused.backward_columns
            stream = stream and _on_lines(dx, self.shape[1])
        run(
            worker, self.tiles, self.parallel, dx, dresidual, dgamma_dbeta,
            scratch.take("sums", (2, self.ld), np.float64),
            scratch.take("constants", (7, self.ld), x.dtype), dy, x, residual, statistics,
            parameters, ddof, activation, frozen, stream, self.width, self.shape,
        )  # fmt: skip


class Planes(NamedTuple):
    """Planes, in slices and tiles that do not mind where a channel ends.

    shape     (n, c, s)
    slices    that each channel is summed in
    width     channels that are summed in a tile
    tiles     of what is written
    size      values in such a tile
    parallel  whether it is worth more than one thread
    streamed  whether to write past the caches
    spans     of kernels/channels.py: a plane's constants are its channel's
    """

    shape: Shape
    slices: int
    width: int
    tiles: int
    size: int
    parallel: bool
    streamed: bool
    spans: tuple[int, int, int] = (1, 1, 0)

    def constants(self, rows: int, dtype: np.dtype[Any]) -> tuple[Array, Array]:
        """Scratch for the constants of planes and of channels, which are the same."""
        constants = scratch.take("constants", (rows, self.shape[1]), dtype)
        return constants, constants

    def sum(
        self,
        dy: Array | None,
        x: Array,
        residual: Array | None,
        weights: Array | None,
        constants: Array,
        activation: Any,
    ) -> Array:
        """The two sums of each slice: (slices, 2, c) float64."""
        c = self.shape[1]
        slices = scratch.take("sums", (self.slices, 2, c), np.float64)
        run(
            sums.sum_planes, self.slices * -(-c // self.width), self.parallel, slices, dy,
            x, residual, weights, constants, activation, self.width, self.shape,
        )  # fmt: skip
        return slices

    def normalize(
        self, y: Array, x: Array, residual: Array | None, constants: Array, activation: Any
    ) -> None:
        """Y, given the constants."""
        run(
            normalize.normalize_planes, self.tiles,
            self.parallel, y, x, residual, constants, activation, self.streamed, self.size,
            self.shape,
        )  # fmt: skip

    def infer(
        self,
        y: Array,
        statistics: Array,
        x: Array,
        residual: Array | None,
        given: Pair,
        parameters: Pair,
        eps: float,
        activation: Any,
    ) -> bool:
        """Y and the statistics (4, c), by a mean and variance that are given.

        Returns whether a variance is negative; y is not written then.
        """
        constants, _ = self.constants(3, x.dtype)
        if not self.parallel:
            return normalize.infer_planes(
                y, statistics, constants, x, residual, given, parameters, eps, activation,
                self.size, self.shape,
            )  # fmt: skip
        if normalize.fold_given(
            constants, constants, statistics, given, parameters, eps, self.spans
        ):
            return True
        self.normalize(y, x, residual, constants, activation)
        return False

    def apply(
        self,
        dx: Array | None,
        dresidual: Array | None,
        dy: Array,
        x: Array,
        residual: Array | None,
        weights: Array | None,
        constants: Array,
        activation: Any,
        frozen: bool,
    ) -> None:
        """Dx and dresidual, unless they are None, given the constants."""
        stream = self.streamed and dx is not None
        run(
            gradients.apply_planes, self.tiles, self.parallel, dx,
            dresidual, dy, x, residual, weights, constants, activation, frozen, stream, self.size,
            self.shape,
        )  # fmt: skip


class Columns(NamedTuple):
    """Columns, in slices of rows that are the tiles of what is written too.

    shape       (n, c, s)
    row_length  columns in a row
    spans       which columns are a channel's: see kernels/channels.py
    height      rows in a slice
    tiles       slices
    parallel    whether it is worth more than one thread
    streamed    whether to write past the caches, alignment permitting
    """

    shape: Shape
    row_length: int
    spans: tuple[int, int, int]
    height: int
    tiles: int
    parallel: bool
    streamed: bool

    def constants(self, rows: int, dtype: np.dtype[Any]) -> tuple[Array, Array]:
        """Scratch for the constants of columns and of channels: one array where they are one."""
        ld = whole_vectors(self.row_length, dtype.itemsize)
        constants = scratch.take("constants", (rows, ld), dtype)
        c = self.shape[1]
        if self.row_length == c:
            return constants, constants
        return constants, scratch.take("channel constants", (rows, c), dtype)

    def sum(
        self,
        dy: Array | None,
        x: Array,
        residual: Array | None,
        weights: Array | None,
        constants: Array,
        activation: Any,
    ) -> Array:
        """The two sums of each column in each slice: (slices, 2, ld) float64."""
        slices = scratch.take("sums", (self.tiles, 2, constants.shape[1]), np.float64)
        run(
            sums.sum_columns, self.tiles, self.parallel, slices, dy, x,
            residual, weights, constants, activation, self.height, self.row_length,
        )  # fmt: skip
        return slices

    def add(self, x: Array) -> Array:
        """The sum of each column in each slice: (slices, row_length) float64."""
        slices = scratch.take("sums", (self.tiles, self.row_length), np.float64)
        run(
            sums.add_columns, self.tiles, self.parallel, slices, x,
            self.height, self.row_length,
        )  # fmt: skip
        return slices

    def normalize(
        self, y: Array, x: Array, residual: Array | None, constants: Array, activation: Any
    ) -> None:
        """Y, given the constants."""
        stream = self.streamed and _on_lines(y, self.row_length)
        run(
            normalize.normalize_columns, self.tiles,
            self.parallel, y, x, residual, constants, activation, stream, self.height,
            self.row_length,
        )  # fmt: skip

    def infer(
        self,
        y: Array,
        statistics: Array,
        x: Array,
        residual: Array | None,
        given: Pair,
        parameters: Pair,
        eps: float,
        activation: Any,
    ) -> bool:
        """As that of `Planes`."""
        constants, folded = self.constants(3, x.dtype)
        if not self.parallel:
            return normalize.infer_columns(
                y, statistics, constants, folded, x, residual, given, parameters, eps, activation,
                self.height, self.spans,
            )  # fmt: skip
        if normalize.fold_given(constants, folded, statistics, given, parameters, eps, self.spans):
            return True
        self.normalize(y, x, residual, constants, activation)
        return False

    def apply(
        self,
        dx: Array | None,
        dresidual: Array | None,
        dy: Array,
        x: Array,
        residual: Array | None,
        weights: Array | None,
        constants: Array,
        activation: Any,
        frozen: bool,
    ) -> None:
        """Dx and dresidual, unless they are None, given the constants."""
        stream = self.streamed and _on_lines(dx, self.row_length)
        run(
            gradients.apply_columns, self.tiles, self.parallel,
            dx, dresidual, dy, x, residual, weights, constants, activation, frozen, stream,
            self.height, self.row_length,
        )  # fmt: skip


def _on_lines(written: Array | None, row_length: int) -> bool:
    """Whether all rows begin on a cache line: the only columns that can be streamed."""
    return (
        written is not None
        and address(written) % ALIGNMENT == 0
        and row_length * written.itemsize % ALIGNMENT == 0
    )


# --- choice -----------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def training_plan(shape: Shape, itemsize: int, arrays: int) -> Fused | Planes | Columns:
    """The plan for kernels that sum over the batch and go through so many arrays of its size."""
    n, c, s = shape
    size = n * c * s * itemsize
    if _is_columns(s, itemsize):
        lanes = lane_count(itemsize)
        vector_bytes = n * lanes * itemsize
        in_a_set = _rows_in_a_set(n, c * itemsize)
        if s == 1 and vector_bytes <= TILE_BYTES and in_a_set <= MOST_ROWS_IN_A_SET:
            width = lanes * (TILE_BYTES // vector_bytes)
            if c > width or size <= TILE_BYTES:
                return _fused(shape, itemsize, arrays, width)
        return _columns(shape, itemsize, arrays)
    in_order = arrays * size <= LLC_BYTES or s * itemsize < SHORTEST_STREAM_BYTES
    # Of one sample, tiles of channels are read in memory's order anyway.
    if size > L2_CACHE_BYTES and ((in_order and n > 1) or c < FEW_CHANNELS):
        return _planes(shape, itemsize, arrays)
    channel_bytes = n * s * itemsize
    width = max(c // BALANCED_TILES, SMALLEST_TILE_BYTES // channel_bytes)
    return _fused(shape, itemsize, arrays, max(1, min(width, LARGEST_TILE_BYTES // channel_bytes)))


@functools.lru_cache(maxsize=4096)
def elementwise_plan(shape: Shape, itemsize: int) -> Planes | Columns:
    """The plan for kernels that only write, each channel's constants being known."""
    choice = _columns if _is_columns(shape[2], itemsize) else _planes
    return choice(shape, itemsize, 2)


@functools.lru_cache(maxsize=4096)
def weighted_plan(shape: Shape, itemsize: int) -> Planes | Columns:
    """The plan for kernels that read a weight for each place of a channel, (n, s) of them.

    A row of columns has one weight, so it is one sample, and its channels are single values.
    """
    if shape[2] == 1:
        return _columns(shape, itemsize, 2, copies=1)
    # Where a plane ends, weights end too: what is streamed begins anew.
    return _planes(shape, itemsize, 2)._replace(streamed=is_streamed(shape, itemsize, 2, shape[2]))


@functools.lru_cache(maxsize=4096)
def columns_plan(n: int, c: int, itemsize: int) -> Columns:
    """The plan for the columns of a matrix (n, c)."""
    return _columns((n, c, 1), itemsize, 2)


def _is_columns(s: int, itemsize: int) -> bool:
    return s < lane_count(itemsize) // SHORTEST_PLANE


def _rows_in_a_set(rows: int, row_bytes: int) -> int:
    """Rows of a block of columns whose cache lines meet in one set of the L2 cache."""
    return -(-rows * math.gcd(row_bytes, L2_SET_PERIOD) // L2_SET_PERIOD)


def _fused(shape: Shape, itemsize: int, arrays: int, width: int) -> Fused:
    _, c, s = shape
    columns = _is_columns(s, itemsize)
    return Fused(
        shape=shape,
        columns=columns,
        tiles=-(-c // width),
        width=width,
        ld=whole_vectors(c, itemsize) if columns else c,
        parallel=math.prod(shape) >= PARALLEL_FROM_VALUES,
        streamed=is_streamed(shape, itemsize, arrays, c if columns else s),
    )


def _planes(shape: Shape, itemsize: int, arrays: int) -> Planes:
    n, c, s = shape
    values = n * c * s
    if n * c < SUMMED_TILES:  # parts of planes
        slices = min(MOST_SLICES // c, n * s // SHORTEST_SLICE_VALUES)
        width = 1
    else:
        slices = max(1, min(n, SUMMED_TILES, n * s // FEWEST_SUMMED_VALUES))
        width = -(-c * slices // SUMMED_TILES)
    return Planes(
        shape=shape,
        slices=max(1, slices),
        width=max(1, width),
        tiles=-(-values // TILE_VALUES),
        size=TILE_VALUES,
        parallel=values >= PARALLEL_FROM_VALUES,
        # Tiles are written in whole registers, however short the planes.
        streamed=is_streamed(shape, itemsize, arrays, s if _is_columns(s, itemsize) else values),
    )


def _columns(shape: Shape, itemsize: int, arrays: int, copies: int | None = None) -> Columns:
    n, c, s = shape
    if copies is None:
        copies = _copies(n, c * s, itemsize)
    row_length = copies * c * s
    rows = n // copies
    wanted = max(1, rows * row_length * itemsize // TILE_BYTES)
    wanted = min(MOST_SLICES, -(-wanted // BALANCED_TILES) * BALANCED_TILES)
    height = min(MOST_ROWS, max(MIN_ROWS, -(-rows // wanted)))
    return Columns(
        shape=shape,
        row_length=row_length,
        spans=(s, copies, c * s),
        height=height,
        tiles=max(1, -(-rows // height)),
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
