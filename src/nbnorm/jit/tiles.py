"""Tiles dealt out to threads, by one parallel loop for all kernels: see wrapper.py."""

from __future__ import annotations

import functools
from typing import Any

from numba import prange
from numba.core import types
from numba.extending import intrinsic

from nbnorm.jit.options import driver
from nbnorm.jit.wrapper import ADDRESS, SHARE


@intrinsic
def _do_tiles(typing_context, share, arguments, lo, hi):
    """Calls a share."""

    def generate(context, builder, sig, args):
        function = builder.inttoptr(args[0], SHARE.as_pointer())
        builder.call(function, [builder.inttoptr(args[1], ADDRESS), *args[2:]])
        return context.get_dummy_value()

    i = types.intp
    return types.none(i, i, i, i), generate


@driver
def deal(tiles, share, arguments):
    """Deals out the tiles 0 to tiles - 1."""
    for tile in prange(tiles):
        _do_tiles(share, arguments, tile, tile + 1)


@functools.cache
def address_of_deal() -> int:
    """Where the compiled `deal` is, as a function of C."""
    dispatcher: Any = deal
    signature = (types.intp,) * 3
    dispatcher.compile(signature)
    compiled = dispatcher.overloads[signature]
    return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name))
