"""The register-blocked multiply under dense layers and convolutions.

`multiply_tile` works out a tile of a matrix product, `TILE_ROWS` rows by one *panel* of columns,
with all its sums in registers:

    c[i, j] = sum over p of a[i, p] b[p, j]

A panel is one, two or four registers wide. Its part of b has been *packed*: row after row, without
gaps, zeros where the panel is wider than the matrix. a is used as it lies in memory, one number at
a time in all lanes of a register: row i begins at ``rows[i]``, wherever that is, and its depth is a
number of *taps*, each a run of numbers ``step`` apart. For a dense layer that is one tap; for a
convolution of channels-last images a row is a pixel, a tap one place of the window.

Six rows by four registers are 24 sums, four registers of b and one of a: 244 GFLOP/s on one Zen 5
core of 3.8 GHz, which is all its two multipliers can do, for any depth from 32 on. A panel of two
registers is as fast, and there two chains take turns in each sum; of one register, four, as six
additions at a time are too few to hide an fma's latency: 185 GFLOP/s, with single chains 155. The
shorter chains are also more exact: a third of the error for a depth of 512.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

from nbnorm.jit import llvm, target
from nbnorm.jit.options import inlined
from nbnorm.jit.simd import checked_slice, lanes_of_register, register_lanes
from nbnorm.jit.vectors import twin

TILE_ROWS = 6

# Depth that is packed and multiplied at once: 128 columns of it are an eighth of the second cache.
# A float32 sum is a chain no longer than that, so its error is that of OpenBLAS: 2.4e-6 of the
# product's rms at most for (1024, 1024, 1024), and 3.8e-6 with twice the depth.
DEPTH = 256


def widest_panel() -> int:
    """Registers of the widest panel: with 16, six rows by two leave room for b and a."""
    return 4 if target.register_count() == 32 else 2


def _multiply(
    registers, c, c_at, c_step, a, rows, rows_at, taps, step, b, b_at, depth, height, columns, more
):  # fmt: skip
    width = registers * register_lanes(c.itemsize)
    tile = np.zeros((TILE_ROWS, width), c.dtype)
    within = np.arange(depth) * step
    first = checked_slice(rows, rows_at, TILE_ROWS)[:, np.newaxis]
    for i, tap in enumerate(taps):
        places = first + tap + within
        if places.min(initial=0) < 0:
            raise IndexError(f"a number at {places.min()}")
        panel = checked_slice(b, b_at + i * depth * width, depth * width).reshape(depth, width)
        tile += a[places] @ panel
    for i in range(min(height, TILE_ROWS)):
        line = checked_slice(c, c_at + i * c_step, min(columns, width))
        line[...] = line + tile[i, : line.size] if more else tile[i, : line.size]


def _declare_multiply(chosen: int | None) -> Any:
    """`multiply_tile` for panels of so many registers, None being the most."""

    def reference(
        c, c_at, c_step, a, rows, rows_at, taps, step, b, b_at, depth, height, columns, more
    ):  # fmt: skip
        _multiply(
            chosen or widest_panel(), c, c_at, c_step, a, rows, rows_at, taps, step, b, b_at,
            depth, height, columns, more,
        )  # fmt: skip

    @twin(reference)
    def multiply(
        typing_context, c, c_at, c_step, a, rows, rows_at, taps, step, b, b_at, depth, height,
        columns, more,
    ):  # fmt: skip
        """One tile; see `multiply_tile`."""
        lanes = register_lanes(c.dtype.bitwidth // 8)
        registers = chosen or widest_panel()

        def generate(context, builder, sig, args):
            vector = ir.VectorType(context.get_value_type(c.dtype), lanes)
            tile = _Tile(context, builder, sig, args, vector, registers)
            tile.multiply()
            with builder.if_then(args[-1]):
                tile.move(tile.add)
            tile.move(tile.store)
            return context.get_dummy_value()

        i = types.intp
        signature = types.none(c, i, i, a, rows, i, taps, i, b, i, i, i, i, types.boolean)
        return signature, generate

    return multiply


class _Tile:
    """The code of one tile: its sums in registers, its place in c.

    A narrow panel leaves registers for several chains of each sum, which take turns.
    """

    def __init__(self, context, builder, sig, args, vector, registers):
        self.builder = builder
        self.vector = vector
        self.chains = [
            [
                [cgutils.alloca_once(builder, vector) for _ in range(registers)]
                for _ in range(TILE_ROWS)
            ]
            for _ in range(widest_panel() // registers)
        ]
        self.sums = self.chains[0]
        self.zero = ir.Constant(vector, None)
        array = {
            i: context.make_array(sig.args[i])(context, builder, args[i]) for i in (0, 3, 4, 6, 8)
        }
        _, c_at, self.c_step, _, _, rows_at, _, self.step, _, b_at, self.depth = args[:11]
        self.height, self.columns = args[11:13]
        self.word = c_at.type
        self.c = builder.gep(array[0].data, [c_at])
        self.a = array[3].data
        self.rows = builder.gep(array[4].data, [rows_at])
        self.taps = array[6].data
        self.tap_count = builder.extract_value(array[6].shape, 0)
        self.b = builder.gep(array[8].data, [b_at])

    @property
    def lanes(self):
        return self.vector.count

    @property
    def registers(self):
        return len(self.sums[0])

    def each(self, action):
        for row in range(TILE_ROWS):
            for r in range(self.registers):
                action(row, r)

    def place(self, row, r):
        offset = self.builder.mul(self.c_step, self.word(row))
        offset = self.builder.add(offset, self.word(r * self.lanes))
        return llvm.vector_at(self.builder, self.c, offset, self.vector)

    def move(self, one):
        """Moves the part of the tile that is in c: without masks where that is all of it."""
        builder = self.builder
        whole = builder.and_(
            builder.icmp_signed(">=", self.height, self.word(TILE_ROWS)),
            builder.icmp_signed(">=", self.columns, self.word(self.registers * self.lanes)),
        )
        with builder.if_else(whole) as (unmasked, masked):
            with unmasked:
                self.each(lambda row, r: one(row, r, None))
            with masked:
                masks = []
                for r in range(self.registers):
                    left = builder.sub(self.columns, self.word(r * self.lanes))
                    masks.append(llvm.first_lanes(builder, left, self.vector))
                for row in range(TILE_ROWS):
                    with builder.if_then(builder.icmp_signed(">", self.height, self.word(row))):
                        for r in range(self.registers):
                            one(row, r, masks[r])

    def add(self, row, r, mask):
        builder, place = self.builder, self.place(row, r)
        if mask is None:
            value = llvm.load(builder, place, self.vector)
        else:
            value = llvm.masked_load(builder, place, mask, self.zero)
        total = self.sums[row][r]
        builder.store(builder.fadd(value, builder.load(total)), total)

    def store(self, row, r, mask):
        builder, place = self.builder, self.place(row, r)
        value = builder.load(self.sums[row][r])
        if mask is None:
            llvm.store(builder, value, place)
        else:
            llvm.masked_store(builder, value, place, mask)

    def multiply(self):
        """Sums the products of all taps."""
        builder, word = self.builder, self.word
        for total in _flat(self.chains):
            builder.store(self.zero, total)
        starts = [
            builder.gep(self.a, [builder.load(builder.gep(self.rows, [word(row)]))])
            for row in range(TILE_ROWS)
        ]
        length = builder.mul(self.depth, word(self.registers * self.lanes))
        turns = self.turns()
        with cgutils.for_range(builder, self.tap_count) as taps:
            tap = builder.load(builder.gep(self.taps, [taps.index]))
            lines = [builder.gep(start, [tap]) for start in starts]
            panel = builder.gep(self.b, [builder.mul(taps.index, length)])
            done = word(0)
            if turns is not None:
                chains = len(self.chains)
                with cgutils.for_range(builder, turns) as loop:
                    for chain, sums in enumerate(self.chains):
                        p = builder.add(builder.mul(loop.index, word(chains)), word(chain))
                        self.add_products(sums, lines, panel, p, p)
                done = builder.mul(turns, word(chains))
            with cgutils.for_range(builder, self.depth, done) as loop:
                along = builder.mul(loop.index, self.step)
                self.add_products(self.sums, lines, panel, loop.index, along)
        while len(self.chains) > 1:
            half = len(self.chains) // 2
            first, second = self.chains[:half], self.chains[half:]
            for total, other in zip(_flat(first), _flat(second), strict=True):
                builder.store(builder.fadd(builder.load(total), builder.load(other)), total)
            self.chains = first

    def turns(self):
        """How often all chains take turns along a tap, or None if there is a single one.

        Not where a's numbers lie apart: six rows of several chains would be more addresses than
        there are registers for.
        """
        builder, word = self.builder, self.word
        if len(self.chains) == 1:
            return None
        adjacent = builder.icmp_unsigned("==", self.step, word(1))
        return builder.select(adjacent, builder.udiv(self.depth, word(len(self.chains))), word(0))

    def add_products(self, sums, lines, panel, p, along):
        """Adds the products at depth p of a tap, which is at `along` in the lines of a."""
        builder, word = self.builder, self.word
        line = builder.gep(panel, [builder.mul(p, word(self.registers * self.lanes))])
        columns = []
        for r in range(self.registers):
            place = llvm.vector_at(builder, line, word(r * self.lanes), self.vector)
            columns.append(llvm.load(builder, place, self.vector))
        for row in range(TILE_ROWS):
            number = builder.load(builder.gep(lines[row], [along]))
            number = llvm.broadcast(builder, number, self.vector)
            for r in range(self.registers):
                total = sums[row][r]
                builder.store(llvm.fma(builder, number, columns[r], builder.load(total)), total)


def _flat(chains):
    return [total for sums in chains for row in sums for total in row]


_multiply_one = _declare_multiply(1)
_multiply_two = _declare_multiply(2)
_multiply_widest = _declare_multiply(None)


def _registers_of_panel(array: Any) -> int:
    return widest_panel()


@twin(_registers_of_panel)
def registers_of_panel(typing_context, array):
    """Registers of the widest panel, a constant in compiled code."""

    def generate(context, builder, sig, args):
        return llvm.INTP(widest_panel())

    return types.intp(array), generate


def next_panel(left: int, lanes: int, widest: int) -> int:
    """Columns of the next panel where `left` are left: the widest, then one that wastes little."""
    if left > 3 * lanes or (left > 2 * lanes and widest == 2):
        return widest * lanes
    return 2 * lanes if left > lanes else lanes


def panel_count(columns: int, itemsize: int) -> int:
    """Panels of so many columns."""
    count = 0
    while columns > 0:
        columns -= next_panel(columns, register_lanes(itemsize), widest_panel())
        count += 1
    return count


_next_panel = inlined(next_panel)


@inlined
def panel_width(array, left):
    """`next_panel` of the array's type."""
    return _next_panel(left, lanes_of_register(array), registers_of_panel(array))


