"""Depthwise convolutions in any blocks and passes, scratch poisoned: exact on integers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nbnorm.jit.simd import lane_count
from nbnorm.kernels.conv2d.depthwise import (
    POSITIONS_AT_ONCE,
    ROWS_AT_ONCE,
    Pass,
    convolve,
    pack_weights,
    weight_gradient,
)
from nbnorm.kernels.conv2d.geometry import Workspace
from nbnorm.kernels.conv2d.grouped import collect_weights
from nbnorm.kernels.gemm.epilogue import Epilogue
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

LANES = lane_count(4)  # of float32; a kernel takes half of them at once


def depthwise(n, c, image, window=(3, 3), **options):
    return Convolution(n, c, c, image, window, groups=c, **options)


CASES = [
    depthwise(1, 2, (1, 1), (1, 1)),
    depthwise(2, 5, (6, 7), block=(1, 4)),
    # Rows together, their last ones once more, and edges on every side; channels with a rest.
    depthwise(2, LANES // 2 + 3, (ROWS_AT_ONCE + 4, 6), padding=(1, 1), block=(1, 20)),
    depthwise(3, LANES, (ROWS_AT_ONCE + 1, 4), padding=(1, 1), block=(2, 20), parts=(2, 1)),
    depthwise(2, 3, (2 * ROWS_AT_ONCE, 5), padding=(1, 0), block=(1, ROWS_AT_ONCE + 1)),
    # All taps of some positions outside, and images smaller than the window.
    depthwise(2, 17, (3, 2), padding=(4, 3), block=(1, 3)),
    depthwise(1, 3, (2, 2), (5, 4), padding=(2, 2)),
    depthwise(2, 3, (19, 9), (1, 2), stride=(2, 3), padding=(0, 1), block=(1, 8)),
    depthwise(2, 3, (13, 9), (2, 2), padding=(0, 1), dilation=(3, 2), block=(1, 10)),
]
each_case = pytest.mark.parametrize("conv", CASES, ids=str)
each_memory = pytest.mark.parametrize(
    ("x_last", "z_last"), [(True, True), (False, False), (True, False), (False, True)]
)


def workspace(conv, geometry, taps, dtype):
    positions = conv.block[0] * conv.block[1] * geometry.columns
    room = 1 if geometry.z_last else positions * conv.k
    return Workspace(
        **input_scratch(conv, geometry, dtype),
        output_blocks=poison((conv.partitions, room), dtype),
        tap_offsets=offsets_scratch(conv, 3 * taps),
    )


def packed_weights(weight):
    count = weight[0].size
    packed = poison((weight.size + 2,), weight.dtype)
    pack_weights(packed[:-2], weight.reshape(-1), count, len(weight))
    assert np.isnan(packed[-2:]).all()
    return packed[:-2]


@each_case
def test_weights_are_packed_by_taps(conv):
    weight = conv.drawn("float64")[1]
    by_tap = weight.reshape(conv.k, -1).T
    np.testing.assert_array_equal(packed_weights(weight), by_tap.reshape(-1))


@each_memory
@pytest.mark.parametrize(("dtype", "what"), EPILOGUES)
@each_case
def test_convolve(conv, dtype, what, x_last, z_last):
    x, weight, dz = conv.drawn(dtype)
    z = expected(conv, x, weight, dz)[0].astype(dtype)
    count = math.prod(conv.window)
    geometry = conv.geometry(x_last, z_last)._replace(copied=not x_last)
    passes = np.array([Pass(*conv.positions, 0, 0, 0, count)])
    work = workspace(conv, geometry, count, dtype)
    epilogue, activation = epilogue_of(what, z, conv.parts[0])
    written = poison((z.size + 2,), dtype)
    arguments = (
        flat(x, x_last), packed_weights(weight), np.arange(count), passes, tuple(work),
        tuple(epilogue), activation, tuple(geometry),
    )  # fmt: skip
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


def gradient_of(conv, x, dz, x_last=True, z_last=True, copied=False):
    """The gradient of the weights by the kernels, flat; nothing is written around it."""
    count, dtype = math.prod(conv.window), x.dtype
    geometry = conv.geometry(x_last, z_last)._replace(copied=copied or not x_last)
    room = 1 if z_last else conv.block[0] * conv.block[1] * conv.positions[1] * conv.k
    work = Workspace(
        **input_scratch(conv, geometry, dtype), output_points=poison((conv.partitions, room), dtype)
    )
    sums = poison((conv.parts[0], count, ld_of(conv.k, dtype)), np.float64)
    arguments = flat(dz, z_last), flat(x, x_last), tuple(work), tuple(geometry)
    for partition in reversed(range(conv.partitions)):
        weight_gradient(partition, partition + 1, sums, *arguments)
    dweight = poison((conv.k * count + 2,), dtype)
    collect_weights(dweight[:-2], sums, (conv.groups, 1, 1))
    assert np.isnan(dweight[-2:]).all()
    return dweight[:-2]


LONG_ROWS = depthwise(1, 3, (2, POSITIONS_AT_ONCE + 5), padding=(1, 1))
SHORT_ROWS = depthwise(1, LANES + 1, (POSITIONS_AT_ONCE // 3 + 2, 3), padding=(1, 1))


@each_memory
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("conv", [*CASES, LONG_ROWS, SHORT_ROWS], ids=str)
def test_weight_gradient(conv, dtype, x_last, z_last):
    x, weight, dz = conv.drawn(dtype)
    wanted = expected(conv, x, weight, dz)[1]
    np.testing.assert_array_equal(gradient_of(conv, x, dz, x_last, z_last), wanted.reshape(-1))


@each_case
def test_pixels_that_lie_last_may_be_copied(conv):
    """A block's input is then copied with the zeros around it."""
    x, weight, dz = conv.drawn("float32")
    z, dweight = expected(conv, x, weight, dz)[:2]
    count = math.prod(conv.window)
    geometry = conv.geometry(True, True)._replace(copied=True)
    pixels = conv.block[0] * math.prod(conv.input_block) * conv.c
    work = workspace(conv, geometry, count, "float32")
    assert work.input_blocks.shape[1] >= pixels
    written = poison((z.size,), "float32")
    for partition in range(conv.partitions):
        convolve(
            partition, partition + 1, written, flat(x, True), packed_weights(weight),
            np.arange(count), np.array([Pass(*conv.positions, 0, 0, 0, count)]), tuple(work),
            tuple(Epilogue()), None, tuple(geometry),
        )  # fmt: skip
    np.testing.assert_array_equal(written, flat(z, True).astype("float32"))
    made = gradient_of(conv, x, dz, copied=True)
    np.testing.assert_array_equal(made, dweight.reshape(-1))


