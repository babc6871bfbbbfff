"""Numbers moved within and between registers: a square transposed, a lane copied to its group."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

from nbnorm.jit import llvm
from nbnorm.jit.simd import checked_slice, register_lanes
from nbnorm.jit.vectors import twin


def _transpose_square(to, to_at, to_ld, source, at, ld, rows, columns, stored):
    lanes = register_lanes(to.itemsize)
    rows, columns, stored = (min(size, lanes) for size in (rows, columns, stored))
    square = np.zeros((columns, lanes), to.dtype)
    for i in range(rows):
        square[:, i] = checked_slice(source, at + i * ld, columns)
    for j in range(columns):
        checked_slice(to, to_at + j * to_ld, stored)[...] = square[j, :stored]


@twin(_transpose_square)
def transpose_square(typing_context, to, to_at, to_ld, source, at, ld, rows, columns, stored):
    """Transposes a square of at most as many rows and columns as a register has lanes.

    ``to[to_at + j to_ld + i] = source[at + i ld + j]`` for i < rows and j < columns, and 0 for i
    from rows to stored - 1, in log2(lanes) rounds of shuffles. What does not fill the square is
    moved with masks: loops over it were half of what there was to compile in a convolution.
    """
    lanes = register_lanes(to.dtype.bitwidth // 8)

    def generate(context, builder, sig, args):
        _, to_at, to_ld, _, at, ld, rows, columns, stored = args
        to_data = context.make_array(sig.args[0])(context, builder, args[0]).data
        data = context.make_array(sig.args[3])(context, builder, args[3]).data
        vector = ir.VectorType(context.get_value_type(to.dtype), lanes)
        zero = ir.Constant(vector, None)
        word = at.type

        def place(start, first, stride, i):
            index = builder.add(first, builder.mul(stride, word(i)))
            return llvm.vector_at(builder, start, index, vector)

        whole = [builder.icmp_signed(">=", size, word(lanes)) for size in (rows, columns, stored)]
        whole = builder.and_(builder.and_(whole[0], whole[1]), whole[2])
        vectors = [cgutils.alloca_once(builder, vector) for _ in range(lanes)]
        with builder.if_else(whole) as (plain, partial):
            with plain:
                for i in range(lanes):
                    value = llvm.load(builder, place(data, at, ld, i), vector)
                    builder.store(value, vectors[i])
            with partial:
                read = llvm.first_lanes(builder, columns, vector)
                for i in range(lanes):
                    mask = llvm.mask_if(builder, builder.icmp_signed(">", rows, word(i)), read)
                    value = llvm.masked_load(builder, place(data, at, ld, i), mask, zero)
                    builder.store(value, vectors[i])
        vectors = _transposed(builder, [builder.load(line) for line in vectors])
        with builder.if_else(whole) as (plain, partial):
            with plain:
                for j in range(lanes):
                    llvm.store(builder, vectors[j], place(to_data, to_at, to_ld, j))
            with partial:
                written = llvm.first_lanes(builder, stored, vector)
                for j in range(lanes):
                    inside = builder.icmp_signed(">", columns, word(j))
                    mask = llvm.mask_if(builder, inside, written)
                    llvm.masked_store(builder, vectors[j], place(to_data, to_at, to_ld, j), mask)
        return context.get_dummy_value()

    i = types.intp
    return types.none(to, i, i, source, i, i, i, i, i), generate


def _transposed(builder, vectors):
    """A square of as many vectors as each has lanes, transposed.

    Round by round the blocks off the diagonal change places, of 1, 2, 4, ... lanes.
    """
    count = len(vectors)
    bit = 1
    while bit < count:
        low = [lane if not lane & bit else count + (lane ^ bit) for lane in range(count)]
        high = [lane | bit if not lane & bit else count + lane for lane in range(count)]
        for i in range(count):
            if not i & bit:
                first, second = vectors[i], vectors[i | bit]
                vectors[i] = llvm.shuffle(builder, first, second, low)
                vectors[i | bit] = llvm.shuffle(builder, first, second, high)
        bit *= 2
    return vectors


def _pick(to, to_at, source, at, size, which):
    count = register_lanes(to.itemsize)
    group = np.arange(count) // size * size + which
    checked_slice(to, to_at, count)[...] = checked_slice(source, at, count)[group]


@twin(_pick)
def pick(typing_context, to, to_at, source, at, size, which):
    """Copies a register; each lane gets number `which` of its own group of `size` lanes.

    `size` is 1, 2, 4 or 8.
    """
    count = register_lanes(to.dtype.bitwidth // 8)

    def generate(context, builder, sig, args):
        _, to_at, _, at, size, which = args
        vector = ir.VectorType(context.get_value_type(to.dtype), count)
        data = [context.make_array(sig.args[i])(context, builder, args[i]).data for i in (0, 2)]
        place, start = (
            llvm.vector_at(builder, base, index, vector)
            for base, index in zip(data, (to_at, at), strict=True)
        )
        value = llvm.load(builder, start, vector)
        done = builder.append_basic_block("done")
        switch = builder.switch(builder.add(builder.mul(size, size.type(16)), which), done)
        for width in (1, 2, 4, 8):
            for number in range(min(width, count)):
                block = builder.append_basic_block("pick")
                switch.add_case(size.type(16 * width + number), block)
                builder.position_at_end(block)
                chosen = [min(i // width * width + number, count - 1) for i in range(count)]
                llvm.store(builder, llvm.shuffle(builder, value, None, chosen), place)
                builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    i = types.intp
    return types.none(to, i, source, i, i, i), generate
