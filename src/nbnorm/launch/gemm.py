"""Products of matrices on checked arguments: in which blocks, with which memory, and run."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from nbnorm.jit.simd import lane_count
from nbnorm.jit.threads import run
from nbnorm.kernels.batch_norm.normalize import fold_given
from nbnorm.kernels.channels import HEAD, SCALE, SHIFT
from nbnorm.kernels.gemm import gemm as product
from nbnorm.kernels.gemm.microkernel import DEPTH, TILE_ROWS
from nbnorm.launch.batch_norm import Summed, channel_parameters, sums_about
from nbnorm.launch.layout import run_of
from nbnorm.launch.machine import (
    BALANCED_TILES,
    PARALLEL_FROM_MACS,
    PARALLEL_FROM_UNPACKED_MACS,
    whole_vectors,
)
from nbnorm.launch.scratch import scratch
from nbnorm.typing import Array

# Columns in a block: two of the widest panels, one where the blocks would be few.
PANELS = 2

# A block of the product is to be found in the second cache by what follows it.
BLOCK_BYTES = 256 << 10
FEWEST_ROWS = 96

# Slices of the depth, for products that have too few blocks otherwise.
SHORTEST_SLICE = 1024

# Slices that are added in float64: in each, float32 adds eight blocks of the depth, whose rounding
# errors are those of one. Their products take no more scratch than this.
SLICE_DEPTH = 4096
SLICES_BYTES = 8 << 20

# For so few rows, packing the weights costs more than multiplying by them.
FEW_ROWS = 8


class ProductPlan(NamedTuple):
    """In which blocks a product is worked out: see kernels/gemm/gemm.py."""

    height: int
    width: int
    slices: int
    tiles: int
    slots: int
    parallel: bool

    @property
    def blocks(self) -> tuple[int, int, int]:
        """As the kernel takes them."""
        return self.height, self.width, self.slices


@functools.lru_cache(maxsize=4096)
def product_plan(sizes: tuple[int, int, int], itemsize: int, sliced: bool) -> ProductPlan:
    """The blocks of a product (i, j, p): by its sizes alone, whatever the number of threads."""
    n, columns, depth = sizes
    panel = lane_count(itemsize)
    width = PANELS * panel
    if -(-columns // width) * -(-n // FEWEST_ROWS) < BALANCED_TILES:
        width = panel
    width = min(width, columns)
    across = -(-columns // width)
    most = max(FEWEST_ROWS, BLOCK_BYTES // (width * itemsize))
    down = max(-(-n // most), min(-(-BALANCED_TILES // across), n // FEWEST_ROWS), 1)
    if down * across > BALANCED_TILES and down > 1:  # equal shares for two, four or eight threads
        while down * across % BALANCED_TILES:
            down += 1
    height = -(-n // down)
    height = -(-height // TILE_ROWS) * TILE_ROWS
    down = -(-n // height)
    slices = 1
    if sliced:
        slices = max(1, min(BALANCED_TILES // (down * across), depth // SHORTEST_SLICE))
    tiles = down * across * slices
    return ProductPlan(
        height=height,
        width=width,
        slices=slices,
        tiles=tiles,
        slots=min(tiles, 2 * BALANCED_TILES),
        parallel=n * columns * depth >= PARALLEL_FROM_MACS,
    )


class Matrix(NamedTuple):
    """A matrix as the multiply reads it: ``[i, j]`` is element ``i row + j column`` of `flat`."""

    flat: Array
    row: int
    column: int
    shape: tuple[int, int]

    @property
    def transposed(self) -> Matrix:
        """The same memory, rows for columns."""
        return Matrix(self.flat, self.column, self.row, self.shape[::-1])


def matrix(array: Array) -> Matrix:
    """A two-dimensional array as a matrix: in place if either axis lies densely, else copied."""
    rows, columns = array.shape
    if array.flags.f_contiguous and not array.flags.c_contiguous:
        return Matrix(run_of(array.T), 1, rows, (rows, columns))
    return Matrix(run_of(array), columns, 1, (rows, columns))


def multiply(
    c: Array,
    a: Matrix,
    b: Matrix,
    *,
    constants: Array | None = None,
    dy: Array | None = None,
    residual: Array | None = None,
    activation: Any = None,
    summed: Summed | None = None,
) -> None:
    """``c = a b``, and what follows it: see kernels/gemm/gemm.py."""
    n, depth = a.shape
    columns = b.shape[1]
    sizes = n, columns, depth
    if c.size == 0:
        return
    if depth == 0:  # the kernel would write nothing: one step of zeros has the same product
        zeros = np.zeros(max(n, columns), c.dtype)
        a, b, depth = Matrix(zeros, 1, 1, (n, 1)), Matrix(zeros, 1, 1, (1, columns)), 1
        sizes = n, columns, depth
    few = summed is None and dy is None and n <= FEW_ROWS
    if few and a.column == 1 and b.row == 1:
        lanes = lane_count(c.itemsize)
        width = -(-columns // (BALANCED_TILES * lanes)) * lanes
        run(
            product.multiply_few, product.multiply_few_parallel, -(-columns // width),
            n * columns * depth >= PARALLEL_FROM_UNPACKED_MACS, c, a.flat, b.flat, constants,
            residual, activation, sizes, width,
        )  # fmt: skip
        return
    # Gradients of weights follow from no sums and no constants: they may be sliced.
    plan = product_plan(sizes, c.itemsize, constants is None and summed is None)
    into = c
    if plan.slices > 1:
        into = scratch.take("slices", (plan.slices * c.size,), c.dtype)
    _multiply_blocks(into, a, b, plan, constants, dy, residual, activation, summed)
    if plan.slices > 1:
        size = 1 << 14
        run(
            product.add_products, product.add_products_parallel, -(-c.size // size),
            plan.parallel, c, into, size,
        )  # fmt: skip


def _multiply_blocks(
    c: Array,
    a: Matrix,
    b: Matrix,
    plan: ProductPlan,
    constants: Array | None = None,
    dy: Array | None = None,
    residual: Array | None = None,
    activation: Any = None,
    summed: Summed | None = None,
) -> None:
    n, depth = a.shape
    room = whole_vectors(plan.width, c.itemsize) * min(DEPTH, depth)
    run(
        product.multiply, product.multiply_parallel, plan.slots, plan.parallel, c, a.flat, b.flat,
        scratch.take("panels", (plan.slots, room), c.dtype),
        scratch.take("lines", (plan.slots, _lines_room(a, depth)), c.dtype),
        scratch.take("tables", (plan.slots, 1 + product.PACKED_ROWS), np.int64),
        constants, dy, residual, activation, None if summed is None else summed.sums,
        None if summed is None else summed.pivots, (n, b.shape[1], depth),
        (a.row, a.column, b.row, b.column, DEPTH), plan.blocks, plan.tiles,
    )  # fmt: skip


def deep_product(a: Matrix, b: Matrix) -> Array:
    """``a b`` in float64, for a depth far beyond the rows of a and the columns of b.

    Products of slices of the depth, each short enough to lose nothing in the data's type, are
    added in float64.
    """
    rows, depth = a.shape
    columns = b.shape[1]
    dtype = a.flat.dtype
    result = np.zeros(rows * columns)
    most = max(BALANCED_TILES, SLICES_BYTES // (rows * columns * dtype.itemsize))
    for first in range(0, depth, most * SLICE_DEPTH):
        last = min(first + most * SLICE_DEPTH, depth)
        slices = -(-(last - first) // SLICE_DEPTH)
        plan = _sliced_plan((rows, columns, last - first), dtype.itemsize, slices)
        products = scratch.take("slices", (plan.slices * rows * columns,), dtype)
        _multiply_blocks(
            products,
            Matrix(a.flat[first * a.column :], a.row, a.column, (rows, last - first)),
            Matrix(b.flat[first * b.row :], b.row, b.column, (last - first, columns)),
            plan,
        )
        result += products.reshape(plan.slices, -1).sum(axis=0, dtype=np.float64)
    return result.reshape(rows, columns)


@functools.lru_cache(maxsize=1024)
def _sliced_plan(sizes: tuple[int, int, int], itemsize: int, slices: int) -> ProductPlan:
    """Blocks for so many slices of the depth; large ones, for there are tiles enough."""
    plan = product_plan((max(sizes[0], BALANCED_TILES * FEWEST_ROWS), *sizes[1:]), itemsize, False)
    height = min(2 * product.PACKED_ROWS, -(-sizes[0] // TILE_ROWS) * TILE_ROWS)
    tiles = -(-sizes[0] // height) * -(-sizes[1] // plan.width) * slices
    return plan._replace(
        height=height, slices=slices, tiles=tiles, slots=min(tiles, 2 * BALANCED_TILES)
    )


def _lines_room(a: Matrix, depth: int) -> int:
    """Numbers of a that are packed at once; one where a is used in place."""
    return 1 if a.column == 1 else product.PACKED_ROWS * min(DEPTH, depth)


def sums_for(sizes: tuple[int, int, int], dtype: Any) -> Summed:
    """Scratch for the sums that `multiply` takes on the way."""
    itemsize = np.dtype(dtype).itemsize
    n, columns, _ = sizes
    plan = product_plan(sizes, itemsize, False)
    return sums_about(_heights(n, plan.height), columns, np.dtype(dtype))


@functools.lru_cache(maxsize=1024)
def _heights(rows: int, height: int) -> Array:
    """Rows of each block."""
    heights = np.full(-(-rows // height), height)
    heights[-1] = rows - (len(heights) - 1) * height
    return heights


def given_constants(
    mean: Array,
    var: Array,
    gamma: Array | None,
    beta: Array | None,
    bias: Array | None,
    eps: float,
    dtype: Any,
) -> Array:
    """Head, scale and shift of a given mean and variance; a bias moves the mean."""
    k = len(mean)
    statistics = np.empty((3, k))
    statistics[0] = mean
    if bias is not None:
        statistics[0] -= bias
    statistics[1] = var
    folded = scratch.take("given", (3, whole_vectors(k, dtype.itemsize)), dtype)
    parameters = channel_parameters(gamma, beta, k)
    fold_given(folded, folded, statistics, parameters, eps, (1, 1, 0))
    return folded


def shift_by(bias: Array | None, columns: int, dtype: Any) -> Array | None:
    """Constants that add a bias: ``(c - -bias) 1 + 0``, in which nothing is rounded but the sum."""
    if bias is None:
        return None
    constants = scratch.take("bias", (3, whole_vectors(columns, dtype.itemsize)), dtype)
    constants[HEAD, :columns] = -bias
    constants[SCALE] = 1.0
    constants[SHIFT] = 0.0
    return constants
