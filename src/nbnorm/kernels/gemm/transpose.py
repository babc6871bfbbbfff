"""Numbers moved within and between registers: what the multiply's operands are packed by."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

from nbnorm.jit.simd import checked_slice
from nbnorm.jit.vectors import twin
from nbnorm.kernels.gemm.microkernel import Masked, register_lanes

_INT32 = ir.IntType(32)


def _transpose(to, to_at, to_step, source, at, step, rows, columns, stored):
    lanes = register_lanes(to.itemsize)
    rows, columns, stored = (min(size, lanes) for size in (rows, columns, stored))
    square = np.zeros((columns, lanes), to.dtype)
    for i in range(rows):
        square[:, i] = checked_slice(source, at + i * step, columns)
    for j in range(columns):
        checked_slice(to, to_at + j * to_step, stored)[...] = square[j, :stored]


@twin(_transpose)
def transpose_tile(typing_context, to, to_at, to_step, source, at, step, rows, columns, stored):
    """Transposes a square of at most as many rows and columns as a register has lanes.

    ``to[to_at + j to_step + i] = source[at + i step + j]`` for i < rows and j < columns, and 0 for
    i from rows to stored - 1, in log2(lanes) rounds of shuffles. What does not fill the square is
    moved with masks: loops over it were half of what there was to compile in a convolution.
    """
    itemsize = to.dtype.bitwidth // 8
    lanes = register_lanes(itemsize)

    def generate(context, builder, sig, args):
        _, to_at, to_step, _, at, step, rows, columns, stored = args
        to_data = context.make_array(sig.args[0])(context, builder, args[0]).data
        data = context.make_array(sig.args[3])(context, builder, args[3]).data
        vector = ir.VectorType(context.get_value_type(to.dtype), lanes)
        masked = Masked(builder, vector, itemsize)
        word = at.type

        def place(start, first, stride, i):
            index = builder.add(first, builder.mul(stride, word(i)))
            return builder.bitcast(builder.gep(start, [index]), vector.as_pointer())

        whole = [builder.icmp_signed(">=", size, word(lanes)) for size in (rows, columns, stored)]
        whole = builder.and_(builder.and_(whole[0], whole[1]), whole[2])
        lines = [cgutils.alloca_once(builder, vector) for _ in range(lanes)]
        with builder.if_else(whole) as (plain, partial):
            with plain:
                for i in range(lanes):
                    value = builder.load(place(data, at, step, i), align=itemsize)
                    builder.store(value, lines[i])
            with partial:
                read = masked.lanes_below(columns)
                for i in range(lanes):
                    mask = masked.only_if(builder.icmp_signed(">", rows, word(i)), read)
                    builder.store(masked.load(place(data, at, step, i), mask), lines[i])
        lines = [builder.load(line) for line in lines]
        bit = 1
        while bit < lanes:  # swap the blocks off the diagonal, of 1, 2, 4, ... lanes
            low = [lane if not lane & bit else lanes + (lane ^ bit) for lane in range(lanes)]
            high = [lane | bit if not lane & bit else lanes + lane for lane in range(lanes)]
            for i in range(lanes):
                if not i & bit:
                    pair = lines[i], lines[i | bit]
                    lines[i], lines[i | bit] = (
                        builder.shuffle_vector(
                            *pair, ir.Constant(ir.VectorType(_INT32, lanes), lanes_taken)
                        )
                        for lanes_taken in (low, high)
                    )
            bit *= 2
        with builder.if_else(whole) as (plain, partial):
            with plain:
                for j in range(lanes):
                    builder.store(lines[j], place(to_data, to_at, to_step, j), align=itemsize)
            with partial:
                written = masked.lanes_below(stored)
                for j in range(lanes):
                    mask = masked.only_if(builder.icmp_signed(">", columns, word(j)), written)
                    masked.store(lines[j], place(to_data, to_at, to_step, j), mask)
        return context.get_dummy_value()

    i = types.intp
    return types.none(to, i, i, source, i, i, i, i, i), generate


def _pick(to, to_at, source, at, size, which):
    count = register_lanes(to.itemsize)
    group = np.arange(count) // size * size + which
    checked_slice(to, to_at, count)[...] = checked_slice(source, at, count)[group]


@twin(_pick)
def pick(typing_context, to, to_at, source, at, size, which):
    """Copies a register; each lane gets number `which` of its own group of `size` lanes.

    `size` is 1, 2, 4 or 8.
    """
    itemsize = to.dtype.bitwidth // 8
    count = register_lanes(itemsize)

    def generate(context, builder, sig, args):
        _, to_at, _, at, size, which = args
        vector = ir.VectorType(context.get_value_type(to.dtype), count)
        data = [context.make_array(sig.args[i])(context, builder, args[i]).data for i in (0, 2)]
        place, start = (
            builder.bitcast(builder.gep(base, [index]), vector.as_pointer())
            for base, index in zip(data, (to_at, at), strict=True)
        )
        value = builder.load(start, align=itemsize)
        done = builder.append_basic_block("done")
        switch = builder.switch(builder.add(builder.mul(size, size.type(16)), which), done)
        for width in (1, 2, 4, 8):
            for number in range(min(width, count)):
                block = builder.append_basic_block("pick")
                switch.add_case(size.type(16 * width + number), block)
                builder.position_at_end(block)
                chosen = [min(i // width * width + number, count - 1) for i in range(count)]
                mask = ir.Constant(ir.VectorType(ir.IntType(32), count), chosen)
                picked = builder.shuffle_vector(value, ir.Constant(vector, ir.Undefined), mask)
                builder.store(picked, place, align=itemsize)
                builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    i = types.intp
    return types.none(to, i, source, i, i, i), generate
