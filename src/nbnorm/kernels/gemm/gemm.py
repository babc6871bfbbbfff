"""GEMM: products of matrices in blocks, and their epilogue while a block is in cache.

    c[i, j] = sum over p of a[i, p] b[p, j]

A tile is a block of rows by a block of columns, the whole depth. Step by step along the depth, it
packs its part of b and multiplies it with its rows of a, which are used as they lie in memory if
they lie along the depth, and packed otherwise. Then, with the block still in the L2 cache, comes
the epilogue:

- ``activation((c - head) scale + shift + residual)`` in place (`constants`): a given mean and
  variance of inference, and a bias, are folded into those three; or, where there is a `dy`,
  ``dy activation'((c - head) scale + shift + residual)``;
- the sums of each column that batch norm needs in training (`sums`).

Products that are deep and small (weight gradients) are cut along their depth too; each slice then
has a c of its own, and `add_products` adds them in order.

Assumptions, which launch/gemm.py sees to:

- c has no gaps between its rows, and overlaps no input.
- a has a stride of 1, from row to row or from column to column; so has b.
- The depth is at least 1: a product without depth would leave c as it was.
- A product in slices has no epilogue, for no slice is the whole of it.
- Blocks have whole tiles of rows and whole panels of columns, but for those at the edges of c.

Python hands named tuples over as plain ones, and they have their names again from a kernel's first
lines on: to encode the names of the fields, dispatch takes 0.4 us for each named tuple.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from nbnorm.jit.options import inlined, worker
from nbnorm.jit.parallel import parallel
from nbnorm.jit.simd import fma, lanes, load_part, splat, store_part, total
from nbnorm.kernels.batch_norm.gradients import apply_block
from nbnorm.kernels.batch_norm.moments import begin_sums
from nbnorm.kernels.batch_norm.normalize import normalize_block
from nbnorm.kernels.batch_norm.sums import sum_block
from nbnorm.kernels.gemm.epilogue import Epilogue
from nbnorm.kernels.gemm.microkernel import TILE_ROWS, Block, Panels, Rows, multiply_block
from nbnorm.kernels.gemm.packing import pack_panels, pack_rows

# Rows of a that are multiplied, or packed, before the next ones (BLIS's MC): with DEPTH numbers of
# float32 each, 96 KB.
PACKED_ROWS = 96


class Matrix(NamedTuple):
    """A matrix of any strides: [i, j] is ``flat[i row_stride + j column_stride]``."""

    flat: Any
    rows: Any
    columns: Any
    row_stride: Any
    column_stride: Any

    @property
    def transposed(self) -> Matrix:
        """The same memory, rows for columns."""
        return Matrix(self.flat, self.columns, self.rows, self.column_stride, self.row_stride)


class GemmWorkspace(NamedTuple):
    """Scratch for each of the partitions that a product's tiles are shared out to.

    panels       (partitions, blocks.depth * block's columns in whole panels) of the data's type
    packed_rows  (partitions, blocks.depth * PACKED_ROWS) of the data's type; (partitions, 1) where
                 a lies along the depth
    offsets      (partitions, 1 + PACKED_ROWS) of int64: a tap's, and those of the rows
    """

    panels: Any
    packed_rows: Any
    offsets: Any


class GemmBlocks(NamedTuple):
    """How a product is cut.

    rows, columns  of a block of c
    slices         of the whole depth, each with a c of its own
    depth          packed and multiplied at once (BLIS's KC)
    """

    rows: Any
    columns: Any
    slices: Any
    depth: Any


@inlined
def _multiply_block(c, a, b, panels, packed_rows, offsets, rows, columns, depths, step):
    """Writes the Block `c`: some rows, columns and depths (first, last) of a product.

    The depth is packed and multiplied `step` by step.
    """
    width = columns[1] - columns[0]
    in_place = a.column_stride == 1
    source = a.flat if in_place else packed_rows
    row_offsets, tap_offsets = offsets[1:], offsets[:1]
    for p in range(depths[0], depths[1], step):
        depth = min(step, depths[1] - p)
        start = p * b.row_stride + columns[0] * b.column_stride
        pack_panels(panels, b.flat, start, b.row_stride, b.column_stride, depth, width)
        for top in range(rows[0], rows[1], PACKED_ROWS):
            height = min(PACKED_ROWS, rows[1] - top)
            start = top * a.row_stride + p * a.column_stride
            apart = 1 if in_place else -(-height // TILE_ROWS) * TILE_ROWS
            if not in_place:
                pack_rows(packed_rows, apart, a.flat, start, a.column_stride, depth, height)
            tap_offsets[0] = start if in_place else 0
            for i in range(PACKED_ROWS):
                row_offsets[i] = min(i, height - 1) * (a.row_stride if in_place else 1)
            multiply_block(
                Block(c.array, c.offset + (top - rows[0]) * c.ld, c.ld),
                Rows(source, row_offsets, tap_offsets, apart), Panels(panels, 0, depth),
                height, width, p > depths[0],
            )  # fmt: skip


@inlined
def _apply_epilogue(c, dy, constants, residual, activation, rows, columns, ld):
    """The epilogue of a block but for its sums."""
    if dy is not None:
        apply_block(
            None, c, dy, c, residual, None, constants, rows, columns, ld, activation, True, False
        )
    elif constants is not None:
        normalize_block(c, c, residual, constants, rows, columns, ld, activation, False)


@inlined
def _take_sums(c, sums, pivots, block, rows, columns, ld):
    """The sums of a block's columns, about pivots chosen from them."""
    if sums is not None:
        begin_sums(sums[block], pivots[block], c, rows, columns, ld)
        sum_block(sums[block], None, c, None, None, pivots[block], rows, columns, ld, None)


@worker
def multiply(lo, hi, c, a, b, work, epilogue, dy, activation, blocks):
    """A product by partitions of its tiles; a tile is a block of c in one slice of the depth.

    lo, hi      partitions: of t tiles, partition p has those from ``p t // partitions`` on
    c           (slices * rows * columns,), written
    a, b        `Matrix`
    work        `GemmWorkspace`
    epilogue    `Epilogue`, whose sums and pivots are those of each block of rows
    dy          (rows * columns,): c becomes dy times the activation's derivative, for which
                constants has 7 rows; or None
    activation  None or a tuple of activations.py
    blocks      `GemmBlocks`
    """
    a, b, work = Matrix(*a), Matrix(*b), GemmWorkspace(*work)
    epilogue, blocks = Epilogue(*epilogue), GemmBlocks(*blocks)
    ld = b.columns
    partitions = work.offsets.shape[0]
    across = -(-b.columns // blocks.columns)
    down = -(-a.rows // blocks.rows)
    tiles = across * down * blocks.slices
    for partition in range(lo, hi):
        for tile in range(partition * tiles // partitions, (partition + 1) * tiles // partitions):
            slice_ = tile // (across * down)
            block = tile // across - slice_ * down
            i = block * blocks.rows
            j = (tile % across) * blocks.columns
            rows = (i, min(i + blocks.rows, a.rows))
            columns = (j, min(j + blocks.columns, b.columns))
            depths = (
                a.columns * slice_ // blocks.slices, a.columns * (slice_ + 1) // blocks.slices,
            )  # fmt: skip
            _multiply_block(
                Block(c, (slice_ * a.rows + i) * ld + j, ld), a, b, work.panels[partition],
                work.packed_rows[partition], work.offsets[partition], rows, columns, depths,
                blocks.depth,
            )  # fmt: skip
            _apply_epilogue(
                c, dy, epilogue.constants, epilogue.residual, activation, rows, columns, ld
            )
            _take_sums(c, epilogue.sums, epilogue.pivots, block, rows, columns, ld)


multiply_parallel = parallel(multiply)


# Rows of a whose products with a column of b are summed at once.
DOT_ROWS = 4


@worker
def multiply_few(lo, hi, c, a, b, epilogue, activation, width):
    """A product with so few rows of a that packing b would cost more than multiplying by it.

    Every column of b is read once.

    lo, hi      tiles: tile t is the columns t width to (t + 1) width - 1
    c           (rows * columns,), written
    a, b        `Matrix`; the rows of a and the columns of b lie along the depth
    epilogue    `Epilogue` without sums
    activation  None or a tuple of activations.py
    width       columns of a tile
    """
    a, b, epilogue = Matrix(*a), Matrix(*b), Epilogue(*epilogue)
    n, depth, ld = a.rows, a.columns, b.columns
    lanes_ = lanes(a.flat)
    zero = splat(a.flat, 0.0)
    for tile in range(lo, hi):
        first = tile * width
        last = min(first + width, ld)
        for top in range(0, n, DOT_ROWS):
            # Rows beyond the last one are worked out from it again, and not written.
            a0 = top * a.row_stride
            a1 = min(top + 1, n - 1) * a.row_stride
            a2 = min(top + 2, n - 1) * a.row_stride
            a3 = min(top + 3, n - 1) * a.row_stride
            for j in range(first, last):
                start = j * b.column_stride
                s0 = s1 = s2 = s3 = zero
                for p in range(0, depth, lanes_):
                    count = min(lanes_, depth - p)
                    column = load_part(b.flat, start + p, count, zero)
                    s0 = fma(column, load_part(a.flat, a0 + p, count, zero), s0)
                    s1 = fma(column, load_part(a.flat, a1 + p, count, zero), s1)
                    s2 = fma(column, load_part(a.flat, a2 + p, count, zero), s2)
                    s3 = fma(column, load_part(a.flat, a3 + p, count, zero), s3)
                c[top * ld + j] = total(s0)
                if top + 1 < n:
                    c[(top + 1) * ld + j] = total(s1)
                if top + 2 < n:
                    c[(top + 2) * ld + j] = total(s2)
                if top + 3 < n:
                    c[(top + 3) * ld + j] = total(s3)
        _apply_epilogue(
            c, None, epilogue.constants, epilogue.residual, activation, (0, n), (first, last), ld
        )


multiply_few_parallel = parallel(multiply_few)


@worker
def add_products(lo, hi, c, slices, size):
    """Adds the products (slices, i j) of all slices of the depth, in order.

    c       (i j,), written; tile t is its elements t size to (t + 1) size - 1
    slices  (slices i j,)
    """
    width = lanes(c)
    zero = splat(c, 0.0)
    for first in range(lo * size, min(hi * size, c.size), width):
        count = min(width, c.size - first)
        added = zero
        for at in range(first, slices.size, c.size):
            added = added + load_part(slices, at, count, zero)
        store_part(c, first, added, count)


add_products_parallel = parallel(add_products)
