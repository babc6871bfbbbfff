"""TBB: where it is, and how it withstands forks.

Numba shuts TBB down before a fork and starts it again in parent and child. That works if TBB counts
no other thread than the forking one as using it:

- A thread that has entered a parallel region is counted until the system has ended it, which before
  Python 3.13 is after `Thread.join` has returned. While others are counted TBB does not shut down
  (Numba says so on stdout).
- Where the last of them ends before the process is copied, the child finds TBB's workers, which it
  has not got, at work for nobody. Numba's next attempt to shut TBB down, when the child forks in
  its turn or ends, waits for them for ever, spinning in `tbb::finalize`. Of children that forked
  again one in 3 to 30 hung, beside a busy process.

So threads leave TBB with each region (`leave`), and a fork waits for regions (forks.py).

If another thread forks than the one that started the layer, Numba leaves TBB as it is. The child
must not shut it down, whichever of its threads may fork and however it ends: it holds TBB for good.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import os
import sys
import threading
from typing import Any

import numba

from nbnorm import forks

_FILES = ("libtbb.so.12", "tbb12.dll")  # of the package that pip installs


def load() -> None:
    """Loads the TBB that pip put into the environment's own folder, where no loader looks."""
    try:
        files = importlib.metadata.files("tbb") or []
    except importlib.metadata.PackageNotFoundError:
        return
    for file in files:
        if file.name in _FILES:
            try:
                ctypes.CDLL(str(file.locate()))
            except OSError:
                return


class _Scheduler:
    """TBB's handles: it shuts down when the last one is finalized, and not while there is one."""

    _NAME = "libtbb.12.dylib" if sys.platform == "darwin" else "libtbb.so.12"
    # What the members of tbb::task_scheduler_handle call.
    _GET = "_ZN3tbb6detail2r13getERNS0_2d121task_scheduler_handleE"
    _FINALIZE = "_ZN3tbb6detail2r18finalizeERNS0_2d121task_scheduler_handleEl"
    _RELEASE, _FINALIZE_OR_NOT = 0, 1

    def __init__(self) -> None:
        library = ctypes.CDLL(self._NAME)
        self._get, self._finalize = library[self._GET], library[self._FINALIZE]
        self._get.argtypes, self._get.restype = [ctypes.c_void_p], None
        self._finalize.argtypes = [ctypes.c_void_p, ctypes.c_ssize_t]

    def handle(self) -> Any:
        """A new handle, beside Numba's."""
        handle = ctypes.c_void_p()
        self._get(ctypes.byref(handle))
        return handle

    def release(self, handle: Any) -> None:
        """Gives a handle back."""
        self._finalize(ctypes.byref(handle), self._RELEASE)

    def finalize(self, handle: Any) -> None:
        """Gives a handle back, and has TBB forget the calling thread, unless it is in a region."""
        self._finalize(ctypes.byref(handle), self._FINALIZE_OR_NOT)


@functools.cache
def _scheduler_of(layer: str) -> _Scheduler | None:
    if layer != "tbb" or not hasattr(os, "register_at_fork"):
        return None
    try:
        return _Scheduler()
    except (OSError, AttributeError):  # a TBB that hides its names
        return None


def _scheduler() -> _Scheduler | None:
    """That of the TBB that Numba runs on; None on other layers, and where nobody forks."""
    try:
        return _scheduler_of(numba.threading_layer())
    except ValueError:  # no layer yet
        return None


def leave() -> None:
    """Has TBB forget the calling thread, which is in no region.

    That takes 1.7 us (Zen 4) with the region that enters again. In the main thread it would take
    600 us, as TBB asks for the bounds of its stack: but neither this thread nor that which started
    the layer needs to leave, as Numba's own handle has the forking one forgotten.
    """
    own = threading.get_ident()
    if own == forks.starter() or own == threading.main_thread().ident:
        return
    scheduler = _scheduler()
    if scheduler is not None:
        scheduler.finalize(scheduler.handle())


# --- forks by another thread than the one that started the layer ----------------------------

_forking = threading.local()


def _before_fork() -> None:
    _forking.handle = None
    scheduler = _scheduler()
    if scheduler is not None and threading.get_ident() != forks.starter():
        _forking.handle = scheduler.handle()


def _after_fork_in_parent() -> None:
    scheduler = _scheduler()
    if scheduler is not None and _forking.handle is not None:
        scheduler.release(_forking.handle)


def _after_fork_in_child() -> None:
    """Keeps the handle, and Numba's module, which would shut TBB down when the process ends."""
    module = sys.modules.get("numba.np.ufunc.tbbpool")
    if forks.process.has_lost_threads and module is not None:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(module))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
