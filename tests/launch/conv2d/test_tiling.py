"""How convolutions are divided: blocks within their limits, partitions, tables of offsets."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm.kernels.conv2d.geometry import PART_CHANNELS
from nbnorm.kernels.gemm.microkernel import TILE_ROWS
from nbnorm.launch.conv2d import direct, grouped, tiling, winograd
from nbnorm.launch.conv2d.convolution import Convolution, Window, forward_window
from nbnorm.launch.conv2d.images import View
from nbnorm.launch.conv2d.tiling import (
    BlockSize,
    Parts,
    block_of,
    last_block,
    parts_of,
    position_offsets,
)


def convolution(n, c, k, size, stride=1, groups=1):
    """With windows 3x3, and a zero around the image."""
    positions = (size - 1) // stride + 1
    return Convolution(
        n=n, groups=groups, c=c // groups, k=k // groups, image=(size, size), window=(3, 3),
        positions=(positions, positions), stride=(stride, stride), dilation=(1, 1), before=(1, 1),
        axis=1, algorithm="direct",
    )  # fmt: skip


def views(conv, last=True):
    """Of the input and of the output."""
    return (
        View(conv.n, *conv.image, conv.c * conv.groups, last),
        View(conv.n, *conv.positions, conv.k * conv.groups, last),
    )


CASES = [
    convolution(1, 3, 16, 5),
    convolution(2, 64, 64, 56),
    convolution(32, 16, 300, 7),
    convolution(3, 512, 512, 14, stride=2),
    convolution(64, 8, 8, 4),
    convolution(1, 2048, 32, 60),
]
each_case = pytest.mark.parametrize("conv", CASES, ids=lambda c: f"{c.n}x{c.c}x{c.image[0]} {c.k}")


@each_case
@pytest.mark.parametrize("itemsize", [4, 8])
def test_blocks_are_within_their_limits(conv, itemsize):
    x, z = views(conv)
    window = forward_window(conv)
    block = block_of(x, z.c, window, itemsize)
    positions = block.block_images * block.block_rows * window.columns
    pixels = block.block_images * block.input_height * block.input_width
    most = max(pixels * x.c, positions * z.c) * itemsize
    if positions > max(tiling.FEWEST_POSITIONS, window.columns):
        assert most <= tiling.BLOCK_BYTES
        assert positions <= tiling.MOST_POSITIONS
    assert 1 <= block.block_images <= conv.n
    assert 1 <= block.block_rows <= window.rows
    # Of several images a block has all rows: one block at most is smaller than the others.
    assert block.block_images == 1 or block.block_rows == window.rows


def test_an_input_is_read_in_place_where_it_needs_no_zeros():
    window = Window(3, 5, (1, 1), (0,), (0,), (0,))
    for last, columns, copied in ((True, 5, False), (False, 5, True), (True, 6, True)):
        x = View(2, 3, 5, 4, last)
        assert block_of(x, 4, window._replace(columns=columns), 4).copied == copied
    shifted = window._replace(tap_rows=(-1, 0), tap_columns=(0, 0))
    assert block_of(View(2, 3, 5, 4, True), 4, shifted, 4).copied


@each_case
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("algorithm", ["direct", "winograd"])
def test_the_parts_of_the_blocks_have_all_pixels(conv, last, algorithm):
    x, z = views(conv, last)
    if algorithm == "direct":
        divided = direct._tiling(x, z, forward_window(conv), 1, 4)
    elif conv.stride == (1, 1):
        divided = winograd._tiling(x, z, conv.before, 4)
    else:
        pytest.skip("Winograd's algorithm has no strides")
    summed = divided.with_sums(direct.Epilogue(), np.dtype("float32"))[1]
    assert summed.counts.sum() == z.n * z.h * z.w
    assert (summed.counts > 0).all()
    assert len(summed.counts) == divided.geometry.block_parts == len(summed.sums)


@pytest.mark.parametrize(
    ("blocks", "channels", "wanted"),
    [
        (1, 10, (1, 1)),
        (1, 4 * PART_CHANNELS, (1, 4)),
        (1, 100 * PART_CHANNELS, (1, 8)),
        (3, 100 * PART_CHANNELS, (3, 3)),
        (8, 100 * PART_CHANNELS, (8, 1)),
        (50, 10, (8, 1)),
    ],
)
def test_channels_are_divided_where_blocks_are_few(blocks, channels, wanted):
    block = BlockSize(1, 2, 4, 4, 0, 0, False)
    assert parts_of(blocks, 2, block, channels) == wanted
    assert parts_of(1, 2 * blocks - 1, block, channels) == wanted


def test_large_sums_are_divided_by_channels():
    parts = Parts(8, 1)
    assert parts.limited(100, 800, 1000) == parts
    assert parts.limited(100, 799, 10 * PART_CHANNELS) == (7, 1)
    assert parts.limited(100, 250, 10 * PART_CHANNELS) == (2, 4)
    assert parts.limited(100, 99, 3 * PART_CHANNELS) == (1, 3)
    assert parts.limited(100, 99, 10) == (1, 1)


@pytest.mark.parametrize("copied", [True, False])
def test_position_offsets(copied):
    x = View(5, 9, 8, 3, True)
    window = Window(4, 3, (2, 2), (0,), (0,), (0,))
    block = BlockSize(2, 4, 9, 7, 0, 0, copied)
    height, width = (9, 7) if copied else (9, 8)
    whole, last = position_offsets(x, window, block)
    for offsets, (images, rows) in ((whole, (2, 4)), (last, last_block(5, 4, block))):
        wanted = [
            ((image * height + 2 * i) * width + 2 * j) * x.c
            for image in range(images)
            for i in range(rows)
            for j in range(window.columns)
        ]
        assert offsets[: len(wanted)].tolist() == wanted
        assert (offsets[len(wanted) :] == wanted[-1]).all()
        assert len(offsets) % TILE_ROWS == 0


def test_a_tiling_is_made_once():
    conv = convolution(2, 8, 8, 12)
    x, z = views(conv)
    window = forward_window(conv)
    assert direct._tiling(x, z, window, 1, 4) is direct._tiling(x, z, window, 1, 4)
    assert grouped._tiling(x, z, window, 8, 4) is grouped._tiling(x, z, window, 8, 4)
    assert winograd._tiling(x, z, (1, 1), 4) is winograd._tiling(x, z, (1, 1), 4)
    assert direct._tiling(x, z, window, 1, 4) is not direct._tiling(x, z, window, 1, 8)


@each_case
@pytest.mark.parametrize(("x_last", "z_last"), [(True, True), (False, True), (False, False)])
def test_a_workspace_has_a_row_for_each_partition(conv, x_last, z_last):
    (x, z), window = views(conv), forward_window(conv)
    divided = direct._tiling(
        x._replace(last=x_last), z._replace(last=z_last), window, 1, 4
    )  # fmt: skip
    g = divided.geometry
    work = divided.workspace(np.dtype("float32"))
    assert {len(array) for array in work if array is not None} == {divided.partitions}
    assert divided.partitions == g.block_parts * g.channel_parts
    pixels = g.block_images * g.input_height
    if g.copied:
        assert work.input_blocks[0].size == pixels * g.input_width * g.c
    if not x_last:
        assert work.transposed[0].size == pixels * g.w * g.c
