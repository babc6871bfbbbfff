"""The parts of matrices in the order in which the microkernel reads them: see microkernel.py."""

from __future__ import annotations

from nbnorm.jit.options import inlined
from nbnorm.kernels.copies import copy_row, transpose
from nbnorm.kernels.gemm.microkernel import panel_width


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
    """Packs ``a[i, p] = source[at + p ld + i]``: number p of every row, side by side."""
    for p in range(depth):
        copy_row(to, p * to_ld, source, at + p * ld, rows, to_ld)
