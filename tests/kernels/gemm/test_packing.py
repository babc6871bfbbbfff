"""Blocks of matrices in the order in which they are multiplied; nothing else is written."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm.jit.simd import register_lanes
from nbnorm.kernels.gemm.microkernel import padded_width, panel_width
from nbnorm.kernels.gemm.packing import pack_panels, pack_rows
from tests.kernels.views import DTYPES, integers_in

each_type = pytest.mark.parametrize("dtype", DTYPES)


def lanes_of(dtype):
    return register_lanes(np.dtype(dtype).itemsize)


def lengths(dtype):
    """Below, at and above a register and a vector of four."""
    lanes = lanes_of(dtype)
    return (1, lanes - 1, lanes, lanes + 1, 4 * lanes, 4 * lanes + 3)


@each_type
@pytest.mark.parametrize("along", ["columns", "depth"])
def test_panels(along, dtype):
    for columns in lengths(dtype):
        for depth in (1, 5, lanes_of(dtype) + 1):
            wide = integers_in((depth + 1, columns + 3), dtype, most=2**20)
            matrix = wide[:depth, 2 : 2 + columns]
            flat = wide if along == "columns" else wide.T.copy()
            steps = (columns + 3, 1) if along == "columns" else (1, depth + 1)
            padded = padded_width(wide, columns)
            buffer = np.full(padded * depth + 4, np.nan, dtype)
            pack_panels(buffer, flat.reshape(-1), 2 * steps[1], *steps, depth, columns)
            first = 0
            while first < columns:
                width = panel_width(wide, columns - first)
                panel = buffer[first * depth : (first + width) * depth].reshape(depth, width)
                part = matrix[:, first : first + width]
                np.testing.assert_array_equal(panel[:, : part.shape[1]], part)
                np.testing.assert_array_equal(panel[:, part.shape[1] :], 0)
                first += width
            assert np.isnan(buffer[padded * depth :]).all()


@each_type
def test_rows_side_by_side(dtype):
    for rows in lengths(dtype):
        a = integers_in((3, rows + 2), dtype)
        ld = rows + 5
        to = np.full(3 * ld + 2, np.nan, dtype)
        pack_rows(to, ld, a.reshape(-1), 1, rows + 2, 3, rows)
        wanted = np.zeros((3, ld), dtype)
        wanted[:, :rows] = a[:, 1 : 1 + rows]
        np.testing.assert_array_equal(to[:-2], wanted.reshape(-1))
        assert np.isnan(to[-2:]).all()
