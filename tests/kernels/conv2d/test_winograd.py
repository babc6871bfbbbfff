"""Winograd's convolution in any blocks and parts, its scratch poisoned."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nbnorm.jit.simd import register_lanes
from nbnorm.kernels.conv2d.direct import collect_weights
from nbnorm.kernels.conv2d.geometry import PART_CHANNELS, WeightOrder, Workspace
from nbnorm.kernels.conv2d.winograd import (
    GAP,
    POINTS,
    TAPS,
    convolve,
    return_weights,
    transform_weights,
    weight_gradient,
)
from nbnorm.kernels.conv2d.winograd_transforms import PATCH, TILE
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

# Of integers up to 8; the largest error over the largest result.
BOUND = {"float32": 1e-5, "float64": 1e-14}

# Rows of a block are rows of tiles.
CASES = [
    Convolution(1, 1, 1, (3, 3), block=(1, 1)),
    Convolution(2, 3, 5, (4, 9), padding=(1, 1), block=(2, 1)),
    Convolution(3, 17, 7, (9, 5), padding=(1, 0), block=(2, 3), parts=(2, 1)),
    Convolution(2, 4, 17, (10, 6), padding=(2, 2), block=(1, 2), parts=(2, 1)),
    Convolution(1, 300, 2, (4, 3), padding=(1, 1), block=(1, 1)),  # the depth in two parts
    Convolution(2, 3, 2 * PART_CHANNELS + 5, (5, 4), padding=(1, 1), block=(1, 1), parts=(3, 3)),
    Convolution(
        1, 2, PART_CHANNELS + 1, (7, 8), block=(1, 2), parts=(1, 4)
    ),  # some without channels
]
each_case = pytest.mark.parametrize("conv", CASES, ids=str)
each_memory = pytest.mark.parametrize(
    ("x_last", "z_last"), [(True, True), (False, False), (True, False)]
)


def geometry_of(conv, x_last, z_last):
    """The window's positions are tiles; input blocks are always copied."""
    rows, columns = (-(-size // TILE) for size in conv.positions)
    height, width = ((size - 1) * TILE + PATCH for size in (conv.block[1], columns))
    return conv.geometry(
        x_last, z_last, rows=rows, columns=columns, stride_h=TILE, stride_w=TILE,
        z_row_step=TILE, z_column_step=TILE, input_height=height, input_width=width, copied=True,
    )  # fmt: skip


def tiles_of(conv, geometry):
    """Tiles of a whole block, and of the last one."""
    return tuple(
        math.prod(block) * geometry.columns
        for block in (conv.block, conv.last_block(geometry.rows))
    )


def scratch_for(conv, geometry, dtype):
    """The fields of a workspace that both kernels need."""
    room = POINTS * (tiles_of(conv, geometry)[0] * (conv.c + GAP) + GAP)
    return input_scratch(conv, geometry, dtype) | {
        "input_points": poison((conv.partitions, room), dtype),
        "tap_offsets": offsets_scratch(conv, 1),
    }


def points_of(conv, weight, is_reversed=False):
    """The points of weights (k, c, 3, 3), or of (c, k, 3, 3) that are reversed."""
    widths = panel_widths(conv.k, weight.dtype)
    points = poison((POINTS * (sum(widths) * conv.c + GAP),), weight.dtype)
    lanes = register_lanes(weight.itemsize)
    room = (len(widths), -(-TAPS // lanes) * lanes * widest_panel() * lanes)
    transposed = poison(room, weight.dtype)
    steps = (TAPS * conv.k, TAPS) if is_reversed else (TAPS, TAPS * conv.c)
    order = WeightOrder(np.arange(TAPS), weight.size, *steps, TAPS)
    geometry = tuple(geometry_of(conv, True, True))
    arguments = transposed, weight.reshape(-1), tuple(order), is_reversed, geometry
    for panel in reversed(range(len(widths))):
        transform_weights(panel, panel + 1, points, *arguments)
    return points


def assert_close(actual, wanted):
    bound = BOUND[str(actual.dtype)] * np.abs(wanted).max()
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=bound)


@each_memory
@pytest.mark.parametrize(("dtype", "what"), EPILOGUES)
@each_case
def test_convolve(conv, dtype, what, x_last, z_last):
    x, weight, dz = conv.drawn(dtype)
    z = expected(conv, x, weight, dz)[0].astype(dtype)
    geometry = geometry_of(conv, x_last, z_last)
    tiles = tiles_of(conv, geometry)
    geometry = geometry._replace(
        row_offsets=in_whole_tiles(*((conv.c + GAP) * np.arange(count) for count in tiles))
    )
    images, rows = conv.block
    pixels = 1 if z_last else images * rows * TILE * z.shape[3]
    work = Workspace(
        **scratch_for(conv, geometry, dtype),
        output_points=poison((conv.partitions, POINTS * (tiles[0] * conv.k + GAP)), dtype),
        output_blocks=poison((conv.partitions, pixels * conv.k), dtype),
    )
    points = points_of(conv, weight)
    epilogue, activation = epilogue_of(what, z, conv.parts[0])
    written = poison((z.size + 2,), dtype)
    arguments = flat(x, x_last), points, tuple(work), tuple(epilogue), activation, tuple(geometry)
    for partition in reversed(range(conv.partitions)):
        convolve(partition, partition + 1, written[:-2], *arguments)
    assert_close(written[:-2], flat(applied(epilogue, z, z_last), z_last))
    assert np.isnan(written[-2:]).all()
    if what == "sums":
        n, k, h, w = z.shape
        found = written[:-2].reshape((n, h, w, k) if z_last else z.shape)
        blocks = [
            (slice(image, image + images), slice(row * TILE, (row + rows) * TILE))
            for image, row in conv.blocks(geometry.rows)
        ]
        found = found.transpose(0, 3, 1, 2) if z_last else found
        assert_sums(epilogue, found, divided(blocks, conv.parts[0]), rtol=1e-5)


@each_memory
@pytest.mark.parametrize("dtype", [dtype for dtype, _ in EPILOGUES])
@each_case
def test_weight_gradient(conv, dtype, x_last, z_last):
    x, weight, dz = conv.drawn(dtype)
    geometry = geometry_of(conv, x_last, z_last)
    geometry = geometry._replace(row_offsets=in_whole_tiles(np.arange(conv.c)))
    tiles = tiles_of(conv, geometry)[0]
    panels = panel_widths(conv.k, dtype)
    size = conv.c * conv.k
    room = POINTS * (tiles * sum(panels) + len(panels) * GAP)
    scratch = scratch_for(conv, geometry, dtype)
    if not z_last:  # room to transpose a block of dz too
        pixels = conv.block[0] * conv.block[1] * TILE * dz.shape[3]
        beside = max(scratch["transposed"].shape[1], pixels * conv.k)
        scratch["transposed"] = poison((conv.partitions, beside), dtype)
    work = Workspace(**scratch, output_points=poison((conv.partitions, room), dtype))
    products = poison((conv.parts[0] * POINTS * (size + GAP) + 2,), dtype)
    arguments = flat(dz, z_last), flat(x, x_last), tuple(work), tuple(geometry)
    for partition in reversed(range(conv.partitions)):
        weight_gradient(partition, partition + 1, products[:-2], *arguments)
    assert np.isnan(products[-2:]).all()
    spread, dweight = poison((TAPS * size,), dtype), poison((TAPS * size,), dtype)
    for channel in reversed(range(conv.c)):
        return_weights(channel, channel + 1, spread, products, conv.parts[0], (conv.c, conv.k))
    sizes = (1, 1, TAPS, conv.c, conv.k)
    squares = poison(squares_shape(sizes, dweight.itemsize), dtype)
    collect_weights(0, len(squares), dweight, squares, spread, sizes)
    assert_close(dweight.reshape(weight.shape), expected(conv, x, weight, dz)[1])


@pytest.mark.parametrize("dtype", [dtype for dtype, _ in EPILOGUES])
def test_reversed_weights_are_those_of_the_gradient(dtype):
    """Depth and columns change places, and the window is turned by 180 degrees."""
    conv = Convolution(1, 20, 5, (3, 3))  # from dz to dx
    weight = Convolution(1, 5, 20, (3, 3)).drawn(dtype)[1]
    turned = np.ascontiguousarray(weight.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1])
    np.testing.assert_array_equal(
        points_of(conv, weight, is_reversed=True), points_of(conv, turned)
    )
