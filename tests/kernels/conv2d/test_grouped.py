"""Convolutions of narrow groups in any blocks and parts, scratch poisoned: exact on integers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nbnorm.jit.simd import lane_count
from nbnorm.kernels.conv2d.geometry import WeightOrder, Workspace
from nbnorm.kernels.conv2d.grouped import (
    PIXELS_AT_ONCE,
    TAPS_AT_ONCE,
    collect_weights,
    convolve,
    pack_weights,
    weight_gradient,
)
from tests.kernels.conv2d.convolutions import (
    EPILOGUES,
    Convolution,
    applied,
    assert_sums,
    divided,
    epilogue_of,
    expected,
    flat,
    input_scratch,
    ld_of,
    offsets_scratch,
    poison,
)

LANES = lane_count(4)  # of float32; float64 has whole vectors of half of them

CASES = [
    Convolution(1, 2, 2, (1, 1), (1, 1), groups=2),
    # Depthwise: fewer channels than lanes, more, and whole vectors of them.
    Convolution(2, 5, 5, (6, 7), groups=5, block=(1, 4)),
    Convolution(3, LANES + 3, LANES + 3, (5, 4), padding=(1, 1), groups=LANES + 3, block=(2, 5)),
    Convolution(2, 2 * LANES, 2 * LANES, (4, 9), padding=(1, 0), groups=2 * LANES, parts=(2, 1)),
    # Windows of fewer taps than are summed together, and one more; strides and dilations.
    Convolution(2, 3, 3, (7, 6), (1, 2), stride=(2, 3), groups=3, block=(1, 3)),
    Convolution(2, 3, 3, (7, 9), (2, TAPS_AT_ONCE - 1), padding=(0, 1), dilation=(3, 2), groups=3),
    # Groups of as many output channels as input channels, whose lanes are picked in registers.
    Convolution(3, 2 * LANES + 4, 2 * LANES + 4, (4, 5), groups=LANES + 2, block=(2, 2)),
    Convolution(2, 12, 12, (5, 6), padding=(2, 1), stride=(1, 2), groups=3, parts=(3, 1)),
    Convolution(1, 8, 8, (4, 4), (2, 2), groups=1, block=(1, 3)),
    # Of another number, and of one that divides no register.
    Convolution(2, 4, 12, (5, 5), padding=(1, 1), groups=4, block=(1, 5), parts=(2, 1)),
    Convolution(2, 9, 6, (4, PIXELS_AT_ONCE + 3), groups=3, block=(1, 1)),
    Convolution(
        1, 3 * LANES, 3 * LANES, (3, 3), (2, 2), padding=(1, 1), groups=LANES, block=(1, 4)
    ),
]
each_case = pytest.mark.parametrize("conv", CASES, ids=str)
each_memory = pytest.mark.parametrize(
    ("x_last", "z_last"), [(True, True), (False, False), (True, False), (False, True)]
)


def is_depthwise(conv):
    return conv.groups == conv.c == conv.k


def geometry_of(conv, x_last, z_last):
    """Input blocks are copied unless the convolution is depthwise."""
    geometry = conv.geometry(x_last, z_last)
    return geometry if is_depthwise(conv) else geometry._replace(copied=True)


def scratch_for(conv, geometry, dtype):
    """The fields of a workspace that both kernels need."""
    pixels = conv.block[0] * math.prod(conv.input_block)
    room = 1 if is_depthwise(conv) else pixels * (conv.c // conv.groups) * conv.k
    return input_scratch(conv, geometry, dtype) | {
        "input_points": poison((conv.partitions, room), dtype),
        "tap_offsets": offsets_scratch(conv, math.prod(conv.window) + PIXELS_AT_ONCE),
    }


def packed_weights(conv, weight, geometry):
    count = math.prod(conv.window)
    depth, columns = conv.c // conv.groups, conv.k // conv.groups
    packed = poison((count * depth * conv.k,), weight.dtype)
    order = WeightOrder(np.arange(count), columns * depth * count, count, depth * count, count)
    for group in reversed(range(conv.groups)):
        pack_weights(group, group + 1, packed, weight.reshape(-1), tuple(order), tuple(geometry))
    return packed


@each_case
def test_weights_are_packed_by_taps_and_input_channels(conv):
    weight = conv.drawn("float64")[1]
    packed = packed_weights(conv, weight, geometry_of(conv, True, True))
    by_tap = weight.reshape(conv.k, conv.c // conv.groups, -1).transpose(2, 1, 0)
    np.testing.assert_array_equal(packed, by_tap.reshape(-1))


@each_memory
@pytest.mark.parametrize(("dtype", "what"), EPILOGUES)
@each_case
def test_convolve(conv, dtype, what, x_last, z_last):
    x, weight, dz = conv.drawn(dtype)
    z = expected(conv, x, weight, dz)[0].astype(dtype)
    geometry = geometry_of(conv, x_last, z_last)
    positions = conv.block[0] * conv.block[1] * conv.positions[1]
    room = 1 if z_last else positions * conv.k
    work = Workspace(
        **scratch_for(conv, geometry, dtype),
        output_blocks=poison((conv.partitions, room), dtype),
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


@each_memory
@pytest.mark.parametrize("dtype", [dtype for dtype, _ in EPILOGUES])
@each_case
def test_weight_gradient(conv, dtype, x_last, z_last):
    x, weight, dz = conv.drawn(dtype)
    count, depth = math.prod(conv.window), conv.c // conv.groups
    geometry = geometry_of(conv, x_last, z_last)
    positions = conv.block[0] * conv.block[1] * conv.positions[1]
    room = 1 if z_last else positions * conv.k
    work = Workspace(
        **scratch_for(conv, geometry, dtype),
        output_points=poison((conv.partitions, room), dtype),
    )
    sums = poison((conv.parts[0], count * depth, ld_of(conv.k, dtype)), np.float64)
    arguments = flat(dz, z_last), flat(x, x_last), tuple(work), tuple(geometry)
    for partition in reversed(range(conv.partitions)):
        weight_gradient(partition, partition + 1, sums, *arguments)
    dweight = poison((weight.size + 2,), dtype)
    collect_weights(dweight[:-2], sums, (conv.groups, depth, conv.k // conv.groups))
    wanted = expected(conv, x, weight, dz)[1]
    np.testing.assert_array_equal(dweight[:-2].reshape(weight.shape), wanted)
    assert np.isnan(dweight[-2:]).all()
