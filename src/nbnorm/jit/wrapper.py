"""What Python calls when it calls a kernel: its tiles on this thread, or dealt out to threads.

``worker(lo, hi, ...)`` does the tiles lo to hi - 1, from Python as in compiled code. But where
Python calls it with a negative `lo`, ``-lo`` is the address of a function that deals out the tiles
0 to hi - 1 (tiles.py). The wrapper then puts a count of the tiles taken and the other arguments on
its stack, and hands that function the number of tiles, the address of a *share*, which does some of
the tiles, and the address of what is on the stack. So one compiled variant of a kernel serves one
thread and many, and the parallel loop is compiled once for all kernels rather than once for each
variant.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.callwrapper import PyCallWrapper

WORD = ir.IntType(types.intp.bitwidth)
ADDRESS = ir.IntType(8).as_pointer()

# share(arguments, lo, hi) and deal(tiles, share, arguments), as functions of C.
SHARE = ir.FunctionType(ir.VoidType(), [ADDRESS, WORD, WORD])
DEAL = ir.FunctionType(ir.VoidType(), [WORD, ADDRESS, ADDRESS])


def create_wrapper(context, library, fndesc, env, call_helper, release_gil):
    """Adds to a worker's library what Python calls."""
    module = context.create_module("wrapper")
    worker = context.declare_function(module, fndesc)
    entry = ir.Function(module, worker.function_type, f"{worker.name}.entry")
    entry.linkage = "internal"
    builder = ir.IRBuilder(entry.append_basic_block("entry"))
    _, _, lo, hi, *others = entry.args
    with builder.if_then(builder.icmp_signed("<", lo, lo.type(0)), likely=False):
        share, place = share_of(builder, worker, others)
        deal = builder.inttoptr(builder.neg(lo), DEAL.as_pointer())
        builder.call(deal, [hi, share, place])
        context.call_conv.return_value(builder, context.get_dummy_value())
    builder.ret(builder.call(worker, entry.args))
    PyCallWrapper(
        context, module, entry, fndesc, env, call_helper=call_helper, release_gil=release_gil
    ).build()
    library.add_ir_module(module)


def share_of(builder, worker, arguments):
    """The address of a worker's share, and that of its arguments (after lo and hi) on the stack."""
    arguments = [WORD(0), *arguments]
    kept = ir.LiteralStructType([argument.type for argument in arguments])
    place = cgutils.alloca_once(builder, kept)
    for i, argument in enumerate(arguments):
        builder.store(argument, cgutils.gep_inbounds(builder, place, 0, i))
    share = _define_share(worker, kept)
    return builder.bitcast(share, ADDRESS), builder.bitcast(place, ADDRESS)


def _define_share(worker, kept):
    """A function of C that does the tiles lo to hi - 1; workers never raise."""
    name = worker.module.get_unique_name(f"{worker.name}.share")
    share = ir.Function(worker.module, SHARE, name)
    share.linkage = "internal"
    builder = ir.IRBuilder(share.append_basic_block("entry"))
    place = builder.bitcast(share.args[0], kept.as_pointer())
    others = [
        builder.load(cgutils.gep_inbounds(builder, place, 0, i))
        for i in range(1, len(kept.elements))
    ]
    outputs = [builder.alloca(argument.type.pointee) for argument in worker.args[:2]]
    builder.call(worker, [*outputs, *share.args[1:], *others])
    builder.ret_void()
    return share
