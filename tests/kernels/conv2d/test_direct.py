"""The direct convolution in any blocks and parts, its scratch poisoned: exact on integers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nbnorm.jit.simd import register_lanes
from nbnorm.kernels.conv2d.direct import (
    CHANNELS_AT_ONCE,
    collect_weights,
    convolve,
    depth_at_once,
    pack_weights,
    weight_gradient,
)
from nbnorm.kernels.conv2d.geometry import (
    PART_CHANNELS,
    WeightOrder,
    Workspace,
    part_of_channels,
)
from nbnorm.kernels.gemm.microkernel import widest_panel
from nbnorm.launch.conv2d.direct import squares_shape
from tests.kernels.conv2d.convolutions import (
    EPILOGUES,
    Convolution,
    applied,
    assert_sums,
    divided,
    epilogue_of,
    expected,
    flat,
    in_whole_tiles,
    input_scratch,
    offsets_scratch,
    poison,
)
from tests.kernels.views import panel_widths

CASES = [
    Convolution(1, 1, 1, (1, 1), (1, 1)),
    Convolution(3, 5, 7, (4, 5), (1, 1), block=(2, 4)),
    Convolution(2, 3, 17, (6, 7), padding=(1, 1), block=(1, 4), parts=(2, 1)),
    Convolution(3, 4, 6, (5, 4), (2, 3), padding=(0, 2), stride=(2, 1), block=(2, 2), parts=(2, 1)),
    Convolution(2, 2, 5, (7, 9), (3, 2), padding=(2, 0), dilation=(2, 3), block=(1, 7)),
    Convolution(2, 6, 9, (5, 6), padding=(1, 1), groups=3, block=(2, 5)),
    Convolution(1, 300, 3, (2, 3), (2, 1), block=(1, 1)),  # the depth in two parts
    Convolution(2, 40, 5, (4, 4), padding=(1, 1), block=(1, 2)),  # the taps in two
    Convolution(2, 2, CHANNELS_AT_ONCE + 70, (2, 2), (1, 1), block=(1, 1), parts=(2, 1)),
    Convolution(2, 3, 2 * PART_CHANNELS + 5, (3, 3), (2, 2), block=(1, 1), parts=(3, 3)),
    Convolution(1, 4, 4 * PART_CHANNELS + 6, (3, 4), (2, 2), groups=2, block=(1, 1), parts=(1, 2)),
]
each_case = pytest.mark.parametrize("conv", CASES, ids=str)
each_memory = pytest.mark.parametrize(
    ("x_last", "z_last"), [(True, True), (False, False), (True, False), (False, True)]
)


def position_offsets(conv, geometry):
    """Where each position begins in its input block: of a whole block, and of the last one."""
    tall, wide = conv.input_block if geometry.copied else conv.image

    def offsets(images, rows):
        image, i, j = np.indices((images, rows, conv.positions[1])).reshape(3, -1)
        down, across = conv.stride
        return ((image * tall + i * down) * wide + j * across) * conv.c

    return in_whole_tiles(offsets(*conv.block), offsets(*conv.last_block(conv.positions[0])))


def packed_weights(conv, weight, geometry):
    count = math.prod(conv.window)
    depth, columns = conv.c // conv.groups, conv.k // conv.groups
    widths = panel_widths(columns, weight.dtype)
    lanes = register_lanes(weight.itemsize)
    packed = poison((conv.groups, count * depth * sum(widths)), weight.dtype)
    panels = len(widths) * conv.groups
    transposed = poison((panels, -(-count // lanes) * lanes * widest_panel() * lanes), weight.dtype)
    order = WeightOrder(np.arange(count), columns * depth * count, count, depth * count, count)
    arguments = transposed, weight.reshape(-1), tuple(order), tuple(geometry)
    for panel in reversed(range(panels)):
        pack_weights(panel, panel + 1, packed, *arguments)
    assert np.isfinite(packed).all()
    return packed


@each_memory
@pytest.mark.parametrize(("dtype", "what"), EPILOGUES)
@each_case
def test_convolve(conv, dtype, what, x_last, z_last):
    x, weight, dz = conv.drawn(dtype)
    z = expected(conv, x, weight, dz)[0].astype(dtype)
    geometry = conv.geometry(x_last, z_last)
    geometry = geometry._replace(row_offsets=position_offsets(conv, geometry))
    positions = conv.block[0] * conv.block[1] * conv.positions[1]
    columns = min(conv.k // conv.groups, CHANNELS_AT_ONCE)
    work = Workspace(
        **input_scratch(conv, geometry, dtype),
        output_blocks=poison((conv.partitions, 1 if z_last else positions * columns), dtype),
        tap_offsets=offsets_scratch(conv, math.prod(conv.window)),
    )
    packed = packed_weights(conv, weight, geometry)
    epilogue, activation = epilogue_of(what, z, conv.parts[0])
    written = poison((z.size + 2,), dtype)
    arguments = flat(x, x_last), packed, tuple(work), tuple(epilogue), activation, tuple(geometry)
    for partition in reversed(range(conv.partitions)):
        convolve(partition, partition + 1, written[:-2], *arguments)
    np.testing.assert_array_equal(written[:-2], flat(applied(epilogue, z, z_last), z_last))
    assert np.isnan(written[-2:]).all()
    if what == "sums":
        images, rows = conv.block
        blocks = [
            (slice(image, image + images), slice(row, row + rows))
            for image, row in conv.blocks(conv.positions[0])
        ]
        assert_sums(epilogue, z, divided(blocks, conv.parts[0]), rtol=1e-6)


@pytest.mark.parametrize("dtype", [dtype for dtype, _ in EPILOGUES])
@each_memory
@each_case
def test_weight_gradient(conv, x_last, z_last, dtype):
    x, weight, dz = conv.drawn(dtype)
    count, (depth, columns) = math.prod(conv.window), (conv.c // conv.groups, conv.k // conv.groups)
    rows = conv.block[0] * conv.block[1]
    geometry = conv.geometry(x_last, z_last, row_offsets=in_whole_tiles(np.arange(depth)))
    room = rows * conv.positions[1] * sum(panel_widths(columns, dtype))
    work = Workspace(
        **input_scratch(conv, geometry, dtype),
        output_points=poison((conv.partitions, room), dtype),
        tap_offsets=offsets_scratch(conv, rows),
    )
    products = poison((conv.parts[0] * weight.size + 2,), dtype)
    arguments = flat(dz, z_last), flat(x, x_last), tuple(work), tuple(geometry)
    for partition in reversed(range(conv.partitions)):
        weight_gradient(partition, partition + 1, products[:-2], *arguments)
    assert np.isnan(products[-2:]).all()
    dweight = poison((weight.size,), dtype)
    sizes = (conv.parts[0], conv.groups, count, depth, columns)
    squares = poison(squares_shape(sizes, dweight.itemsize), dtype)
    for tile in reversed(range(len(squares))):
        collect_weights(tile, tile + 1, dweight, squares, products[:-2], sizes)
    wanted = expected(conv, x, weight, dz)[1]
    np.testing.assert_array_equal(dweight.reshape(weight.shape), wanted)


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_parts_of_the_channels_are_whole_panels(parts):
    for channels in (
        1,
        PART_CHANNELS,
        PART_CHANNELS + 1,
        3 * PART_CHANNELS,
        10 * PART_CHANNELS + 7,
    ):
        found = [part_of_channels(channels, part, parts) for part in range(parts)]
        assert [first for first, _ in found] == [0, *(last for _, last in found[:-1])]
        assert found[-1][1] == channels
        assert all(first % PART_CHANNELS == 0 for first, _ in found)


@pytest.mark.parametrize("depth", [1, 255, 256, 257, 300, 512, 513, 1000])
def test_parts_of_the_depth_are_equal(depth):
    part = depth_at_once(depth)
    assert part <= 256
    assert -(-depth // part) == -(-depth // 256)
