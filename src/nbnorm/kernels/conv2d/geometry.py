"""The sizes of a convolution, and how its work is divided: what every kernel of it is told.

A window stands at `rows` by `columns` *positions* in each image. At position (i, j), tap t of the
window sees pixel (i stride_h + tap_rows[t], j stride_w + tap_columns[t]) of the input, a zero
outside the image. What is worked out there is pixel (z_row + i z_row_step, z_column + j
z_column_step) of the output.

A forward has a position for each pixel of its output. The gradient of an input with stride is
worked out in several passes, one for each remainder of its pixels by the stride: stride_h and
stride_w are 1 then, and the output's steps are the stride.

A *block* is what is worked out at a time: `block_rows` rows of positions in one image, or all rows
in `block_images` small ones. The pixels that it is worked out from are its *input block*, with all
channels: `input_height` by `input_width` pixels of each image.

A *partition* is what a thread works out by itself, with a workspace of its own: a part of the
blocks, and of the output channels. How many there are depends on the sizes alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from nbnorm.jit.options import inlined

# Parts of the output channels begin at multiples of this: at a panel, whatever the registers.
PART_CHANNELS = 64


class Geometry(NamedTuple):
    """What kernels know of a convolution.

    Python hands it over as a plain tuple, like the other named tuples (see gemm.py), in 3 us of
    dispatch instead of 9; it is flat, so that one line gives its fields their names again.
    """

    n: int  # images

    # The input: height, width, channels of all groups, and whether these lie last in memory.
    h: int
    w: int
    c: int
    x_last: bool

    # The output, likewise.
    z_h: int
    z_w: int
    k: int
    z_last: bool

    groups: int  # of channels

    # Positions of the window, and pixels of the input from one to the next.
    rows: int
    columns: int
    stride_h: int
    stride_w: int

    # Where they lie in the output: the first one, and pixels from one to the next.
    z_row: int
    z_row_step: int
    z_column: int
    z_column_step: int

    # The window: pixels from a position to each tap, (taps,) of int64.
    tap_rows: Any
    tap_columns: Any

    # Positions of a block, over all columns.
    block_images: int
    block_rows: int

    # Pixels of its input block in each image; the first one lies (top, left) from the position.
    input_height: int
    input_width: int
    top: int
    left: int
    copied: bool  # or read where the input lies, as no zeros are needed and channels lie last

    # Parts of the blocks, and of the output channels: each pair is a partition.
    block_parts: int
    channel_parts: int

    # Where the rows begin that are multiplied, (1 or 2, rows in whole tiles) of int64. The first
    # table is for whole blocks, the second for the last one, which may be smaller.
    row_offsets: Any


class Workspace(NamedTuple):
    """Scratch of the kernels, a row of each array for each partition; None where not needed.

    input_blocks   an input block, channels last; a number where it is read in place
    transposed     its pixels on the way from channels first; a number where they lie last
    input_points   the input block as it is multiplied, where it is not multiplied as it lies
    output_points  the block of the output, or of its gradient, as it is multiplied
    output_blocks  a block of the output before it is written; a number where that is in place
    tap_offsets    int64: where the multiply finds the taps of the window
    """

    input_blocks: Any
    transposed: Any
    input_points: Any = None
    output_points: Any = None
    output_blocks: Any = None
    tap_offsets: Any = None


class WeightOrder(NamedTuple):
    """How the weights lie in a flat array.

    That of group g and tap t, from the group's input channel p to its output channel j, is at
    ``g group_step + taps[t] + p c_step + j k_step``. `window` taps lie together.
    """

    taps: Any  # (taps,) of int64
    group_step: int
    c_step: int
    k_step: int
    window: int


class Extent(NamedTuple):
    """The positions of a block, or its pixels: all columns of some rows of some images."""

    image: int
    row: int
    images: int
    rows: int


@inlined
def block_count(geometry):
    """Blocks of the whole convolution."""
    down = -(-geometry.rows // geometry.block_rows)
    return -(-geometry.n // geometry.block_images) * down


@inlined
def find_block(number, geometry):
    """The `Extent` of a block."""
    down = -(-geometry.rows // geometry.block_rows)
    image = number // down * geometry.block_images
    row = number % down * geometry.block_rows
    return Extent(
        image,
        row,
        min(geometry.block_images, geometry.n - image),
        min(geometry.block_rows, geometry.rows - row),
    )


@inlined
def blocks_of(partition, geometry):
    """The part of the blocks that a partition works out: its number, first block, last one + 1."""
    part = partition // geometry.channel_parts
    count = block_count(geometry)
    return (
        part,
        count * part // geometry.block_parts,
        count * (part + 1) // geometry.block_parts,
    )


@inlined
def part_of_channels(channels, part, parts):
    """The channels first..last-1 of a part: whole panels, but for the last part."""
    first = channels * part // parts // PART_CHANNELS * PART_CHANNELS
    last = channels * (part + 1) // parts // PART_CHANNELS * PART_CHANNELS
    return first, (channels if part + 1 == parts else last)


@inlined
def channels_of(partition, geometry):
    """The output channels first..last-1 of each group that a partition works out."""
    parts = geometry.channel_parts
    return part_of_channels(geometry.k // geometry.groups, partition % parts, parts)


@inlined
def is_whole(block, geometry):
    """Whether a block is as large as all but the last one."""
    return block.images * block.rows == geometry.block_images * geometry.block_rows