@inlined
def padded_width(array, columns):
    """Columns of all panels together."""
    width = 0
    while width < columns:
        width += panel_width(array, columns - width)
    return width


@inlined
def multiply_tile(
    c, c_at, c_step, a, rows, rows_at, taps, step, b, b_at, depth, width, height, columns, more
):
    """A tile of a product: `TILE_ROWS` rows by a panel `width` wide, added to c if `more`.

    c        array; row i < height, column j < columns is written at ``c_at + i c_step + j``
    a        array; row i, tap t, depth p lies at ``rows[rows_at + i] + taps[t] + p step``; rows of
             the tile beyond its height are read too
    b        array; tap t, depth p, column j lies at ``b_at + (t depth + p) width + j``
    depth    numbers in a tap
    height   rows of the tile that are in c, TILE_ROWS or more meaning all
    columns  columns of the tile that are in c, width or more meaning all
    """
    lanes = lanes_of_register(c)
    if width == registers_of_panel(c) * lanes:
        _multiply_widest(
            c, c_at, c_step, a, rows, rows_at, taps, step, b, b_at, depth, height, columns, more
        )
    elif width == 2 * lanes:
        _multiply_two(
            c, c_at, c_step, a, rows, rows_at, taps, step, b, b_at, depth, height, columns, more
        )
    else:
        _multiply_one(
            c, c_at, c_step, a, rows, rows_at, taps, step, b, b_at, depth, height, columns, more
        )


@inlined
def multiply_block(c, c_at, c_step, a, rows, taps, step, b, b_at, depth, height, columns, more):
    """A block of a product, its part of b packed panel after panel: tile after tile.

    The arguments are those of `multiply_tile`; `rows` has entries for whole tiles.
    """
    for i in range(0, height, TILE_ROWS):
        j = 0
        while j < columns:
            width = panel_width(c, columns - j)
            multiply_tile(
                c, c_at + i * c_step + j, c_step, a, rows, i, taps, step, b,
                b_at + j * depth * taps.size, depth, width, height - i, columns - j, more,
            )  # fmt: skip
            j += width
