"""Tiles dealt out to threads, by one parallel loop for all kernels: see wrapper.py."""

from __future__ import annotations

import functools
from typing import Any

from numba import prange
from numba.core import types
from numba.extending import intrinsic

from nbnorm.jit.options import driver
from nbnorm.jit.wrapper import ADDRESS, SHARE, WORD

# As many threads as ever share one kernel's tiles.
MOST_THREADS = 256


@intrinsic
def _take_tiles(typing_context, tiles, share, arguments):
    """Does tiles until all are taken: each time the next one, whoever took those before it."""

    def generate(context, builder, sig, args):
        tiles, share, arguments = args
        function = builder.inttoptr(share, SHARE.as_pointer())
        place = builder.inttoptr(arguments, ADDRESS)
        taken = builder.inttoptr(arguments, WORD.as_pointer())
        take = builder.append_basic_block("take")
        work = builder.append_basic_block("work")
        done = builder.append_basic_block("done")
        builder.branch(take)
        builder.position_at_end(take)
        tile = builder.atomic_rmw("add", taken, WORD(1), "monotonic")
        builder.cbranch(builder.icmp_signed("<", tile, tiles), work, done)
        builder.position_at_end(work)
        builder.call(function, [place, tile, builder.add(tile, WORD(1))])
        builder.branch(take)
        builder.position_at_end(done)
        return context.get_dummy_value()

    i = types.intp
    return types.none(i, i, i), generate


@driver
def deal(tiles, share, arguments):
    """Deals out the tiles 0 to tiles - 1 as threads come for them.

    A loop over the tiles themselves would give each thread an equal part at once, and all would
    wait for the one whose processor another process has taken.
    """
    for _ in prange(min(tiles, MOST_THREADS)):
        _take_tiles(tiles, share, arguments)


@functools.cache
def address_of_deal() -> int:
    """Where the compiled `deal` is, as a function of C."""
    dispatcher: Any = deal
    signature = (types.intp,) * 3
    dispatcher.compile(signature)
    compiled = dispatcher.overloads[signature]
    return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name))
