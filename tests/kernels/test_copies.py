"""Rows and blocks, copied and transposed; nothing else is written."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm.jit.simd import register_lanes
from nbnorm.kernels.copies import copy_row, transpose
from tests.kernels.views import DTYPES, integers_in

each_type = pytest.mark.parametrize("dtype", DTYPES)


def lanes_of(dtype):
    return register_lanes(np.dtype(dtype).itemsize)


def lengths(dtype):
    """Below, at and above a register and a vector of four."""
    lanes = lanes_of(dtype)
    return (1, lanes - 1, lanes, lanes + 1, 4 * lanes, 4 * lanes + 3)


def room(size, dtype):
    """An array to write to, and a view of all but its margins."""
    buffer = np.full(size + 4, np.nan, dtype)
    return buffer, buffer[2:-2]


@each_type
@pytest.mark.parametrize("more", [0, 1, 70, 130])
def test_a_row_and_zeros(more, dtype):
    for count in (0, *lengths(dtype)):
        source = np.concatenate([[np.nan], integers_in((count,), dtype)]).astype(dtype)
        buffer, inside = room(count + more, dtype)
        copy_row(buffer, 2, source, 1, count, count + more)
        np.testing.assert_array_equal(inside, np.concatenate([source[1:], np.zeros(more)]))
        assert np.isnan(buffer[[0, 1, -2, -1]]).all()


@each_type
@pytest.mark.parametrize(("gap", "to_gap"), [(0, 0), (3, 2)])
@pytest.mark.parametrize("more", [0, 1, 9])
def test_a_block_is_transposed(more, gap, to_gap, dtype):
    for rows in lengths(dtype):
        for columns in (1, lanes_of(dtype), lanes_of(dtype) + 2):
            block = np.full((rows, columns + gap), np.nan, dtype)
            block[:, :columns] = integers_in((rows, columns), dtype, most=2**20)
            source = block.reshape(-1)[: block.size - gap]
            ld = rows + more + to_gap
            buffer, inside = room(columns * ld - to_gap, dtype)
            transpose(buffer, 2, ld, source, 0, columns + gap, rows, columns, rows + more)
            wanted = np.full((columns, ld), np.nan, dtype)
            wanted[:, :rows] = block[:, :columns].T
            wanted[:, rows : rows + more] = 0
            np.testing.assert_array_equal(inside, wanted.reshape(-1)[: inside.size])
            assert np.isnan(buffer[[0, 1, -2, -1]]).all()
