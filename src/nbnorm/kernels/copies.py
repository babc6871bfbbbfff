"""Copies of rows and of blocks, which all families of kernels make."""

from __future__ import annotations

from nbnorm.jit.options import inlined
from nbnorm.jit.shuffles import transpose_square
from nbnorm.jit.simd import lanes, lanes_of_register, load_part, splat, store, store_part


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
    """``to[to_at + j to_ld + i] = source[at + i ld + j]``, zeros for i from rows to padded.

    A matrix lies row by row, `ld` apart: its leading dimension.
    """
    lanes = lanes_of_register(to)
    for i in range(0, padded, lanes):
        for j in range(0, columns, lanes):
            transpose_square(
                to, to_at + j * to_ld + i, to_ld, source, at + i * ld + j, ld, rows - i,
                columns - j, padded - i,
            )  # fmt: skip
