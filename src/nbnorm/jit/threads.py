"""When a kernel runs in parallel: where it is worth it and where it is safe.

Numba's threading layers differ in what they survive (seen with Numba 0.68):

=========  =================  ====================  ===================  ====================
layer      two Python         fork, then a call in  fork while another   a hot parallel region
           threads at once    the child             thread is at work
=========  =================  ====================  ===================  ====================
tbb        works              works                 1 child in 5 hangs   2 to 4 us
omp (GNU)  works              the child is killed   the child is killed  1.5 us
workqueue  ends the process   works                 works                65 to 100 us
=========  =================  ====================  ===================  ====================

So TBB is found for Numba when it is installed, and a kernel runs on the calling thread alone

- in the child of a fork, if the layer is OpenMP, if other Python threads were alive at the fork, or
  if another thread than the forking one had started the layer;
- under workqueue, in any but the main thread, and wherever another Python thread is alive;
- where no layer can be started, after one warning.

Results do not depend on the choice. ``NUMBA_THREADING_LAYER``, ``NUMBA_NUM_THREADS`` and
`numba.set_num_threads` are respected.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numba
from numba.core import config
from numba.core.compiler_lock import global_compiler_lock

from nbnorm.jit.tiles import address_of_deal
from nbnorm.lazy import importing

_TBB_LIBRARIES = ("libtbb.so.12", "tbb12.dll")


class _Process:
    """What is known of this process."""

    starter: int | None = None  # the thread that started the layer, if this module did
    has_no_layer = False  # Numba was asked for one in vain
    is_forked = False
    has_lost_threads = False  # to a fork, and with them perhaps a piece of a parallel region
    is_losing_threads = False  # by the fork under way


_process = _Process()


# --- forks ----------------------------------------------------------------------------------

# A child has a copy of every lock and only one of the threads: a lock that another one held at the
# fork stays locked for ever. A fork therefore waits for these, always in this order. (The first has
# a hook of its own, for forks before this module is imported, but hooks run the last first.)
_held_while_forking: list[Any] = [importing, global_compiler_lock._lock]

_forking = threading.local()


def hold_while_forking(lock: Any) -> Any:
    """Has every fork wait for a reentrant lock, so that the child finds it free; returns the lock.

    A thread that holds the lock must not start compiling: the compiler's lock is taken before it.
    """
    _held_while_forking.append(lock)
    return lock


def _before_fork() -> None:
    _forking.taken = [lock for lock in _held_while_forking if not lock._is_owned()]
    interrupt = None
    for lock in _forking.taken:
        # Python forks even if this function raises, and an interrupt from the keyboard ends a wait.
        while not lock._is_owned():
            try:
                lock.acquire()
            except BaseException as error:  # noqa: BLE001
                interrupt = error
    started_elsewhere = _process.starter not in (None, threading.get_ident())
    _process.is_losing_threads = started_elsewhere or len(sys._current_frames()) > 1
    if interrupt is not None:
        raise interrupt


def _after_fork_in_parent() -> None:
    for lock in reversed(_forking.taken):
        lock.release()


def _after_fork_in_child() -> None:
    _process.is_forked = True
    _process.has_lost_threads |= _process.is_losing_threads
    _after_fork_in_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )


# --- layers ---------------------------------------------------------------------------------


def _load_tbb() -> None:
    """Loads the TBB that pip put into the environment's own folder, where no loader looks."""
    try:
        files = importlib.metadata.files("tbb") or []
    except importlib.metadata.PackageNotFoundError:
        return
    for file in files:
        if file.name in _TBB_LIBRARIES:
            try:
                ctypes.CDLL(str(file.locate()))
            except OSError:
                return


def _started_layer() -> str | None:
    try:
        return str(numba.threading_layer())
    except ValueError:  # none yet
        return None


def threading_layer() -> str | None:
    """The threading layer in use, started if need be; None where Numba finds none."""
    layer = _started_layer()
    if layer is not None or _process.has_no_layer:
        return layer
    with global_compiler_lock:  # of several threads, the first one starts it
        if _started_layer() is not None or _process.has_no_layer:
            return _started_layer()
        if str(config.THREADING_LAYER).lower() not in ("omp", "workqueue"):
            _load_tbb()
        try:
            numba.get_num_threads()
        except Exception as reason:  # noqa: BLE001  Numba passes on whatever the layer raises
            _process.has_no_layer = True
            problem = reason
        else:
            _process.starter = threading.get_ident()
            return _started_layer()
    warnings.warn(
        f"nbnorm runs on one thread: Numba cannot start its threading layer ({problem})",
        RuntimeWarning,
        stacklevel=2,
    )
    return None


def runs_parallel() -> bool:
    """Whether a parallel region may be entered here and now, and has more than one thread."""
    if config.DISABLE_JIT or config.NUMBA_NUM_THREADS == 1 or _process.has_lost_threads:
        return False
    layer = threading_layer()
    if layer is None or (layer == "omp" and _process.is_forked):
        return False
    if layer == "workqueue" and not _alone():
        return False
    return bool(numba.get_num_threads() > 1)


def thread_count() -> int:
    """How many threads a parallel region entered here and now would have."""
    return numba.get_num_threads() if runs_parallel() else 1


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Runs kernels on the calling thread alone."""
    if not runs_parallel():
        yield
        return
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        yield
    finally:
        numba.set_num_threads(before)


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
        worker(-address_of_deal(), tiles, *arguments)
    else:
        worker(0, tiles, *arguments)
