"""Squares transposed in registers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from nbnorm.jit import shuffles
from nbnorm.jit.options import worker
from nbnorm.jit.shuffles import transpose_square
from nbnorm.jit.simd import register_lanes
from tests.kernels.views import DTYPES, integers_in

each_type = pytest.mark.parametrize("dtype", DTYPES)


def lanes_of(dtype):
    return register_lanes(np.dtype(dtype).itemsize)


@worker
def transposed(to, to_at, to_ld, source, at, ld, rows, columns, stored):
    transpose_square(to, to_at, to_ld, source, at, ld, rows, columns, stored)


@each_type
@pytest.mark.parametrize(("to_gap", "gap"), [(0, 0), (1, 5)])
def test_a_square_is_transposed_as_far_as_it_goes(to_gap, gap, dtype):
    lanes = lanes_of(dtype)
    for rows, columns, more in itertools.product(
        (0, 1, lanes - 1, lanes, lanes + 4), (1, lanes // 2, lanes, lanes + 9, 2**32), (0, 1, 100)
    ):
        high, wide = min(rows, lanes), min(columns, lanes)
        stored = min(rows + more, lanes)
        ld, to_ld = wide + gap, stored + to_gap
        source = integers_in((high, ld), dtype, most=2**20)
        flat = source.reshape(-1)[: max(0, source.size - gap)]
        wanted = np.full((wide, to_ld), np.nan, dtype)
        wanted[:, :stored] = 0
        wanted[:, :high] = source[:, :wide].T
        buffer = np.full(wide * to_ld + 4, np.nan, dtype)
        transposed(buffer, 2, to_ld, flat, 0, ld, rows, columns, rows + more)
        np.testing.assert_array_equal(buffer[2:-2], wanted.reshape(-1))
        assert np.isnan(buffer[[0, 1, -2, -1]]).all()


@each_type
def test_the_transpose_s_twin_raises_beyond_an_array(dtype):
    arguments = {  # two by two: what the narrowest registers hold
        "to": np.ones(4, dtype), "to_at": 0, "to_ld": 2, "source": np.ones(4, dtype), "at": 0,
        "ld": 2, "rows": 2, "columns": 2, "stored": 2,
    }  # fmt: skip
    shuffles._transpose_square(**arguments)
    for change in (
        {"to_at": 1}, {"to_at": -1}, {"to_ld": 3}, {"at": 1}, {"at": -1}, {"ld": 3},
        {"source": np.ones(2, dtype)}, {"source": np.ones(3, dtype)}, {"to": np.ones(2, dtype)},
        {"to": np.ones(3, dtype)},
    ):  # fmt: skip
        with pytest.raises(IndexError):
            shuffles._transpose_square(**arguments | change)
