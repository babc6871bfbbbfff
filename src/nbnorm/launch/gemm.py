"""Products of matrices on checked arguments: cut into blocks, lent memory, run."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from nbnorm.jit.simd import lane_count
from nbnorm.jit.threads import run
from nbnorm.kernels.batch_norm.normalize import fold_given
from nbnorm.kernels.channels import HEAD, SCALE, SHIFT
from nbnorm.kernels.gemm import gemm as kernels
from nbnorm.kernels.gemm.epilogue import Epilogue
from nbnorm.kernels.gemm.gemm import PACKED_ROWS, GemmBlocks, GemmWorkspace, Matrix
from nbnorm.kernels.gemm.microkernel import DEPTH, TILE_ROWS
from nbnorm.launch.batch_norm import Normalization
from nbnorm.launch.layout import run_of
from nbnorm.launch.machine import (
    BALANCED_TILES,
    PARALLEL_FROM_MACS,
    PARALLEL_FROM_UNPACKED_MACS,
    whole_vectors,
)
from nbnorm.launch.scratch import scratch
from nbnorm.launch.statistics import Summed, channel_parameters, sums_about
from nbnorm.typing import Array

# Columns of a block: two of the widest panels, one where the blocks would be few.
PANELS = 2

# A block of the product is to be found in the L2 cache by its epilogue.
BLOCK_BYTES = 256 << 10
FEWEST_ROWS = 96

# Least depth of a slice, for products that have too few blocks otherwise.
SHORTEST_SLICE_DEPTH = 1024

# Slices that are added in float64: in each, float32 adds eight blocks of the depth, whose rounding
# errors are those of one. Their products take no more scratch than this.
SLICE_DEPTH = 4096
SLICES_BYTES = 8 << 20

# Values that are added together by one tile of `add_products`.
ADDED_VALUES = 1 << 14

# For so few rows, packing the weights costs more than multiplying by them.
FEW_ROWS = 8

NO_EPILOGUE = Epilogue()


# --- matrices -------------------------------------------------------------------------------


def matrix(array: Array) -> Matrix:
    """A two-dimensional array as a matrix: in place if either axis lies densely, else copied."""
    rows, columns = array.shape
    if array.flags.f_contiguous and not array.flags.c_contiguous:
        return Matrix(run_of(array.T), rows, columns, 1, rows)
    return Matrix(run_of(array), rows, columns, columns, 1)


def as_rows(x: Array) -> Matrix:
    """An array (..., c) as a matrix (n, c)."""
    return matrix(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]))


# --- blocks ---------------------------------------------------------------------------------


class GemmPlan(NamedTuple):
    """How a product runs: its blocks, and the partitions that its tiles are shared out to."""

    blocks: GemmBlocks
    partitions: int
    parallel: bool


@functools.lru_cache(maxsize=4096)
def gemm_plan(sizes: tuple[int, int, int], itemsize: int, sliced: bool) -> GemmPlan:
    """The blocks of a product (rows, columns, depth), whatever the number of threads.

    `sliced` is whether its depth may be cut.
    """
    rows, columns, depth = sizes
    panel = lane_count(itemsize)
    width = PANELS * panel
    if -(-columns // width) * -(-rows // FEWEST_ROWS) < BALANCED_TILES:
        width = panel
    width = min(width, columns)
    across = -(-columns // width)
    most = max(FEWEST_ROWS, BLOCK_BYTES // (width * itemsize))
    down = max(-(-rows // most), min(-(-BALANCED_TILES // across), rows // FEWEST_ROWS), 1)
    if down * across > BALANCED_TILES and down > 1:  # equal shares for two, four or eight threads
        while down * across % BALANCED_TILES:
            down += 1
    height = -(-rows // down)
    height = -(-height // TILE_ROWS) * TILE_ROWS
    down = -(-rows // height)
    slices = 1
    if sliced:
        slices = max(1, min(BALANCED_TILES // (down * across), depth // SHORTEST_SLICE_DEPTH))
    return GemmPlan(
        GemmBlocks(height, width, slices, min(DEPTH, depth)),
        _partitions(down * across * slices),
        parallel=rows * columns * depth >= PARALLEL_FROM_MACS,
    )


@functools.lru_cache(maxsize=1024)
def _deep_plan(sizes: tuple[int, int, int], itemsize: int, slices: int) -> GemmPlan:
    """Blocks for so many slices of the depth; large ones, for there are tiles enough."""
    rows, columns, depth = sizes
    most = max(rows, BALANCED_TILES * FEWEST_ROWS)
    blocks, _, parallel = gemm_plan((most, columns, depth), itemsize, False)
    height = min(2 * PACKED_ROWS, -(-rows // TILE_ROWS) * TILE_ROWS)
    blocks = blocks._replace(rows=height, slices=slices)
    tiles = -(-rows // height) * -(-columns // blocks.columns) * slices
    return GemmPlan(blocks, _partitions(tiles), parallel)


def _partitions(tiles: int) -> int:
    """Partitions of so many tiles: each has a workspace, which its tiles use in turn."""
    return min(tiles, 2 * BALANCED_TILES)


# --- products -------------------------------------------------------------------------------


def multiply(
    c: Array,
    a: Matrix,
    b: Matrix,
    epilogue: Epilogue = NO_EPILOGUE,
    activation: Any = None,
    dy: Array | None = None,
) -> None:
    """``c = a b`` and its epilogue, c flat: see kernels/gemm/gemm.py."""
    if c.size == 0:
        return
    if a.columns == 0:  # the kernel would write nothing: one step of zeros has the same product
        zeros = np.zeros(max(a.rows, b.columns), c.dtype)
        a, b = Matrix(zeros, a.rows, 1, 1, 1), Matrix(zeros, 1, b.columns, 1, 1)
    sizes = a.rows, b.columns, a.columns
    is_dot = a.column_stride == 1 and b.row_stride == 1
    if a.rows <= FEW_ROWS and is_dot and epilogue.sums is None and dy is None:
        _multiply_few(c, a, b, epilogue, activation)
        return
    # Gradients of weights have no epilogue: their products may be sliced.
    plan = gemm_plan(sizes, c.itemsize, epilogue.constants is None and epilogue.sums is None)
    slices = plan.blocks.slices
    if slices == 1:
        _multiply_blocks(c, a, b, plan, epilogue, activation, dy)
        return
    products = scratch.take("slices", (slices * c.size,), c.dtype)
    _multiply_blocks(products, a, b, plan)
    run(
        kernels.add_products, -(-c.size // ADDED_VALUES),
        plan.parallel, c, products, ADDED_VALUES,
    )  # fmt: skip


def _multiply_few(c: Array, a: Matrix, b: Matrix, epilogue: Epilogue, activation: Any) -> None:
    lanes = lane_count(c.itemsize)
    width = -(-b.columns // (BALANCED_TILES * lanes)) * lanes
    run(
        kernels.multiply_few, -(-b.columns // width),
        a.rows * b.columns * a.columns >= PARALLEL_FROM_UNPACKED_MACS, c, tuple(a), tuple(b),
        tuple(epilogue), activation, width,
    )  # fmt: skip


def _multiply_blocks(
    c: Array,
    a: Matrix,
    b: Matrix,
    plan: GemmPlan,
    epilogue: Epilogue = NO_EPILOGUE,
    activation: Any = None,
    dy: Array | None = None,
) -> None:
    blocks, partitions, parallel = plan
    panels = blocks.depth * whole_vectors(blocks.columns, c.itemsize)
    packed = 1 if a.column_stride == 1 else blocks.depth * PACKED_ROWS
    work = GemmWorkspace(
        scratch.take("panels", (partitions, panels), c.dtype),
        scratch.take("packed rows", (partitions, packed), c.dtype),
        scratch.take("offsets", (partitions, 1 + PACKED_ROWS), np.int64),
    )
    run(
        kernels.multiply, partitions, parallel, c, tuple(a), tuple(b),
        tuple(work), tuple(epilogue), dy, activation, tuple(blocks),
    )  # fmt: skip


def deep_product(a: Matrix, b: Matrix) -> Array:
    """``a b`` in float64, for a depth far beyond the rows of a and the columns of b.

    Products of slices of the depth, each short enough to lose nothing in the data's type, are
    added in float64.
    """
    depth = a.columns
    dtype = a.flat.dtype
    size = a.rows * b.columns
    result = np.zeros(size)
    most = SLICE_DEPTH * max(BALANCED_TILES, SLICES_BYTES // (size * dtype.itemsize))
    for first in range(0, depth, most):
        part = min(most, depth - first)
        slices = -(-part // SLICE_DEPTH)
        plan = _deep_plan((a.rows, b.columns, part), dtype.itemsize, slices)
        products = scratch.take("slices", (slices * size,), dtype)
        _multiply_blocks(
            products,
            a._replace(flat=a.flat[first * a.column_stride :], columns=part),
            b._replace(flat=b.flat[first * b.row_stride :], rows=part),
            plan,
        )
        result += products.reshape(slices, -1).sum(axis=0, dtype=np.float64)
    return result.reshape(a.rows, b.columns)


# --- epilogues ------------------------------------------------------------------------------


def sums_for(sizes: tuple[int, int, int], dtype: Any) -> Summed:
    """Scratch for the sums of the columns of a product (rows, columns, depth), block by block."""
    dtype = np.dtype(dtype)
    rows, columns, _ = sizes
    plan = gemm_plan(sizes, dtype.itemsize, False)
    return sums_about(_heights(rows, plan.blocks.rows), columns, dtype)


@functools.lru_cache(maxsize=1024)
def _heights(rows: int, height: int) -> Array:
    """Rows of each block."""
    heights = np.full(-(-rows // height), height)
    heights[-1] = rows - (len(heights) - 1) * height
    return heights


def given_constants(normalization: Normalization, bias: Array | None, dtype: Any) -> Array:
    """Head, scale and shift of given statistics; a bias moves the mean."""
    assert normalization.statistics is not None
    mean, var = normalization.statistics
    k = len(mean)
    statistics = np.zeros((4, k))
    statistics[0] = mean
    if bias is not None:
        statistics[0] -= bias
    statistics[1] = var
    folded = scratch.take("given", (3, whole_vectors(k, dtype.itemsize)), dtype)
    parameters = channel_parameters(normalization.gamma, normalization.beta, k)
    given = statistics[0], statistics[1]
    fold_given(folded, folded, statistics, given, parameters, normalization.eps, (1, 1, 0))
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
