"""Winograd's convolution in any bands and shares, its scratch poisoned."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nbnorm.jit.simd import register_lanes
from nbnorm.kernels.conv2d.direct import COLLECTED, WHOLE, collect_weights
from nbnorm.kernels.conv2d.winograd import (
    LINE,
    POINTS,
    TAPS,
    convolve,
    return_weights,
    transform_weights,
    weight_gradient,
)
from nbnorm.kernels.conv2d.winograd_transforms import PATCH, TILE
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

# Of integers up to 8; the largest error over the largest result.
BOUND = {"float32": 1e-5, "float64": 1e-14}

# Rows of a band are rows of tiles.
CASES = [
    Convolution(1, 1, 1, (3, 3), band=(1, 1)),
    Convolution(2, 3, 5, (4, 9), padding=(1, 1), band=(2, 1)),
    Convolution(3, 17, 7, (9, 5), padding=(1, 0), band=(2, 3), shares=(2, 1)),
    Convolution(2, 4, 17, (10, 6), padding=(2, 2), band=(1, 2), shares=(2, 1)),
    Convolution(1, 300, 2, (4, 3), padding=(1, 1), band=(1, 1)),  # two steps of the depth
    Convolution(2, 3, 2 * WHOLE + 5, (5, 4), padding=(1, 1), band=(1, 1), shares=(3, 3)),
    Convolution(1, 2, WHOLE + 1, (7, 8), band=(1, 2), shares=(1, 4)),  # shares of no channels
]
each_case = pytest.mark.parametrize("conv", CASES, ids=str)
each_memory = pytest.mark.parametrize(
    ("x_last", "z_last"), [(True, True), (False, False), (True, False)]
)


def grid_of(conv):
    return *(-(-size // TILE) for size in conv.positions), TILE, TILE


def shared_arguments(conv, x, z, x_last, z_last):
    """What `convolve` and `weight_gradient` have in common."""
    grid = grid_of(conv)
    images, high = conv.band
    height, width = ((size - 1) * TILE + PATCH for size in (high, grid[1]))
    tiles = images * high * grid[1]
    # Room to turn a band of x, or of dz.
    of_x = 0 if x_last else images * height * x.shape[3] * conv.c
    of_z = 0 if z_last else images * high * TILE * z.shape[3] * conv.k
    return {
        "x": flat(x, x_last),
        "bands": poison((conv.slots, images * height * width * conv.c), x.dtype),
        "turned": poison((conv.slots, max(1, of_x, of_z)), x.dtype),
        "inputs": poison((conv.slots, POINTS * (tiles * (conv.c + LINE) + LINE)), x.dtype),
        "view": view_of(x, x_last),
        "grid": grid,
        "band": (images, high, height, width, -conv.padding[0], -conv.padding[1], True),
        "shares": conv.shares,
    }


def points_of(weight, steps, backwards, sizes):
    widths = panel_widths(sizes[1], weight.dtype)
    points = poison((POINTS * (sum(widths) * sizes[0] + LINE),), weight.dtype)
    lanes = register_lanes(weight.itemsize)
    room = (len(widths), -(-TAPS // lanes) * lanes * widest_panel() * lanes)
    turned = poison(room, weight.dtype)
    for tile in reversed(range(len(widths))):
        transform_weights(
            tile, tile + 1, points, weight.reshape(-1), turned, steps, backwards, sizes
        )
    return points


def assert_close(actual, wanted):
    bound = BOUND[str(actual.dtype)] * np.abs(wanted).max()
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=bound)


@each_memory
@pytest.mark.parametrize(("dtype", "what"), AFTER)
@each_case
def test_convolve(conv, dtype, what, x_last, z_last):
    x, weight, dz = conv.drawn(dtype)
    z = expected(conv, x, weight, dz)[0].astype(dtype)
    then = after(what, z, conv.shares[0])
    shared = shared_arguments(conv, x, z, x_last, z_last)
    images, high = conv.band
    tiles = images * high * shared["grid"][1]
    last = math.prod(conv.last_band(shared["grid"][0])) * shared["grid"][1]
    pixels = 1 if z_last else images * high * TILE * z.shape[3]
    arguments = shared | {
        "weights": points_of(weight, (TAPS, TAPS * conv.c), False, (conv.c, conv.k)),
        "outputs": poison((conv.slots, POINTS * (tiles * conv.k + LINE)), dtype),
        "products": poison((conv.slots, pixels * conv.k), dtype),
        "lines": tables_of(*((conv.c + LINE) * np.arange(count) for count in (tiles, last))),
        "tables": np.full((conv.slots, 1), 2**40),
        "out_view": view_of(z, z_last),
    }
    written = poison((z.size + 2,), dtype)
    for slot in reversed(range(conv.slots)):
        convolve(slot, slot + 1, z=written[:-2], **arguments, **then._asdict())
    assert_close(written[:-2], flat(then.applied(z, z_last), z_last))
    assert np.isnan(written[-2:]).all()
    if what == "sums":
        n, k, h, w = z.shape
        found = written[:-2].reshape((n, h, w, k) if z_last else z.shape)
        parts = [
            (slice(image, image + images), slice(row * TILE, (row + high) * TILE))
            for image, row in conv.bands(shared["grid"][0])
        ]
        found = found.transpose(0, 3, 1, 2) if z_last else found
        assert_sums(then, found, shared_out(parts, conv.shares[0]), rtol=1e-5)


@each_memory
@pytest.mark.parametrize("dtype", [dtype for dtype, _ in AFTER])
@each_case
def test_weight_gradient(conv, dtype, x_last, z_last):
    x, weight, dz = conv.drawn(dtype)
    shared = shared_arguments(conv, x, dz, x_last, z_last)
    tiles = conv.band[0] * conv.band[1] * shared["grid"][1]
    panels = panel_widths(conv.k, dtype)
    size = conv.c * conv.k
    products = poison((conv.shares[0] * POINTS * (size + LINE) + 2,), dtype)
    room = POINTS * (tiles * sum(panels) + len(panels) * LINE)
    arguments = shared | {
        "dz": flat(dz, z_last),
        "gradients": poison((conv.slots, room), dtype),
        "channels": in_whole_tiles(np.arange(conv.c)),
        "tables": np.full((conv.slots, 1), 2**40),
        "dz_view": view_of(dz, z_last),
    }
    for slot in reversed(range(conv.slots)):
        weight_gradient(slot, slot + 1, products=products[:-2], **arguments)
    assert np.isnan(products[-2:]).all()
    spread, dweight = poison((TAPS * size,), dtype), poison((TAPS * size,), dtype)
    for channel in reversed(range(conv.c)):
        return_weights(channel, channel + 1, spread, products, conv.shares[0], (conv.c, conv.k))
    tiles = -(-conv.k // COLLECTED)
    collect_weights(0, tiles, dweight, spread, (1, 1, TAPS, conv.c, conv.k))
    assert_close(dweight.reshape(weight.shape), expected(conv, x, weight, dz)[1])


@pytest.mark.parametrize("dtype", [dtype for dtype, _ in AFTER])
def test_weights_backwards_are_those_of_the_gradient(dtype):
    """Depth and columns change places, and the window is turned round."""
    conv = Convolution(1, 5, 20, (3, 3))
    weight = conv.drawn(dtype)[1]
    turned = np.ascontiguousarray(weight.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1])
    backwards = points_of(weight, (TAPS * conv.c, TAPS), True, (conv.k, conv.c))
    forwards = points_of(turned, (TAPS, TAPS * conv.k), False, (conv.k, conv.c))
    np.testing.assert_array_equal(backwards, forwards)
