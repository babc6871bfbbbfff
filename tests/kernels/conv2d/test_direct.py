"""The direct convolution in any bands and shares, its scratch poisoned: exact on integers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nbnorm.jit.simd import register_lanes
from nbnorm.kernels.conv2d.direct import (
    COLLECTED,
    COLUMNS,
    WHOLE,
    collect_weights,
    convolve,
    depth_at_once,
    pack_weights,
    share_of,
    weight_gradient,
)
from nbnorm.kernels.gemm.microkernel import widest_panel
from tests.kernels.conv2d.windows import (
    AFTER,
    Convolution,
    after,
    assert_sums,
    expected,
    flat,
    in_whole_tiles,
    poison,
    shared_out,
    tables_of,
    view_of,
)
from tests.kernels.views import panel_widths

CASES = [
    Convolution(1, 1, 1, (1, 1), (1, 1)),
    Convolution(3, 5, 7, (4, 5), (1, 1), band=(2, 4)),
    Convolution(2, 3, 17, (6, 7), padding=(1, 1), band=(1, 4), shares=(2, 1)),
    Convolution(3, 4, 6, (5, 4), (2, 3), padding=(0, 2), stride=(2, 1), band=(2, 2), shares=(2, 1)),
    Convolution(2, 2, 5, (7, 9), (3, 2), padding=(2, 0), dilation=(2, 3), band=(1, 7)),
    Convolution(2, 6, 9, (5, 6), padding=(1, 1), groups=3, band=(2, 5)),
    Convolution(1, 300, 3, (2, 3), (2, 1), band=(1, 1)),  # two steps of the depth
    Convolution(2, 40, 5, (4, 4), padding=(1, 1), band=(1, 2)),  # two of the taps
    Convolution(2, 2, COLUMNS + 70, (2, 2), (1, 1), band=(1, 1), shares=(2, 1)),
    Convolution(2, 3, 2 * WHOLE + 5, (3, 3), (2, 2), band=(1, 1), shares=(3, 3)),
    Convolution(1, 4, 4 * WHOLE + 6, (3, 4), (2, 2), groups=2, band=(1, 1), shares=(1, 2)),
]
each_case = pytest.mark.parametrize("conv", CASES, ids=str)
each_memory = pytest.mark.parametrize(
    ("x_last", "z_last"), [(True, True), (False, False), (True, False), (False, True)]
)


def taps_of(conv):
    rows, columns = np.indices(conv.window).reshape(2, -1)
    return (
        rows * conv.dilation[0] - conv.padding[0],
        columns * conv.dilation[1] - conv.padding[1],
    )


def band_of(conv, x_last):
    """The band of the case; the input itself where nothing is to be copied."""
    images, rows = conv.band
    tap_rows, tap_columns = taps_of(conv)
    height = (rows - 1) * conv.stride[0] + np.ptp(tap_rows) + 1
    width = (conv.positions[1] - 1) * conv.stride[1] + np.ptp(tap_columns) + 1
    copied = conv.padding != (0, 0) or not x_last
    return images, rows, int(height), int(width), int(tap_rows[0]), int(tap_columns[0]), copied


def packed_weights(conv, weight):
    count = math.prod(conv.window)
    depth, columns = conv.c // conv.groups, conv.k // conv.groups
    widths = panel_widths(columns, weight.dtype)
    lanes = register_lanes(weight.itemsize)
    packed = poison((conv.groups, count * depth * sum(widths)), weight.dtype)
    tiles = len(widths) * conv.groups
    turned = poison((tiles, -(-count // lanes) * lanes * widest_panel() * lanes), weight.dtype)
    steps = (columns * depth * count, count, depth * count)
    for tile in reversed(range(tiles)):
        pack_weights(
            tile, tile + 1, packed, weight.reshape(-1), turned, np.arange(count), steps,
            (depth, columns, len(widths), count),
        )  # fmt: skip
    assert np.isfinite(packed).all()
    return packed


def arguments_of(conv, x, weight, z, x_last, z_last):
    """What `convolve` takes but for z and what follows."""
    dtype = x.dtype
    band = band_of(conv, x_last)
    images, rows, height, width, _, _, copied = band
    places = images * rows * conv.positions[1]
    tap_rows, tap_columns = taps_of(conv)
    pixels = images * height * width
    tall, wide = (height, width) if copied else conv.image

    def begins(images, rows):
        one, i, j = np.indices((images, rows, conv.positions[1])).reshape(3, -1)
        down, across = conv.stride
        return ((one * tall + i * down) * wide + j * across) * conv.c

    columns = min(conv.k // conv.groups, COLUMNS)
    return {
        "x": flat(x, x_last),
        "packed": packed_weights(conv, weight),
        "bands": poison((conv.slots, pixels * conv.c if copied else 1), dtype),
        "turned": poison(
            (conv.slots, 1 if x_last else images * height * conv.image[1] * conv.c), dtype
        ),
        "products": poison((conv.slots, 1 if z_last else places * columns), dtype),
        "lines": tables_of(begins(images, rows), begins(*conv.last_band(conv.positions[0]))),
        "tables": np.full((conv.slots, tap_rows.size), 2**40),
        "tap_rows": tap_rows,
        "tap_columns": tap_columns,
        "view": view_of(x, x_last),
        "out_view": view_of(z, z_last),
        "grid": (*conv.positions, *conv.stride),
        "origin": (0, 1, 0, 1),
        "band": band,
        "groups": conv.groups,
        "shares": conv.shares,
    }


@each_memory
@pytest.mark.parametrize(("dtype", "what"), AFTER)
@each_case
def test_convolve(conv, dtype, what, x_last, z_last):
    x, weight, dz = conv.drawn(dtype)
    z = expected(conv, x, weight, dz)[0].astype(dtype)
    then = after(what, z, conv.shares[0])
    arguments = arguments_of(conv, x, weight, z, x_last, z_last) | then._asdict()
    written = poison((z.size + 2,), dtype)
    for slot in reversed(range(conv.slots)):
        convolve(slot, slot + 1, z=written[:-2], **arguments)
    np.testing.assert_array_equal(written[:-2], flat(then.applied(z, z_last), z_last))
    assert np.isnan(written[-2:]).all()
    if what == "sums":
        images, rows = conv.band
        parts = [
            (slice(image, image + images), slice(row, row + rows))
            for image, row in conv.bands(conv.positions[0])
        ]
        assert_sums(then, z, shared_out(parts, conv.shares[0]), rtol=1e-6)


@pytest.mark.parametrize("dtype", [dtype for dtype, _ in AFTER])
@each_memory
@each_case
def test_weight_gradient(conv, x_last, z_last, dtype):
    x, weight, dz = conv.drawn(dtype)
    band = band_of(conv, x_last)
    images, rows, height, width, _, _, copied = band
    count, (depth, columns) = math.prod(conv.window), (conv.c // conv.groups, conv.k // conv.groups)
    padded = sum(panel_widths(columns, dtype))
    tap_rows, tap_columns = taps_of(conv)
    products = poison((conv.shares[0] * weight.size + 2,), dtype)
    lines = images * rows
    arguments = {
        "dz": flat(dz, z_last),
        "x": flat(x, x_last),
        "bands": poison((conv.slots, images * height * width * conv.c if copied else 1), dtype),
        "turned": poison(
            (conv.slots, 1 if x_last else images * height * conv.image[1] * conv.c), dtype
        ),
        "panels": poison((conv.slots, lines * conv.positions[1] * padded), dtype),
        "channels": in_whole_tiles(np.arange(depth)),
        "tables": np.full((conv.slots, lines), 2**40),
        "tap_rows": tap_rows,
        "tap_columns": tap_columns,
        "view": view_of(x, x_last),
        "dz_view": view_of(dz, z_last),
        "grid": (*conv.positions, *conv.stride),
        "band": band,
        "groups": conv.groups,
        "shares": conv.shares,
    }
    for slot in reversed(range(conv.slots)):
        weight_gradient(slot, slot + 1, products=products[:-2], **arguments)
    assert np.isnan(products[-2:]).all()
    dweight = poison((weight.size,), dtype)
    sizes = (conv.shares[0], conv.groups, count, depth, columns)
    for tile in reversed(range(-(-conv.k // COLLECTED))):
        collect_weights(tile, tile + 1, dweight, products[:-2], sizes)
    wanted = expected(conv, x, weight, dz)[1]
    np.testing.assert_array_equal(dweight.reshape(weight.shape), wanted)


@pytest.mark.parametrize("pieces", [1, 2, 3, 8])
def test_shares_of_the_columns_are_whole_panels(pieces):
    for columns in (1, WHOLE, WHOLE + 1, 3 * WHOLE, 10 * WHOLE + 7):
        shares = [share_of(columns, piece, pieces) for piece in range(pieces)]
        assert [first for first, _ in shares] == [0, *(last for _, last in shares[:-1])]
        assert shares[-1][1] == columns
        assert all(first % WHOLE == 0 for first, _ in shares)


@pytest.mark.parametrize("depth", [1, 255, 256, 257, 300, 512, 513, 1000])
def test_steps_of_the_depth_are_equal(depth):
    part = depth_at_once(depth)
    assert part <= 256
    assert -(-depth // part) == -(-depth // 256)
