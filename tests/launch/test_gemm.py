"""Products of matrices: their blocks, and every way in which one is worked out."""

from __future__ import annotations

import numpy as np
import pytest
from numba.core import config

from nbnorm.jit.simd import lane_count
from nbnorm.kernels import Epilogue
from nbnorm.kernels.gemm.microkernel import DEPTH, TILE_ROWS
from nbnorm.launch import gemm
from nbnorm.launch.gemm import FEW_ROWS, deep_product, gemm_plan, matrix, multiply, shift_by
from tests.cases.product_batch_norm import strided
from tests.kernels.views import DTYPES, integers_in

each_type = pytest.mark.parametrize("dtype", DTYPES)

# (rows, columns, depth)
FEW = (FEW_ROWS, 70, 33)
BLOCKS = (201, 330, 300)
SLICES = (20, 40, 5000)
SIZES = [(1, 1, 1), FEW, (FEW_ROWS + 1, 70, 33), BLOCKS, SLICES]


@pytest.mark.parametrize("sliced", [False, True])
@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize("sizes", [*SIZES, (70_000, 5, 5), (5, 70_000, 5), (500, 500, 10_000)])
def test_blocks_are_made_of_whole_tiles_and_panels(sizes, itemsize, sliced):
    rows, columns, depth = sizes
    blocks, partitions, _ = gemm_plan(sizes, itemsize, sliced)
    assert blocks.rows % TILE_ROWS == 0
    assert blocks.columns == columns or blocks.columns % lane_count(itemsize) == 0
    assert blocks.depth == min(depth, DEPTH)
    assert blocks.slices == 1 or sliced
    tiles = -(-rows // blocks.rows) * -(-columns // blocks.columns) * blocks.slices
    assert 1 <= partitions <= tiles


def test_only_deep_products_of_few_blocks_are_sliced():
    slices = [gemm_plan(sizes, 4, True).blocks.slices for sizes in SIZES]
    assert slices == [1, 1, 1, 1, 4]


@each_type
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("arrange", [np.ascontiguousarray, np.asfortranarray, strided])
def test_is_the_product_of_matrices_in_any_memory(arrange, sizes, dtype):
    rows, columns, depth = sizes
    a, b = integers_in((rows, depth), dtype), integers_in((columns, depth), dtype, seed=1)
    c = np.full(rows * columns, np.nan, dtype)
    multiply(c, matrix(arrange(a)), matrix(arrange(b)).transposed)
    np.testing.assert_array_equal(c.reshape(rows, columns), a @ b.T)


@each_type
@pytest.mark.parametrize("sizes", [FEW, BLOCKS, SLICES, (3, 5, 0), (20, 5, 0)], ids=str)
def test_a_bias_is_added_to_every_row(sizes, dtype):
    rows, columns, depth = sizes
    a, b = integers_in((rows, depth), dtype), integers_in((columns, depth), dtype, seed=1)
    bias = integers_in((columns,), dtype, seed=2)
    c = np.full(rows * columns, np.nan, dtype)
    epilogue = Epilogue(constants=shift_by(bias, columns, np.dtype(dtype)))
    multiply(c, matrix(a), matrix(b).transposed, epilogue)
    np.testing.assert_array_equal(c.reshape(rows, columns), a @ b.T + bias)


def test_deep_products_are_added_in_float64(rng):
    """The rounding errors of a slice are those of its blocks; those of slices do not add up."""
    depth = 1 << (13 if config.DISABLE_JIT else 20)
    a = rng.standard_normal((depth, 3)).astype(np.float32)
    wide = a.astype(np.float64)
    found = deep_product(matrix(a).transposed, matrix(a))
    assert found.dtype == np.float64
    slices = depth // gemm.SLICE_DEPTH
    bound = 2.0**-22 * depth / np.sqrt(slices)
    np.testing.assert_allclose(found, wide.T @ wide, rtol=0, atol=bound)
