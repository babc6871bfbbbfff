"""Copies of matrix blocks: rows, transposes, and the panels that the microkernel reads.

Where a matrix begins at ``array[at]``, its rows are a leading dimension `ld` apart.
"""

from __future__ import annotations

from nbnorm.jit.options import inlined
from nbnorm.jit.shuffles import transpose_square
from nbnorm.jit.simd import lanes, lanes_of_register, load_part, splat, store, store_part
from nbnorm.kernels.gemm.microkernel import panel_width


@inlined
def copy_row(to, to_at, source, at, count, padded):
    """Copies `count` numbers, and zeros up to `padded`."""
    width = lanes(to)
    zero = splat(to, 0.0)
    i = 0
    while i + width <= count:
        store(to, to_at + i, load_part(source, at + i, width, zero))
        i += width
    while i < padded:
        part = load_part(source, at + i, count - i, zero) if i < count else zero
        store_part(to, to_at + i, part, padded - i)
        i += width


@inlined
def transpose(to, to_at, to_ld, source, at, ld, rows, columns, padded):
    """``to[to_at + j to_ld + i] = source[at + i ld + j]``, zeros for i from rows to padded."""
    lanes = lanes_of_register(to)
    for i in range(0, padded, lanes):
        for j in range(0, columns, lanes):
            transpose_square(
                to, to_at + j * to_ld + i, to_ld, source, at + i * ld + j, ld, rows - i,
                columns - j, padded - i,
            )  # fmt: skip


@inlined
def pack_panels(to, source, at, row_stride, column_stride, depth, columns):
    """Packs ``b[p, j] = source[at + p row_stride + j column_stride]``; one of the strides is 1.

    Panel after panel, each of `depth` rows.
    """
    j = 0
    while j < columns:
        width = panel_width(to, columns - j)
        used = min(width, columns - j)
        start = j * depth
        if column_stride == 1:
            for p in range(depth):
                copy_row(to, start + p * width, source, at + p * row_stride + j, used, width)
        else:
            transpose(
                to, start, width, source, at + j * column_stride, column_stride, used, depth, width
            )
        j += width


@inlined
def pack_rows(to, to_ld, source, at, ld, depth, rows):
    """Packs ``a[i, p] = source[at + p ld + i]`` with its rows side by side, `to_ld` apart."""
    for p in range(depth):
        copy_row(to, p * to_ld, source, at + p * ld, rows, to_ld)
