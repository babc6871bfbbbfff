"""The parallel form of a kernel, for Python and for compiled code."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from numba.core import cgutils, types
from numba.extending import intrinsic, overload

from nbnorm.jit.threads import run
from nbnorm.jit.tiles import deal
from nbnorm.jit.wrapper import WORD, share_of


def parallel(worker: Callable[..., None]) -> Callable[..., None]:
    """A function of (tiles, ...) that does all tiles of ``worker(lo, hi, ...)``, on all threads.

    Python calls it wherever it likes; compiled code may where no parallel loop is running.
    """
    names = list(inspect.signature(worker).parameters)[2:]

    def run_all(tiles: int, *arguments: Any, **named: Any) -> None:
        arguments += tuple(named[name] for name in names[len(arguments) :])
        run(worker, tiles, True, *arguments)

    @overload(run_all)
    def compiled(tiles: Any, *arguments: Any) -> Callable[..., None]:
        def deal_out(tiles: Any, *arguments: Any) -> None:
            share, place = _share(worker, arguments)
            deal(tiles, share, place)

        return deal_out

    name = f"{worker.__name__}_parallel"
    run_all.__name__ = run_all.__qualname__ = name
    run_all.__module__ = worker.__module__
    run_all.__doc__ = f"`{worker.__name__}` over all tiles."
    return run_all


@intrinsic
def _share(typing_context, worker, arguments):
    """The addresses that `deal` takes: see wrapper.py."""
    called = worker.get_call_type(typing_context, (types.intp, types.intp, *arguments), {})
    compiled = worker.dispatcher.overloads[called.args]

    def generate(context, builder, sig, args):
        context.active_code_library.add_linking_library(compiled.library)
        function = context.declare_function(builder.module, compiled.fndesc)
        values = [WORD(0), WORD(0), *cgutils.unpack_tuple(builder, args[1])]
        packer = context.call_conv._get_arg_packer(called.args)
        _, _, *others = packer.as_arguments(builder, values)
        addresses = [builder.ptrtoint(one, WORD) for one in share_of(builder, function, others)]
        return context.make_tuple(builder, sig.return_type, addresses)

    return types.UniTuple(types.intp, 2)(worker, arguments), generate
