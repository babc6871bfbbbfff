"""Products of matrices in blocks, with what follows them done while a block is in cache.

    c[i, j] = sum over p of a[i, p] b[p, j]

A tile is a block of rows by a block of columns, the whole depth. Step by step along the depth, it
packs its part of b and multiplies it with its rows of a, which are used as they lie in memory if
they lie along the depth, and packed otherwise. Then, with the block still in the second cache:

- ``activation((c - head) scale + shift + residual)`` in place (`constants`): a given mean and
  variance of inference, and a bias, are folded into those three; or, where there is a `dy`,
  ``dy activation'((c - head) scale + shift + residual)``;
- the sums of each column that batch norm needs in training (`sums`).

Products that are deep and small (weight gradients) are cut along their depth too; each slice then
has a c of its own, and `add_products` adds them in order.
"""

from __future__ import annotations

from nbnorm.jit.options import driver, inlined, prange, worker
from nbnorm.jit.simd import fma, lanes, load_part, splat, store_part, total
from nbnorm.kernels.batch_norm.gradients import apply_block
from nbnorm.kernels.batch_norm.moments import begin_sums
from nbnorm.kernels.batch_norm.normalize import normalize_block
from nbnorm.kernels.batch_norm.sums import sum_block
from nbnorm.kernels.gemm.microkernel import TILE_ROWS, Block, Panels, Rows, multiply_block
from nbnorm.kernels.gemm.packing import pack_panels, pack_rows

# Rows of a that are multiplied, or packed, before the next ones: with 512 numbers each, 192 KB.
PACKED_ROWS = 96


