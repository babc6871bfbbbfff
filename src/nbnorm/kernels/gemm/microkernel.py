"""The microkernel of GEMM, the register-blocked multiply under dense layers and convolutions.

`multiply_tile` works out a tile of a matrix product, `TILE_ROWS` rows (BLIS's MR) by one
*micropanel* of columns (NR of them), with all its sums in registers:

    c[i, j] = sum over p of a[i, p] b[p, j]

A panel is one, two or four registers wide. Its part of b has been *packed*: row after row, without
gaps, zeros where the panel is wider than the matrix. a is used as it lies in memory, one number at
a time in all lanes of a register: row i begins at ``row_offsets[i]``, wherever that is, and its
depth is a number of *taps*, each a run of numbers ``step`` apart. For a dense layer that is one
tap; for a convolution of channels-last images a row is a pixel, a tap one place of the window. (It
is XNNPACK's indirection, by offsets in the place of pointers.)

Six rows by four registers are 24 sums, four registers of b and one of a: 244 GFLOP/s on one Zen 5
core of 3.8 GHz, which is all its two multipliers can do, for any depth from 32 on. A panel of two
registers is as fast, and there two chains take turns in each sum; of one register, four, as six
additions at a time are too few to hide an fma's latency: 185 GFLOP/s, with single chains 155. The
shorter chains are also more exact: a third of the error for a depth of 512.

It is written in LLVM (`_Tile`) and not with the vectors of jit/simd.py, because the target says how
many sums, chains and registers of b there are, and a compiled function cannot have a number of
variables that is not known before. It stands here and not in jit/, because panels, taps and tiles
are GEMM's own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

from nbnorm.jit import llvm, target
from nbnorm.jit.options import inlined
from nbnorm.jit.simd import checked_slice, lanes_of_register, register_lanes
from nbnorm.jit.vectors import twin

TILE_ROWS = 6

# Depth that is packed and multiplied at once (BLIS's KC): 128 columns of it are an eighth of the L2
# cache. A float32 sum is a chain no longer than that, so its error is that of OpenBLAS: 2.4e-6 of
# the product's rms at most for (1024, 1024, 1024), and 3.8e-6 with twice the depth.
DEPTH = 256


class Block(NamedTuple):
    """Rows of c, `ld` apart (the leading dimension): c[i, j] is ``array[offset + i ld + j]``."""

    array: Any
    offset: Any
    ld: Any


class Rows(NamedTuple):
    """Rows of a, wherever they lie.

    Number p of tap t of row i is ``array[row_offsets[i] + tap_offsets[t] + p step]``.
    """

    array: Any
    row_offsets: Any
    tap_offsets: Any
    step: Any


class Panels(NamedTuple):
    """Columns of b, packed in panels from ``array[offset]`` on, with `depth` numbers in each tap.

    In a panel, column j of depth p of tap t is number ``(t depth + p) width + j``.
    """

    array: Any
    offset: Any
    depth: Any


def widest_panel() -> int:
    """Registers of the widest panel: with 16, six rows by two leave room for b and a."""
    return 4 if target.register_count() == 32 else 2


def _multiply(registers, c, a, first, b, height, columns, more):
    width = registers * register_lanes(c.array.itemsize)
    tile = np.zeros((TILE_ROWS, width), c.array.dtype)
    within = np.arange(b.depth) * a.step
    rows = checked_slice(a.row_offsets, first, TILE_ROWS)[:, np.newaxis]
    size = b.depth * width
    for t, tap in enumerate(a.tap_offsets):
        places = rows + tap + within
        if places.min(initial=0) < 0:
            raise IndexError(f"a number at {places.min()}")
        panel = checked_slice(b.array, b.offset + t * size, size).reshape(b.depth, width)
        tile += a.array[places] @ panel
    for i in range(min(height, TILE_ROWS)):
        row = checked_slice(c.array, c.offset + i * c.ld, min(columns, width))
        row[...] = row + tile[i, : row.size] if more else tile[i, : row.size]


def _declare_multiply(chosen: int | None) -> Any:
    """`multiply_tile` for panels of so many registers, None being the most."""

    def reference(c, a, first, b, height, columns, more):
        _multiply(chosen or widest_panel(), c, a, first, b, height, columns, more)

    @twin(reference)
    def multiply(typing_context, c, a, first, b, height, columns, more):
        """One tile; see `multiply_tile`."""
        registers = chosen or widest_panel()

        def generate(context, builder, sig, args):
            dtype = sig.args[0].types[0].dtype
            lanes = register_lanes(dtype.bitwidth // 8)
            vector = ir.VectorType(context.get_value_type(dtype), lanes)
            tile = _Tile(context, builder, sig, args, vector, registers)
            tile.multiply()
            with builder.if_then(args[-1]):
                tile.move(tile.add)
            tile.move(tile.store)
            return context.get_dummy_value()

        i = types.intp
        return types.none(c, a, i, b, i, i, types.boolean), generate

    return multiply


def _fields(context, builder, kind, value):
    """The fields of a NamedTuple: its arrays, and its numbers as intp."""
    for field_kind, field in zip(kind.types, cgutils.unpack_tuple(builder, value), strict=True):
        if isinstance(field_kind, types.Array):
            yield context.make_array(field_kind)(context, builder, field)
        else:
            yield context.cast(builder, field, field_kind, types.intp)


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
        c, offset, self.ld = _fields(context, builder, sig.args[0], args[0])
        a, rows, taps, self.step = _fields(context, builder, sig.args[1], args[1])
        b, panel, self.depth = _fields(context, builder, sig.args[3], args[3])
        _, _, first, _, self.height, self.columns, _ = args
        self.word = first.type
        self.c = builder.gep(c.data, [offset])
        self.a = a.data
        self.row_offsets = builder.gep(rows.data, [first])
        self.tap_offsets = taps.data
        self.tap_count = builder.extract_value(taps.shape, 0)
        self.b = builder.gep(b.data, [panel])

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
        offset = self.builder.mul(self.ld, self.word(row))
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
            builder.gep(self.a, [builder.load(builder.gep(self.row_offsets, [word(row)]))])
            for row in range(TILE_ROWS)
        ]
        length = builder.mul(self.depth, word(self.registers * self.lanes))
        turns = self.turns()
        with cgutils.for_range(builder, self.tap_count) as taps:
            tap = builder.load(builder.gep(self.tap_offsets, [taps.index]))
            rows = [builder.gep(start, [tap]) for start in starts]
            panel = builder.gep(self.b, [builder.mul(taps.index, length)])
            done = word(0)
            if turns is not None:
                chains = len(self.chains)
                with cgutils.for_range(builder, turns) as loop:
                    for chain, sums in enumerate(self.chains):
                        p = builder.add(builder.mul(loop.index, word(chains)), word(chain))
                        self.add_products(sums, rows, panel, p, p)
                done = builder.mul(turns, word(chains))
            with cgutils.for_range(builder, self.depth, done) as loop:
                along = builder.mul(loop.index, self.step)
                self.add_products(self.sums, rows, panel, loop.index, along)
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

    def add_products(self, sums, rows, panel, p, along):
        """Adds the products at depth p of a tap, which is at `along` in the rows of a."""
        builder, word = self.builder, self.word
        packed = builder.gep(panel, [builder.mul(p, word(self.registers * self.lanes))])
        columns = []
        for r in range(self.registers):
            place = llvm.vector_at(builder, packed, word(r * self.lanes), self.vector)
            columns.append(llvm.load(builder, place, self.vector))
        for row in range(TILE_ROWS):
            number = builder.load(builder.gep(rows[row], [along]))
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
def multiply_tile(c, a, first, b, width, height, columns, more):
    """A tile of a product: `TILE_ROWS` rows by a panel `width` wide, added to c if `more`.

    c        Block: where the tile begins
    a        Rows, of which the tile has those from `first` on; those beyond its height are read too
    b        Panels: where the panel begins
    height   rows of the tile that are in c, TILE_ROWS or more meaning all
    columns  columns of the tile that are in c, width or more meaning all
    """
    lanes = lanes_of_register(c.array)
    if width == registers_of_panel(c.array) * lanes:
        _multiply_widest(c, a, first, b, height, columns, more)
    elif width == 2 * lanes:
        _multiply_two(c, a, first, b, height, columns, more)
    else:
        _multiply_one(c, a, first, b, height, columns, more)


@inlined
def multiply_block(c, a, b, height, columns, more):
    """A block of a product, its part of b packed panel after panel: tile after tile.

    c        Block: where the block begins
    a        Rows, with offsets for whole tiles
    b        Panels
    """
    for i in range(0, height, TILE_ROWS):
        j = 0
        while j < columns:
            width = panel_width(c.array, columns - j)
            tile = Block(c.array, c.offset + i * c.ld + j, c.ld)
            panel = Panels(b.array, b.offset + j * b.depth * a.tap_offsets.size, b.depth)
            multiply_tile(tile, a, i, panel, width, height - i, columns - j, more)
            j += width
