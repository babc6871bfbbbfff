"""When a kernel runs in parallel: where it is worth it and where it is safe.

Numba's threading layers differ in what they survive (seen with Numba 0.68):

=========  ==========================  ======================  =====================
layer      two Python threads at once  fork, then a call       hot parallel region
=========  ==========================  ======================  =====================
tbb        works                       works                   2 to 4 us
omp (GNU)  works                       the child is killed     1.5 us
workqueue  aborts the process          works                   65 to 100 us
=========  ==========================  ======================  =====================

So TBB is found for Numba when it is installed, and a kernel runs serially in a forked child of an
OpenMP process and, under workqueue, wherever another Python thread is alive. Results do not depend
on the choice. ``NUMBA_THREADING_LAYER`` and ``NUMBA_NUM_THREADS`` are respected.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import os
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numba
from numba.core import config

_TBB_LIBRARIES = ("libtbb.so.12", "tbb12.dll")

_forked = False


def _note_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def _load_tbb() -> None:
    """Loads the TBB that pip put into the environment's own folder, where no loader looks."""
    try:
        files = importlib.metadata.files("tbb") or []
    except importlib.metadata.PackageNotFoundError:
        return
    for file in files:
        if file.name in _TBB_LIBRARIES:
            try:
                ctypes.CDLL(str(file.locate()), mode=getattr(ctypes, "RTLD_GLOBAL", 0))
            except OSError:
                return


@functools.cache
def threading_layer() -> str | None:
    """The threading layer in use, started if need be; None where Numba finds none.

    In a forked child whose parent had not started one, a layer is only started if it is sure to
    survive there: GNU's OpenMP hangs if the parent ever used it, even through another library.
    """
    wanted = str(config.THREADING_LAYER).lower()
    if wanted not in ("omp", "workqueue"):
        _load_tbb()
    try:
        numba.get_num_threads()  # starts the layer
        return str(numba.threading_layer())
    except Exception as error:  # Numba raises whatever the layer raised
        warnings.warn(
            f"nbnorm runs on one thread: Numba cannot start its threading layer ({error})",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def runs_parallel() -> bool:
    """Whether a parallel region may be entered here and now, and has more than one thread."""
    if config.DISABLE_JIT or (_forked and not _survives_fork()):
        return False
    layer = threading_layer()
    if layer is None:
        return False
    if layer == "workqueue" and not _alone():
        return False
    return bool(numba.get_num_threads() > 1)


def _survives_fork() -> bool:
    """Whether the layer works in a child; asked without starting one that might not."""
    if threading_layer.cache_info().currsize:
        return threading_layer() != "omp"
    wanted = str(config.THREADING_LAYER).lower()
    return wanted in ("tbb", "workqueue", "safe")


def _alone() -> bool:
    """Whether this is the main thread and no other runs Python: workqueue aborts otherwise."""
    return threading.current_thread() is threading.main_thread() and len(sys._current_frames()) == 1


def run(
    worker: Callable[..., None],
    driver: Callable[..., None],
    tiles: int,
    parallel: bool,
    *arguments: Any,
) -> None:
    """Runs a kernel over all its tiles, by its driver or by its worker alone."""
    if parallel and tiles > 1 and runs_parallel():
        driver(tiles, *arguments)
    else:
        worker(0, tiles, *arguments)
