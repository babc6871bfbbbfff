"""Numba's pipeline without the machine code that nobody runs.

Numba makes machine code of every function: of each inlined piece, of the worker, of the worker
again inside its parallel loop, and of wrappers for C. A first step of a convolution with batch norm
made 115 modules of it and spent two thirds of its 37 s in LLVM. Here code is optimized and emitted
once for each kernel:

`Linked`  compiles what only compiled code calls: it is kept as LLVM's intermediate code, and is
          optimized where it is linked.
`Kernel`  compiles a kernel, with two ways in from Python: all of its tiles on the calling thread,
          or dealt out to threads (wrapper.py).
"""

from __future__ import annotations

import ctypes
from typing import Any

from numba import _dynfunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.lowering import Lower
from numba.core.typed_passes import BaseNativeLowering, NativeLowering

from nbnorm.jit.wrapper import create_wrapper


class _Pipeline(CompilerBase):
    """Numba's own pipeline with another last step."""

    lowering: type[BaseNativeLowering]

    def define_pipelines(self) -> list[Any]:
        manager = DefaultPassBuilder.define_nopython_pipeline(self.state)
        manager.passes = [
            (self.lowering if step is NativeLowering else step, why) for step, why in manager.passes
        ]
        manager.finalize()
        return [manager]


# --- linked ---------------------------------------------------------------------------------


class _LinkedLibrary(JITCodeLibrary):
    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


# What Python would find where a compiled function is: a call of it ends in a TypeError.
_REFUSAL = ctypes.cast(ctypes.pythonapi.PyObject_Call, ctypes.c_void_p).value


@register_pass(mutates_CFG=True, analysis_only=False)
class _LinkedLowering(NativeLowering):
    _name = "nbnorm_linked_lowering"

    def run_pass(self, state: Any) -> bool:
        name = state.func_id.func_qualname
        state.library = _LinkedLibrary(state.targetctx.codegen(), name)
        state.flags.no_compile = True
        state.flags.no_cpython_wrapper = True
        state.flags.no_cfunc_wrapper = True
        super().run_pass(state)
        lowered = state["cr"]
        # Numba finds a function's code by the object that Python would call.
        key = _dynfunc.make_function(
            lowered.fndesc.lookup_module(), name, "",
            _REFUSAL, lowered.env, (state.library,),
        )  # fmt: skip
        state.targetctx.insert_user_function(key, lowered.fndesc, [state.library])
        state["cr"] = lowered._replace(cfunc=key)
        return True


class Linked(_Pipeline):
    """Compiles a function for compiled code alone."""

    lowering = _LinkedLowering


# --- kernels --------------------------------------------------------------------------------


class _KernelLower(Lower):
    def create_cpython_wrapper(self, release_gil: bool = False) -> None:
        if tuple(self.fndesc.args[:2]) != ("lo", "hi"):  # it has no tiles
            super().create_cpython_wrapper(release_gil)
            return
        create_wrapper(
            self.context, self.library, self.fndesc, self.env, self.call_helper, release_gil
        )


@register_pass(mutates_CFG=True, analysis_only=False)
class _KernelLowering(NativeLowering):
    _name = "nbnorm_kernel_lowering"

    @property
    def lowering_class(self) -> type[Lower]:
        return _KernelLower

    def run_pass(self, state: Any) -> bool:
        state.flags.no_cfunc_wrapper = True
        return super().run_pass(state)


class Kernel(_Pipeline):
    """Compiles a kernel's worker, which Python calls as wrapper.py says."""

    lowering = _KernelLowering
