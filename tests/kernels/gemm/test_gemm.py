"""Products in blocks with what follows them, called from Python and from a user's compiled code."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from numba import njit

from nbnorm import kernels, reference
from nbnorm.jit.simd import lane_count
from nbnorm.kernels import Epilogue, GemmBlocks, GemmWorkspace, Matrix, ReLU
from nbnorm.kernels.channels import HEAD
from nbnorm.kernels.gemm.gemm import (
    PACKED_ROWS,
    add_products,
    add_products_parallel,
    multiply,
    multiply_few,
    multiply_few_parallel,
    multiply_parallel,
)
from tests.kernels.views import DTYPES, integers_in

each_type = pytest.mark.parametrize("dtype", DTYPES)

# (rows, columns, depth) and blocks: whole ones and cut ones.
SIZES = [
    ((1, 1, 1), GemmBlocks(6, 64, 1, 256)),
    ((7, 5, 3), GemmBlocks(6, 64, 1, 2)),
    ((13, 70, 9), GemmBlocks(12, 64, 1, 4)),
    ((101, 130, 5), GemmBlocks(102, 64, 1, 5)),  # more rows than are packed at once
    ((25, 131, 10), GemmBlocks(12, 128, 1, 3)),
]


def laid(array, along_rows):
    """The matrix in memory row by row, or column by column."""
    rows, columns = array.shape
    if along_rows:
        return Matrix(np.ascontiguousarray(array).reshape(-1), rows, columns, columns, 1)
    return laid(array.T, True).transposed


def ld_of(columns, dtype):
    lanes = lane_count(np.dtype(dtype).itemsize)
    return -(-columns // lanes) * lanes


def arguments_of(a, b, ways, blocks, partitions):
    """What `multiply` is given from Python but for c, without an epilogue; scratch is poisoned."""
    panels = blocks.depth * ld_of(blocks.columns, a.dtype)
    packed = 1 if ways[0] else blocks.depth * PACKED_ROWS
    return {
        "a": tuple(laid(a, ways[0])),
        "b": tuple(laid(b, ways[1])),
        "work": (
            np.full((partitions, panels), np.nan, a.dtype),
            np.full((partitions, packed), np.nan, a.dtype),
            np.full((partitions, 1 + PACKED_ROWS), 2**40),
        ),
        "epilogue": tuple(Epilogue()),
        "dy": None,
        "activation": None,
        "blocks": tuple(blocks),
    }


@each_type
@pytest.mark.parametrize("ways", [(1, 1), (1, 0), (0, 1), (0, 0)], ids=str)
@pytest.mark.parametrize(("sizes", "blocks"), SIZES, ids=str)
def test_is_the_product_wherever_it_lies(sizes, blocks, ways, dtype):
    n, columns, p = sizes
    a, b = integers_in((n, p), dtype), integers_in((p, columns), dtype, seed=1)
    for partitions in (1, 3):
        arguments = arguments_of(a, b, ways, blocks, partitions)
        c = np.full(n * columns + 2, np.nan, dtype)
        for partition in reversed(range(partitions)):
            multiply(partition, partition + 1, c=c[:-2], **arguments)
        np.testing.assert_array_equal(c[:-2].reshape(n, columns), a @ b)
        assert np.isnan(c[-2:]).all()


@each_type
@pytest.mark.parametrize("slices", [2, 3])
def test_slices_of_the_depth_are_added(slices, dtype):
    n, columns, p = 7, 70, 10
    a, b = integers_in((n, p), dtype), integers_in((p, columns), dtype, seed=1)
    parts = np.full(slices * n * columns, np.nan, dtype)
    multiply(0, 2, c=parts, **arguments_of(a, b, (0, 1), GemmBlocks(6, 64, slices, 2), 2))
    edges = [p * i // slices for i in range(slices + 1)]
    for i, part in enumerate(parts.reshape(slices, n, columns)):
        taken = slice(edges[i], edges[i + 1])
        np.testing.assert_array_equal(part, a[:, taken] @ b[taken])
    for size in (1000, 64, 37):
        c = np.full(n * columns, np.nan, dtype)
        for tile in range(-(-c.size // size)):
            add_products(tile, tile + 1, c=c, slices=parts, size=size)
        np.testing.assert_array_equal(c.reshape(n, columns), a @ b)


def following(rng, n, columns, dtype):
    """Constants of powers of two and integers, a residual, and what they make of a product."""
    constants = np.full((3, ld_of(columns, dtype)), np.nan, dtype)
    constants[0, :columns] = rng.integers(-4, 5, columns)
    constants[1, :columns] = 2.0 ** rng.integers(-1, 2, columns)
    constants[2, :columns] = rng.integers(-4, 5, columns)
    residual = integers_in((n, columns), dtype, seed=5)
    head, scale, shift = constants[:, :columns]
    return constants, residual, lambda c: np.maximum((c - head) * scale + shift + residual, 0)


@pytest.mark.parametrize("n", [1, 3, 4, 25])
@each_type
def test_constants_residual_and_activation_or_its_gradient_follow(n, dtype, rng):
    columns, p = 131, 10
    a, b = integers_in((n, p), dtype), integers_in((p, columns), dtype, seed=1)
    constants, residual, after = following(rng, n, columns, dtype)
    epilogue = tuple(Epilogue(constants, residual.reshape(-1)))
    wanted = after(a @ b)
    c = np.full(n * columns, np.nan, dtype)
    arguments = arguments_of(a, b, (1, 0), GemmBlocks(12, 64, 1, 4), 2)
    arguments |= {"epilogue": epilogue, "activation": ReLU()}
    multiply(0, 2, c=c, **arguments)
    np.testing.assert_array_equal(c.reshape(n, columns), wanted)

    dy = integers_in((n, columns), dtype, seed=6)
    wide = np.concatenate([constants, np.full_like(constants, np.nan), constants[:1]])
    c = np.full(n * columns, np.nan, dtype)
    gradient = {"epilogue": (wide, *epilogue[1:]), "dy": dy.reshape(-1)}
    multiply(0, 2, c=c, **arguments | gradient)
    np.testing.assert_array_equal(c.reshape(n, columns), np.where(wanted > 0, dy, 0))

    for width in (64, 200):
        c = np.full(n * columns, np.nan, dtype)
        for tile in reversed(range(-(-columns // width))):
            multiply_few(tile, tile + 1, c, arguments["a"], arguments["b"], epilogue, ReLU(), width)
        np.testing.assert_array_equal(c.reshape(n, columns), wanted)


@each_type
@pytest.mark.parametrize("p", [1, 63, 64, 130])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_rows(n, p, dtype):
    a, b = integers_in((n, p), dtype), integers_in((p, 3), dtype, seed=1)
    c = np.full(3 * n, np.nan, dtype)
    operands = tuple(laid(a, True)), tuple(laid(b, False))
    multiply_few(0, 1, c, *operands, tuple(Epilogue()), None, 64)
    np.testing.assert_array_equal(c.reshape(n, 3), a @ b)


@each_type
@pytest.mark.parametrize("partitions", [1, 4])
def test_sums_of_each_block_about_its_own_pivot(partitions, dtype):
    n, columns, p, height = 20, 131, 3, 12
    a, b = integers_in((n, p), dtype), integers_in((p, columns), dtype, seed=1)
    b[:, 7] = 0  # a column that does not vary
    c = np.full(n * columns, np.nan, dtype)
    ld = ld_of(columns, dtype)
    sums, pivots = np.full((2, 2, ld), np.nan), np.full((2, 3, ld), np.nan, dtype)
    arguments = arguments_of(a, b, (1, 1), GemmBlocks(height, 64, 1, 4), partitions)
    epilogue = tuple(Epilogue(sums=sums, pivots=pivots))
    multiply(0, partitions, c=c, **arguments | {"epilogue": epilogue})
    np.testing.assert_array_equal(c.reshape(n, columns), a @ b)
    for i, block in enumerate((c.reshape(n, columns)[:height], c.reshape(n, columns)[height:])):
        pivot = pivots[i, HEAD, :columns]
        thirds = block[[0, len(block) // 3, 2 * len(block) // 3]]
        np.testing.assert_array_equal(pivot, np.median(thirds, axis=0))
        moved = block.astype(np.float64) - pivot
        np.testing.assert_array_equal(sums[i, 0, :columns], moved.sum(axis=0))
        np.testing.assert_array_equal(sums[i, 1, :columns], (moved**2).sum(axis=0))
        np.testing.assert_array_equal(sums[i, :, 7], 0)
    assert np.isnan(sums[:, :, columns:]).all()  # columns that are not there are not written


def test_drivers_do_what_their_workers_do(rng):
    """For the types that the functions have had compiled for float32."""
    n, columns, p = 25, 131, 40
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((n, p), (p, columns)))
    arguments = arguments_of(a, b, (1, 0), GemmBlocks(12, 64, 1, 16), 3)
    serial, parallel = (np.full(n * columns, np.nan, np.float32) for _ in range(2))
    multiply(0, 3, c=serial, **arguments)
    multiply_parallel(3, c=parallel, **arguments)
    np.testing.assert_array_equal(parallel, serial)
    np.testing.assert_allclose(serial.reshape(n, columns), a @ b, rtol=0, atol=1e-5)

    few = (arguments["a"], arguments["b"], tuple(Epilogue()), None, 64)
    multiply_few(0, 3, serial, *few)
    multiply_few_parallel(3, parallel, *few)
    np.testing.assert_array_equal(parallel, serial)

    slices = rng.standard_normal(3 * serial.size).astype(np.float32)
    add_products(0, 4, serial, slices, 1000)
    add_products_parallel(4, parallel, slices, 1000)
    np.testing.assert_array_equal(parallel, serial)
    np.testing.assert_allclose(serial, slices.reshape(3, -1).sum(axis=0), rtol=0, atol=1e-6)


# --- from compiled code of one's own ------------------------------------------------------------


@njit(parallel=True)
def layer(x, weight, head, scale, shift):
    """relu((x weight^T - head) scale + shift), 24 rows of x at a time, each on one thread."""
    n, c = x.shape
    k = weight.shape[0]
    x_flat, weight_flat = x.reshape(-1), weight.reshape(-1)
    y = np.empty((n, k), x.dtype)
    y_flat = y.reshape(-1)
    a = Matrix(x_flat, n, c, c, 1)
    b = Matrix(weight_flat, c, k, 1, c)  # transposed
    constants = np.zeros((3, (k + 63) // 64 * 64), x.dtype)
    constants[0, :k], constants[1, :k], constants[2, :k] = head, scale, shift
    epilogue = Epilogue(constants, None, None, None)
    partitions = (n + 23) // 24
    panels = np.empty((partitions, 64 * c), x.dtype)
    packed_rows = np.empty((partitions, 1), x.dtype)
    offsets = np.empty((partitions, 97), np.int64)
    work = GemmWorkspace(panels, packed_rows, offsets)
    blocks = GemmBlocks(24, 64, 1, c)
    for partition in numba.prange(partitions):
        kernels.multiply(
            partition, partition + 1, y_flat, a, b, work, epilogue, None, ReLU(), blocks
        )
    return y


@pytest.mark.slow
def test_called_from_compiled_code():
    dtype = np.float32
    x, weight = integers_in((50, 9), dtype), integers_in((70, 9), dtype, seed=1)
    head, shift = integers_in((2, 70), dtype, seed=2)
    scale = np.full(70, 0.5, dtype)
    wanted = np.maximum((reference.dense_forward(x, weight) - head) * scale + shift, 0)
    np.testing.assert_array_equal(layer(x, weight, head, scale, shift), wanted)
