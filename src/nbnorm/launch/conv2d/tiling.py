"""How a convolution is divided into blocks and partitions, and the memory that these need.

All of it depends on sizes and types alone; kernels/conv2d/geometry.py says what the words mean.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from nbnorm.jit.simd import lane_count, register_lanes
from nbnorm.kernels.conv2d.geometry import PART_CHANNELS, Geometry, Workspace
from nbnorm.kernels.gemm.epilogue import Epilogue
from nbnorm.kernels.gemm.microkernel import TILE_ROWS
from nbnorm.launch.conv2d.convolution import Window
from nbnorm.launch.conv2d.images import View
from nbnorm.launch.machine import BALANCED_TILES
from nbnorm.launch.scratch import scratch
from nbnorm.launch.statistics import Summed, sums_about
from nbnorm.typing import Array

# Bytes of an input block, and of the block of the output worked out from it: both in the L2 cache
# beside the weights that are multiplied at once.
BLOCK_BYTES = 256 << 10

# More positions than these in a block gain nothing: the weights are in the L2 cache.
MOST_POSITIONS = 1024

# Fewer than these would read all weights anew too often, whatever the L2 cache holds.
FEWEST_POSITIONS = 192


class BlockSize(NamedTuple):
    """The fields of `Geometry` that say what a block is."""

    block_images: int
    block_rows: int
    input_height: int
    input_width: int
    top: int
    left: int
    copied: bool


class Parts(NamedTuple):
    """The fields of `Geometry` that say how many partitions there are."""

    block_parts: int
    channel_parts: int

    def limited(self, nbytes: int, most: int, channels: int) -> Parts:
        """The parts where each one of the blocks has sums of its own, so large.

        No more than `most` bytes; large sums are divided by output channels instead.
        """
        blocks = max(1, most // nbytes)
        if blocks >= self.block_parts:
            return self
        return Parts(blocks, max(1, min(BALANCED_TILES // blocks, channels // PART_CHANNELS)))


class Tiling:
    """A pass of a window, divided. It is the same for all arrays of the same sizes.

    geometry    what kernels are told of it
    partitions  how many there are
    positions   of the window, in a whole block
    """

    def __init__(
        self,
        x: View,
        z: View,
        window: Window,
        groups: int,
        block: BlockSize,
        parts: Parts,
        row_offsets: Array,
    ) -> None:
        self.geometry = Geometry(
            n=x.n,
            h=x.h,
            w=x.w,
            c=x.c,
            x_last=x.last,
            z_h=z.h,
            z_w=z.w,
            k=z.c,
            z_last=z.last,
            groups=groups,
            rows=window.rows,
            columns=window.columns,
            stride_h=window.stride[0],
            stride_w=window.stride[1],
            z_row=window.origin[0],
            z_row_step=window.origin[1],
            z_column=window.origin[2],
            z_column_step=window.origin[3],
            tap_rows=np.array(window.tap_rows, np.int64),
            tap_columns=np.array(window.tap_columns, np.int64),
            row_offsets=row_offsets,
            **block._asdict(),
            **parts._asdict(),
        )
        self.partitions = parts.block_parts * parts.channel_parts
        self.positions = block.block_images * block.block_rows * window.columns
        self.in_place = z.last and window.origin == (0, 1, 0, 1)

    def scratch(self, name: str, room: int, dtype: Any) -> Array:
        """Scratch of so many numbers for each partition."""
        return scratch.take(name, (self.partitions, room), dtype)

    def workspace(self, dtype: Any, transposed: int = 1) -> Workspace:
        """Scratch for what every kernel does: reading input blocks.

        `transposed` is how much room is needed for other pixels that are transposed.
        """
        g = self.geometry
        pixels = g.block_images * g.input_height * g.input_width
        if not g.x_last:
            transposed = max(transposed, g.block_images * g.input_height * g.w * g.c)
        return Workspace(
            input_blocks=self.scratch("input blocks", pixels * g.c if g.copied else 1, dtype),
            transposed=self.scratch("transposed", transposed, dtype),
        )

    def with_sums(self, epilogue: Epilogue, dtype: Any) -> tuple[Epilogue, Summed]:
        """The epilogue with scratch for the sums of each part of the blocks."""
        summed = sums_about(self._counts, self.geometry.k, dtype)
        return epilogue._replace(sums=summed.sums, pivots=summed.pivots), summed

    @functools.cached_property
    def _counts(self) -> Array:
        """Values of a channel in each part of the blocks."""
        g = self.geometry
        down = -(-g.rows // g.block_rows)
        blocks = -(-g.n // g.block_images) * down
        block_rows = g.block_rows * g.z_row_step  # of the output
        counts = np.zeros(g.block_parts, np.int64)
        for part in range(g.block_parts):
            for block in range(
                blocks * part // g.block_parts, blocks * (part + 1) // g.block_parts
            ):
                images = min(g.block_images, g.n - block // down * g.block_images)
                rows = min(block_rows, g.z_h - block % down * block_rows)
                counts[part] += images * rows * g.z_w
        return counts


# --- blocks ---------------------------------------------------------------------------------


def block_of(x: View, k: int, window: Window, itemsize: int, widened: int = 0) -> BlockSize:
    """The blocks for an input, and an output of k channels.

    `widened` is how many numbers an input pixel becomes where that is more than its channels.
    """
    top, left = min(window.tap_rows), min(window.tap_columns)
    tall, wide = max(window.tap_rows) - top + 1, max(window.tap_columns) - left + 1
    width = (window.columns - 1) * window.stride[1] + wide

    def height(rows: int) -> int:
        return (rows - 1) * window.stride[0] + tall

    def fits(images: int, rows: int) -> bool:
        positions = images * rows * window.columns
        taken = images * height(rows) * width * max(x.c, widened) * itemsize
        is_small = max(taken, positions * k * itemsize) <= BLOCK_BYTES
        return positions <= (MOST_POSITIONS if is_small else FEWEST_POSITIONS)

    images, rows = largest_block(x.n, window.rows, fits)
    inside = (
        top >= 0 and left >= 0 and top + height(window.rows) <= x.h and left + width <= x.w
    )  # fmt: skip
    return BlockSize(images, rows, height(rows), width, top, left, not (inside and x.last))


def largest_block(n: int, rows: int, fits: Callable[[int, int], bool]) -> tuple[int, int]:
    """The images and rows of the largest block that fits, so that blocks are of like sizes."""
    high = max([i for i in range(1, rows + 1) if fits(1, i)], default=1)
    high = -(-rows // -(-rows // high))
    if high < rows:
        return 1, high
    return _balanced(n, max([i for i in range(1, n + 1) if fits(i, rows)], default=1)), high


def _balanced(n: int, most: int) -> int:
    """Images of a block, so that there are 8, 4 or 2 blocks, or as few as can be."""
    for blocks in (BALANCED_TILES, BALANCED_TILES // 2, 2):
        if -(-n // most) <= blocks <= n:
            return -(-n // blocks)
    return most


# --- partitions -----------------------------------------------------------------------------


def parts_of(n: int, rows: int, block: BlockSize, channels: int) -> Parts:
    """Parts of the blocks, and of a group's output channels where the blocks are few."""
    blocks = -(-n // block.block_images) * -(-rows // block.block_rows)
    if blocks >= BALANCED_TILES:
        return Parts(BALANCED_TILES, 1)
    return Parts(blocks, max(1, min(-(-BALANCED_TILES // blocks), channels // PART_CHANNELS)))


# --- what the multiply needs ----------------------------------------------------------------


def position_offsets(x: View, window: Window, block: BlockSize) -> Array:
    """Where each position of a block begins in its input block, and in that of the last block."""
    width, height = (block.input_width, block.input_height) if block.copied else (x.w, x.h)

    def offsets(images: int, rows: int) -> Array:
        image, i, j = np.indices((images, rows, window.columns)).reshape(3, -1)
        row = image * height + i * window.stride[0]
        return (row * width + j * window.stride[1]) * x.c

    return in_whole_tiles(
        offsets(block.block_images, block.block_rows),
        offsets(*last_block(x.n, window.rows, block)),
    )


def last_block(n: int, rows: int, block: BlockSize) -> tuple[int, int]:
    """Images and rows of the last block.

    Blocks of several images have all rows, so that one block at most is smaller than the others.
    """
    return n % block.block_images or block.block_images, rows % block.block_rows or block.block_rows


def in_whole_tiles(*tables: Array) -> Array:
    """Tables of offsets in whole tiles of the multiply, which reads them to their end."""
    longest = -(-max(len(table) for table in tables) // TILE_ROWS) * TILE_ROWS
    return np.array([np.pad(table, (0, longest - len(table)), "edge") for table in tables])


def window_scratch(panels: int, taps: int, dtype: Any) -> Array:
    """Scratch for the windows of a panel's output channels, in whole registers."""
    lanes = register_lanes(dtype.itemsize)
    rows = -(-taps // lanes) * lanes
    return scratch.take("windows", (panels, rows * lane_count(dtype.itemsize)), dtype)
