"""Penalties and their gradients, tile by tile: exact on small integers."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm.kernels import L1, L2, penalize, penalize_parallel
from tests.kernels.views import DTYPES, integers_in

KINDS = {"l1": (L1(), np.abs, np.sign), "l2": (L2(), np.square, np.positive)}

each_kind = pytest.mark.parametrize("kind", KINDS)
each_type = pytest.mark.parametrize("dtype", DTYPES)


@each_type
@each_kind
@pytest.mark.parametrize("with_dy", [False, True])
@pytest.mark.parametrize(("m", "size"), [(1, 5), (700, 1000), (700, 128), (771, 77)])
def test_sums_of_tiles_and_the_gradient(m, size, with_dy, kind, dtype):
    type_, summand, derivative = KINDS[kind]
    x, dy = integers_in((m,), dtype), integers_in((m,), dtype, seed=1)
    tiles = -(-m // size)
    sums, gradient = np.full(tiles + 2, np.nan), np.full(m + 2, np.nan, dtype)
    for tile in reversed(range(tiles)):
        penalize(
            tile, tile + 1, sums[:-2], gradient[:-2], dy if with_dy else None, x, 0.5, type_, size
        )
    parts = np.split(summand(x.astype(np.float64)), range(size, m, size))
    np.testing.assert_array_equal(sums[:-2], [part.sum() for part in parts])
    np.testing.assert_array_equal(gradient[:-2], 0.5 * derivative(x) + (dy if with_dy else 0))
    assert np.isnan(sums[-2:]).all()
    assert np.isnan(gradient[-2:]).all()


@each_kind
def test_without_a_gradient_the_sums_are_the_same(kind):
    x = integers_in((300,), "float32")
    alone, beside = np.empty((2, 3))
    penalize(0, 3, alone, None, None, x, 0.5, KINDS[kind][0], 100)
    penalize_parallel(3, beside, np.empty_like(x), None, x, 0.5, KINDS[kind][0], 100)
    np.testing.assert_array_equal(alone, beside)


@each_type
@each_kind
def test_nan_stays_nan_and_zero_has_no_gradient(kind, dtype):
    x = np.array([np.nan, 0.0, -0.0, 3.0], dtype)
    sums, gradient = np.empty(1), np.empty_like(x)
    penalize(0, 1, sums, gradient, None, x, 2.0, KINDS[kind][0], 4)
    assert np.isnan(sums[0])
    np.testing.assert_array_equal(gradient, [np.nan, 0, 0, 2 if kind == "l1" else 6])
