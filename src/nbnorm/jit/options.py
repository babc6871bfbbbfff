"""The one decorator of each kind of compiled function. No other module names a Numba option.

`worker`     a kernel: the serial body over a range of tiles; cached on disk.
`driver`     the loop that deals the tiles of all kernels out to threads (tiles.py); cached on disk.
`inlined`    a piece of a worker, put in place where it is called.
`by_type`    such a piece, chosen by the types of its arguments.

``error_model="numpy"`` makes a division by zero inf instead of a branch that stops vectorization;
``nogil`` lets other Python threads run meanwhile. There is no fastmath: the flags would be stamped
on every operation and turn ``(x - head) - tail`` into ``x - (head + tail)``. Arrays are the
caller's, and kernels allocate none, so all but drivers are compiled without reference counts
(``_nrt``): each inlined function would count its arguments up and down by atomic operations, which
took 50 of the 65 ns that a row of 64 values took to normalize.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba.core import config
from numba.core.registry import CPUDispatcher
from numba.extending import overload

from nbnorm.jit.cache import PackageCache
from nbnorm.jit.interrupts import uninterrupted
from nbnorm.jit.pipelines import Kernel, Linked

__all__ = ["by_type", "driver", "inlined", "is_compiling", "worker"]

Function = TypeVar("Function", bound=Callable[..., Any])

_COMMON = {"error_model": "numpy", "nogil": True}
_SERIAL = {**_COMMON, "_nrt": False}


def is_compiling() -> bool:
    """Whether the decorators compile; under ``NUMBA_DISABLE_JIT=1`` functions stay Python."""
    return not config.DISABLE_JIT


def _compiled_and_cached(function: Function, options: dict[str, Any]) -> Function:
    if not is_compiling():
        return function
    dispatcher = numba.njit(**options)(function)
    dispatcher.compile = uninterrupted(dispatcher.compile)
    # The cache watches the sources of this package and no others.
    if function.__module__.partition(".")[0] == __name__.partition(".")[0]:
        dispatcher._cache = PackageCache(function, options)
    return cast(Function, dispatcher)


def worker(function: Function) -> Function:
    """A kernel's serial body: ``worker(lo, hi, ...)`` does the tiles lo to hi - 1."""
    return _compiled_and_cached(function, {**_SERIAL, "pipeline_class": Kernel})


def driver(function: Function) -> Function:
    """A loop with `prange`: that of tiles.py."""
    return _compiled_and_cached(function, {**_COMMON, "parallel": True})


class _Inlined(CPUDispatcher):
    """A piece of compiled code. Tests call it from Python: then it is compiled by itself."""

    def __call__(self, *arguments: Any) -> Any:
        return self._alone(*arguments)

    @functools.cached_property
    def _alone(self) -> Callable[..., Any]:
        return worker(self.py_func)


def inlined(function: Function) -> Function:
    """A piece of a worker, inlined by LLVM into the compiled code that calls it."""
    if not is_compiling():
        return function
    options = {**_SERIAL, "nopython": True, "boundscheck": None, "forceinline": True}
    return cast(Function, _Inlined(function, targetoptions=options, pipeline_class=Linked))


def by_type(function: Function) -> Callable[..., Any]:
    """Decorates what finds the piece to put in place of a Python function, given its types."""
    options = {**_SERIAL, "forceinline": True, "pipeline_class": Linked}
    # Not strict: the piece may be a method, which calls its first argument self.
    return cast(Callable[..., Any], overload(function, jit_options=options, strict=False))