@inlined
def _multiply_part(c, c_at, c_step, a, b, panels, lines, table, rows, columns, depths, steps):
    """Rows (first, last), columns and depths of a product into c, whose first element is at c_at.

    `steps` = (a's from row to row, a's along the depth, b's along the depth, b's from column to
    column, depth packed at once).
    """
    a_row, a_depth, b_depth, b_column, most = steps
    width = columns[1] - columns[0]
    along = a_depth == 1
    source = a if along else lines
    for p in range(depths[0], depths[1], most):
        depth = min(most, depths[1] - p)
        pack_panels(panels, b, p * b_depth + columns[0] * b_column, b_depth, b_column, depth, width)
        for top in range(rows[0], rows[1], PACKED_ROWS):
            height = min(PACKED_ROWS, rows[1] - top)
            at = top * a_row + p * a_depth
            step = 1 if along else -(-height // TILE_ROWS) * TILE_ROWS
            if not along:
                pack_rows(lines, step, a, at, a_depth, depth, height)
            table[0] = at if along else 0
            for i in range(PACKED_ROWS):
                table[1 + i] = min(i, height - 1) * (a_row if along else 1)
            multiply_block(
                Block(c, c_at + (top - rows[0]) * c_step, c_step),
                Rows(source, table[1:], table[:1], step), Panels(panels, 0, depth), height, width,
                p > depths[0],
            )  # fmt: skip


@worker
def multiply(
    lo, hi, c, a, b, panels, lines, tables, constants, dy, residual, activation, sums, pivots,
    sizes, steps, blocks, tiles,
):  # fmt: skip
    """A product by slots; slot t is the tiles t tiles // slots to (t + 1) tiles // slots - 1.

    lo, hi      slots
    c           (slices i j,), written
    a, b        flat arrays, read where `steps` says
    panels      (slots, depth block * padded column block) of the data's type, scratch
    lines       (slots, depth block * PACKED_ROWS), scratch if a does not lie along the depth
    tables      (slots, 1 + PACKED_ROWS) of int64, scratch
    constants   (>= 3, stride): head, scale and shift, 7 rows where there is a dy; or None
    dy          (i j,): turns the product, with its constants, into a gradient; or None
    residual    (i j,) or None
    activation  None or a tuple of activations.py
    sums        (row blocks, 2, stride) float64, written, or None: sum(v) and sum(v^2) of each
                column in each block of rows, where v = c - pivot
    pivots      (row blocks, 3, stride) of the data's type, written in row HEAD, or None
    sizes       (i, j, p)
    steps       from a[i] to a[i + 1], a[, p] to a[, p + 1], b[p] to b[p + 1], b[, j] to b[, j + 1]
                and the depth of a block
    blocks      (rows in a block, columns in a block, slices of the depth)
    tiles       blocks of rows * blocks of columns * slices
    """
    n, columns, depth = sizes
    height, width, slices = blocks
    slots = tables.shape[0]
    across = -(-columns // width)
    down = -(-n // height)
    for slot in range(lo, hi):
        for tile in range(slot * tiles // slots, (slot + 1) * tiles // slots):
            slice_ = tile // (across * down)
            block = tile // across - slice_ * down
            j = (tile % across) * width
            i = block * height
            rows = (i, min(i + height, n))
            taken = (j, min(j + width, columns))
            depths = (depth * slice_ // slices, depth * (slice_ + 1) // slices)
            _multiply_part(
                c, (slice_ * n + i) * columns + j, columns, a, b, panels[slot], lines[slot],
                tables[slot], rows, taken, depths, steps,
            )  # fmt: skip
            if dy is not None:
                apply_block(
                    None, c, dy, c, residual, constants, rows, taken, columns, activation, True,
                    False,
                )  # fmt: skip
            elif constants is not None:
                normalize_block(c, c, residual, constants, rows, taken, columns, activation, False)
            if sums is not None:
                begin_sums(sums[block], pivots[block], c, rows, taken, columns)
                sum_block(sums[block], None, c, None, pivots[block], rows, taken, columns, None)


@driver
def multiply_parallel(
    slots, c, a, b, panels, lines, tables, constants, dy, residual, activation, sums, pivots,
    sizes, steps, blocks, tiles,
):  # fmt: skip
    """`multiply` over all slots."""
    for slot in prange(slots):
        multiply(
            slot, slot + 1, c, a, b, panels, lines, tables, constants, dy, residual, activation,
            sums, pivots, sizes, steps, blocks, tiles,
        )  # fmt: skip


# Rows of a whose products with a row of b are summed at once.
DOT_ROWS = 4


@worker
def multiply_few(lo, hi, c, a, b, constants, residual, activation, sizes, width):
    """``c = a b^T`` for so few rows of a that packing b would cost more than multiplying by it.

    Both lie along the depth: a is (i p,), b is (j p,), and every row of b is read once. Tile t is
    the columns t width to (t + 1) width - 1. The other arguments are those of `multiply`.
    """
    n, columns, depth = sizes
    lanes_ = lanes(a)
    zero = splat(a, 0.0)
    for tile in range(lo, hi):
        first = tile * width
        last = min(first + width, columns)
        for top in range(0, n, DOT_ROWS):
            # Rows beyond the last one are worked out from it again, and not written.
            a0 = top * depth
            a1 = min(top + 1, n - 1) * depth
            a2 = min(top + 2, n - 1) * depth
            a3 = min(top + 3, n - 1) * depth
            for j in range(first, last):
                at = j * depth
                s0 = s1 = s2 = s3 = zero
                for p in range(0, depth, lanes_):
                    count = min(lanes_, depth - p)
                    row = load_part(b, at + p, count, zero)
                    s0 = fma(row, load_part(a, a0 + p, count, zero), s0)
                    s1 = fma(row, load_part(a, a1 + p, count, zero), s1)
                    s2 = fma(row, load_part(a, a2 + p, count, zero), s2)
                    s3 = fma(row, load_part(a, a3 + p, count, zero), s3)
                c[top * columns + j] = total(s0)
                if top + 1 < n:
                    c[(top + 1) * columns + j] = total(s1)
                if top + 2 < n:
                    c[(top + 2) * columns + j] = total(s2)
                if top + 3 < n:
                    c[(top + 3) * columns + j] = total(s3)
        if constants is not None:
            normalize_block(
                c, c, residual, constants, (0, n), (first, last), columns, activation, False
            )


@driver
def multiply_few_parallel(tiles, c, a, b, constants, residual, activation, sizes, width):
    """`multiply_few` over all tiles."""
    for tile in prange(tiles):
        multiply_few(tile, tile + 1, c, a, b, constants, residual, activation, sizes, width)


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


@driver
def add_products_parallel(tiles, c, slices, size):
    """`add_products` over all tiles."""
    for tile in prange(tiles):
        add_products(tile, tile + 1, c, slices, size)