def test_gradients_that_are_no_numbers_spoil_taps_outside_too():
    conv = depthwise(1, 3, (5, 5), padding=(1, 1), block=(1, 5))
    x, _, dz = conv.drawn("float32")
    dz[0, 1, 0, 0] = np.nan  # its first row and column of taps lie outside
    is_nan = np.isnan(gradient_of(conv, x, dz).reshape(3, -1))
    assert is_nan[1].all()
    assert not is_nan[[0, 2]].any()


@pytest.mark.parametrize("x_last", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_passes_write_pixels_between_each_other(dtype, x_last):
    """Taps in another order, some in one pass and some in another; zeros from a pass without."""
    conv = depthwise(2, LANES // 2 + 1, (6, 4), padding=(1, 1), block=(1, 3))
    x, weight, dz = conv.drawn(dtype)
    taps = np.array([8, 0, 4, 5, 1])
    halves = []
    for some in (taps[:2], taps[2:]):
        part = np.zeros_like(weight)
        part.reshape(conv.k, -1)[:, some] = weight.reshape(conv.k, -1)[:, some]
        halves.append(expected(conv, x, part, dz)[0])
    wanted = np.zeros((conv.n, conv.k, 12, 8), dtype)
    wanted[:, :, ::2, ::2], wanted[:, :, 1::2, 1::2] = halves
    wanted = wanted[:, :, :11]  # the second pass has a row less

    rows, columns = conv.taps
    geometry = conv.geometry(
        x_last, True, z_h=11, z_w=8, z_row_step=2, z_column_step=2, tap_rows=rows[taps],
        tap_columns=columns[taps],
    )._replace(copied=not x_last)  # fmt: skip
    passes = np.array(
        [(6, 4, 0, 0, 0, 2), (6, 4, 0, 1, 5, 5), (5, 4, 1, 0, 5, 5), (5, 4, 1, 1, 2, 5)]
    )
    work = workspace(conv, geometry, taps.size, dtype)
    written = poison((wanted.size + 2,), dtype)
    convolve(
        0, 1, written[:-2], flat(x, x_last), packed_weights(weight), taps, np.array(passes),
        tuple(work), tuple(Epilogue()), None, tuple(geometry),
    )  # fmt: skip
    np.testing.assert_array_equal(written[:-2], flat(wanted, True))
    assert np.isnan(written[-2:]).all()


def test_weights_that_are_no_numbers_spoil_the_edges_too():
    """Zeros around the image are multiplied by them, as in the other algorithms."""
    conv = depthwise(1, 3, (5, 5), padding=(1, 1), block=(1, 5))
    x, weight, _ = conv.drawn("float32")
    weight[1, 0, 0, 0] = np.nan  # outside for the first row and the first column
    geometry = conv.geometry(True, True)._replace(copied=False)
    work = workspace(conv, geometry, 9, "float32")
    z = poison((x.size,), "float32")
    convolve(
        0, 1, z, flat(x, True), packed_weights(weight), np.arange(9),
        np.array([Pass(5, 5, 0, 0, 0, 9)]), tuple(work), tuple(Epilogue()), None, tuple(geometry),
    )  # fmt: skip
    is_nan = np.isnan(z.reshape(-1, 3))
    assert is_nan[:, 1].all()
    assert not is_nan[:, [0, 2]].any()
