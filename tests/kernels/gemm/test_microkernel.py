"""Tiles of the multiply, and panels: exact on small integers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from nbnorm.jit.simd import register_lanes
from nbnorm.kernels.gemm import microkernel
from nbnorm.kernels.gemm.microkernel import (
    TILE_ROWS,
    Block,
    Panels,
    Rows,
    multiply_block,
    multiply_tile,
    padded_width,
    widest_panel,
)
from tests.kernels.views import DTYPES, integers_in, panel_widths

REGISTERS = sorted({1, 2, widest_panel()})

each_type = pytest.mark.parametrize("dtype", DTYPES)


def lanes_of(dtype):
    return register_lanes(np.dtype(dtype).itemsize)


def scattered(a, taps, step):
    """The matrix (rows, taps * depth) with its numbers among NaN, and where its rows begin.

    Rows lie in an order of their own, with gaps; a tap is a run of numbers `step` apart.
    """
    rows, depth = len(a), a.shape[1] // len(taps)
    length = int(np.max(taps)) + (depth - 1) * step + 1
    starts = 3 + np.random.default_rng(5).permutation(rows) * (length + 2)
    flat = np.full(starts.max() + length, np.nan, a.dtype)
    for start, row in zip(starts, a.reshape(rows, len(taps), depth), strict=True):
        for tap, run in zip(taps, row, strict=True):
            flat[start + tap : start + tap + (depth - 1) * step + 1 : step] = run
    return flat, starts


def packed(b, taps, widths):
    """B in panels of so many columns: panel by panel, tap by tap; zeros beyond its columns."""
    wide = np.zeros((len(b), sum(widths)), b.dtype)
    wide[:, : b.shape[1]] = b
    panels = np.split(wide, np.cumsum(widths)[:-1], axis=1)
    return np.concatenate([panel.reshape(-1) for panel in panels])


# (taps, step, depth): their numbers may interleave.
ALONG = [
    (np.array([0]), 1, 1),
    (np.array([0]), 5, 7),
    (np.array([0, 9, 4]), 1, 4),
    (np.array([1, 0]), 2, 3),
]


@each_type
@pytest.mark.parametrize("registers", REGISTERS)
@pytest.mark.parametrize("more", [False, True])
def test_a_tile_is_the_product_and_nothing_else_is_written(more, registers, dtype):
    lanes = lanes_of(dtype)
    width = registers * lanes
    heights = (1, 2, TILE_ROWS - 1, TILE_ROWS, TILE_ROWS + 3)
    # One column beyond each register's edge and one before it, and more than there are.
    edges = {
        1,
        width,
        width + 5,
        2**32,
        *(lanes * r + d for r in range(1, registers) for d in (-1, 0, 1)),
    }
    for (taps, step, depth), height, columns in itertools.product(ALONG, heights, sorted(edges)):
        used, written = min(columns, width), min(height, TILE_ROWS)
        a = integers_in((TILE_ROWS, taps.size * depth), dtype)
        b = integers_in((taps.size * depth, width), dtype, seed=1)
        source, rows = scattered(a, taps, step)
        rows = np.concatenate([[2**40], rows])  # its first entry is not to be read
        gap = np.full(3, np.nan, dtype)  # in front of the panel
        panel = np.concatenate([gap, b.reshape(-1), gap])
        before = np.full((TILE_ROWS + 2, width + 4), np.nan, dtype)
        place = before[1 : 1 + written, 2 : 2 + used]
        place[...] = integers_in(place.shape, dtype, seed=2) if more else np.nan
        wanted = before.copy()
        product = (a @ b)[:written, :used]
        wanted[1 : 1 + written, 2 : 2 + used] = product + place if more else product
        c = before.reshape(-1)
        multiply_tile(
            Block(c, before.shape[1] + 2, before.shape[1]), Rows(source, rows, taps, step), 1,
            Panels(panel, 3, depth), width, height, columns, more,
        )  # fmt: skip
        np.testing.assert_array_equal(before, wanted)


@each_type
def test_rows_beyond_the_height_do_not_matter(dtype):
    a, b = integers_in((TILE_ROWS, 4), dtype), integers_in((4, lanes_of(dtype)), dtype, seed=1)
    wanted = (a @ b)[:2]
    a[2:] = np.nan
    source, rows = scattered(a, np.array([0]), 1)
    c = np.empty((2, b.shape[1]), dtype)
    multiply_tile(
        Block(c.reshape(-1), 0, b.shape[1]), Rows(source, rows, np.array([0]), 1), 0,
        Panels(b.reshape(-1), 0, 4), b.shape[1], 2, b.shape[1], False,
    )  # fmt: skip
    np.testing.assert_array_equal(c, wanted)


@each_type
@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize("height", [1, 6, 13])
def test_a_block_is_made_of_tiles(height, more, dtype):
    lanes = lanes_of(dtype)
    taps, step, depth = np.array([0, 7, 2]), 1, 2
    whole = -(-height // TILE_ROWS) * TILE_ROWS
    for columns in (1, lanes, 2 * lanes + 1, 3 * lanes, 5 * lanes - 1, 8 * lanes + 3):
        a = integers_in((height, taps.size * depth), dtype)
        b = integers_in((taps.size * depth, columns), dtype, seed=1)
        source, rows = scattered(a, taps, step)
        rows = np.concatenate([rows, np.repeat(rows[-1:], whole - height)])
        block = np.full((height + 2, columns + 2), np.nan, dtype)
        inside = block[1:-1, 1:-1]
        inside[...] = integers_in(inside.shape, dtype, seed=2) if more else np.nan
        wanted = block.copy()
        wanted[1:-1, 1:-1] = a @ b + inside if more else a @ b
        panels = packed(b, taps, panel_widths(columns, dtype))
        multiply_block(
            Block(block.reshape(-1), columns + 3, columns + 2), Rows(source, rows, taps, step),
            Panels(panels, 0, depth), height, columns, more,
        )  # fmt: skip
        np.testing.assert_array_equal(block, wanted)


@each_type
def test_panels_waste_less_than_a_register(dtype):
    lanes = lanes_of(dtype)
    for columns in range(1, 9 * lanes + 2):
        widths = panel_widths(columns, dtype)
        assert set(widths) <= {registers * lanes for registers in REGISTERS}
        assert widths == sorted(widths, reverse=True)
        assert sum(widths) == padded_width(np.empty(0, dtype), columns)
        assert sum(widths) - columns < lanes


# --- twins ------------------------------------------------------------------------------------


@each_type
def test_the_multiply_s_twin_raises_beyond_an_array(dtype):
    width = lanes_of(dtype)
    taps = np.array([0, 2])
    a, b, c = np.ones(13, dtype), np.ones(2 * 2 * width, dtype), np.ones(6 * width, dtype)
    block = Block(c, 0, width)
    rows = Rows(a, np.arange(7) + 2, taps, 1)
    panel = Panels(b, 0, 2)
    arguments = {
        "c": block, "a": rows, "first": 1, "b": panel, "height": 6, "columns": width, "more": False,
    }  # fmt: skip
    microkernel._multiply(1, **arguments)
    for change in (
        {"c": block._replace(offset=1)}, {"c": block._replace(offset=-1)},
        {"c": block._replace(ld=width + 1)}, {"c": block._replace(array=c[:-1])},
        {"a": rows._replace(array=a[:-2])}, {"a": rows._replace(row_offsets=np.arange(7) - 9)},
        {"a": rows._replace(tap_offsets=np.array([0, 7]))}, {"a": rows._replace(step=-9)},
        {"first": 2}, {"first": -1}, {"b": panel._replace(offset=1)},
        {"b": panel._replace(offset=-1)}, {"b": panel._replace(depth=3)},
    ):  # fmt: skip
        with pytest.raises(IndexError):
            microkernel._multiply(1, **arguments | change)
