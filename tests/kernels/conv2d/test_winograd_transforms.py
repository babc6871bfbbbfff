"""Winograd's transforms against the matrices of Lavin and Gray (2016), section 4.3."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from numba.core import config

from nbnorm.jit.options import worker
from nbnorm.jit.simd import register_lanes
from nbnorm.kernels.conv2d import winograd_transforms as transforms
from nbnorm.kernels.conv2d.winograd_transforms import PATCH, TILE
from tests.kernels.views import DTYPES

B_T = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
G = np.array(
    [
        [6, 0, 0],
        [-4, -4, -4],
        [-4, 4, -4],
        [1, 2, 4],
        [1, -2, 4],
        [0, 0, 24],
    ]
) * Fraction(1, 24)
A_T = np.array(
    [
        [1, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 0],
        [0, 1, 1, 4, 4, 0],
        [0, 1, -1, 8, -8, 1],
    ]
)
MATRICES = {
    "input": B_T,
    "weight": G,
    "output": A_T,
    "output_gradient": A_T.T,
    "weight_gradient": G.T,
}
# The larger picture, in pixels, is clipped: that of the output or of its gradient.
CLIPPED_OUTPUT, CLIPPED_INPUT = ("output",), ("output_gradient",)

each_type = pytest.mark.parametrize("dtype", DTYPES)
each_transform = pytest.mark.parametrize("name", MATRICES)


def _compiled(transform):
    @worker
    def call(to, to_steps, source, steps, size, count):
        transform(to, to_steps, source, steps, size, count)

    return call


TRANSFORMS = {name: _compiled(getattr(transforms, f"transform_{name}")) for name in MATRICES}


def applied(name, square):
    """The map by its matrix: down the columns and along the rows, exact in the end."""
    matrix = MATRICES[name].astype(np.float64)
    return np.einsum("ai,ijv,bj->abv", matrix, square.astype(np.float64), matrix)


def transformed(name, square, count, height=PATCH, width=PATCH, sentinel=np.nan):
    """What the kernel makes of a square of vectors that lie with gaps, `sentinel` in them.

    Pixels beyond height and width are not there: the array ends with the last one that is.
    """
    outputs, inputs = MATRICES[name].shape
    dtype = square.dtype
    lanes = register_lanes(dtype.itemsize)
    clipped = name in CLIPPED_INPUT
    across, down = count + 3, inputs * (count + 3) + 1
    source = np.full(inputs * down, np.nan, dtype)
    last = 0
    for i in range(min(height, inputs) if clipped else inputs):
        for j in range(min(width, inputs) if clipped else inputs):
            start = 2 + i * down + j * across
            source[start : start + count] = square[i, j, :count]
            last = start + count
    to_across, to_down = lanes + 2, outputs * (lanes + 2)
    to = np.full(outputs * to_down + 5, sentinel, dtype)
    TRANSFORMS[name](
        to, (5, to_down, to_across), source[:last], (2, down, across), (height, width), count
    )
    written = to[5:].reshape(outputs, outputs, to_across)
    return written[:, :, :count], np.concatenate([to[:5], written[:, :, count:].reshape(-1)])


def drawn(rng, name, dtype):
    inputs = MATRICES[name].shape[1]
    lanes = register_lanes(np.dtype(dtype).itemsize)
    return rng.integers(-8, 9, (inputs, inputs, lanes)).astype(dtype)


def test_the_matrices_make_a_convolution(rng):
    """What the paper says of them, in whole numbers and fractions."""
    x = rng.integers(-9, 10, PATCH)
    g = rng.integers(-9, 10, 3)
    assert list(A_T @ ((G @ g) * (B_T @ x))) == list(np.correlate(x, g))


@each_type
@each_transform
def test_is_its_matrix(name, dtype, rng):
    square = drawn(rng, name, dtype)
    lanes = square.shape[2]
    wanted = applied(name, square)
    # Whole numbers remain whole; G has sixths.
    tolerance = 4 * np.finfo(dtype).eps * np.abs(wanted).max() if "weight" in name else 0
    for count in (1, 2, lanes - 1, lanes):
        got, others = transformed(name, square, count)
        np.testing.assert_allclose(got, wanted[:, :, :count], rtol=0, atol=tolerance)
        assert np.isnan(others).all()  # neither between the vectors nor beyond their count


@each_type
@pytest.mark.parametrize("name", [*CLIPPED_OUTPUT, *CLIPPED_INPUT])
def test_what_is_clipped_is_neither_read_nor_written(name, dtype, rng):
    square = drawn(rng, name, dtype)
    lanes = square.shape[2]
    for height in (1, 2, TILE, 100):
        for width in (1, 3, TILE, 100):
            for count in (1, lanes):
                seen = square.copy()
                if name in CLIPPED_INPUT:
                    seen[height:] = 0
                    seen[:, width:] = 0
                wanted = applied(name, seen)
                if name in CLIPPED_OUTPUT:
                    wanted[height:] = np.nan
                    wanted[:, width:] = np.nan
                got, others = transformed(name, square, count, height, width)
                np.testing.assert_array_equal(got, wanted[:, :, :count])
                assert np.isnan(others).all()


@each_type
def test_a_tile_is_a_convolution(dtype, rng):
    """A^T [(G g G^T) * (B^T d B)] A is the correlation of d and g; so are its gradients."""
    lanes = register_lanes(np.dtype(dtype).itemsize)
    d, g, dy = (rng.standard_normal((size, size, lanes)).astype(dtype) for size in (PATCH, 3, TILE))

    def made(name, square):
        return transformed(name, square, lanes)[0].copy()

    def most(name, square):
        """What rounding errors are measured by: the same sums of absolute values."""
        matrix = np.abs(MATRICES[name].astype(np.float64))
        return np.einsum("ai,ijv,bj->abv", matrix, np.abs(square), matrix)

    u = np.finfo(dtype).eps / 2
    seen = np.lib.stride_tricks.sliding_window_view(d.astype(np.float64), (3, 3), (0, 1))
    points = made("input", d)
    y = made("output", made("weight", g) * points)
    bound = 20 * u * most("output", most("weight", g) * most("input", d))  # 20 roundings in a row
    assert (np.abs(y - np.einsum("ijvrs,rsv->ijv", seen, g)) <= bound).all()

    dg = made("weight_gradient", made("output_gradient", dy) * points)
    bound = 20 * u * most("weight_gradient", most("output_gradient", dy) * most("input", d))
    assert (np.abs(dg - np.einsum("ijvrs,ijv->rsv", seen, dy)) <= bound).all()


@each_transform
@pytest.mark.skipif(not config.DISABLE_JIT, reason="compiled code does not check")
def test_a_twin_raises_beyond_an_array(name):
    outputs, inputs = MATRICES[name].shape
    to, source = np.zeros(outputs * outputs * 2), np.zeros(inputs * inputs * 2)
    to_steps, steps = (outputs * 2, 2), (inputs * 2, 2)
    size = (PATCH, PATCH)
    call = getattr(transforms, f"transform_{name}")
    call(to, (0, *to_steps), source, (0, *steps), size, 2)
    for written, to_at, read, at in (
        (to[:-1], 0, source, 0),
        (to, -1, source, 0),
        (to, 1, source, 0),
        (to, 0, source[:-1], 0),
        (to, 0, source, -1),
        (to, 0, source, 1),
    ):
        with pytest.raises(IndexError):
            call(written, (to_at, *to_steps), read, (at, *steps), size, 2)
