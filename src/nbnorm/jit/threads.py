"""Whether a kernel runs in parallel, and on how many threads.

Numba's threading layers differ in what they survive (seen with Numba 0.68):

=========  =================  ==================  ==================  =============  ============
layer      two Python         fork, then a call   fork while another  fork of a      a hot region
           threads at once    in the child        thread is at work   fork, after
                                                                      threads
=========  =================  ==================  ==================  =============  ============
tbb        works              works               1 child in 5 hangs  1 in 3 to 30   2 to 4 us
                                                                      hangs
omp (GNU)  works              the child is        the child is        a grandchild   1.5 us
                              killed              killed              hangs
workqueue  ends the process   works               works               works          65 to 100 us
=========  =================  ==================  ==================  =============  ============

So a kernel runs on the calling thread alone

- in the child of a fork, if the layer is OpenMP, if other Python threads were alive at the fork, or
  if another thread than the forking one had started the layer;
- under workqueue, in any but the main thread, and wherever another Python thread is alive;
- where no layer can be started, after one warning;

and a fork waits for regions, and under TBB threads leave it with each: see forks.py and tbb.py for
what hung. Elsewhere a kernel has as many threads as the user asks for (`limited`), or a framework
that calls on its user's behalf (`preferring`), or Numba's own: `numba.set_num_threads` and
``NUMBA_NUM_THREADS``, which is the most in any case. Results depend on none of it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numba
from numba.core import config

from nbnorm import forks
from nbnorm.jit import tbb, threading_layer, threadpool
from nbnorm.jit.tiles import address_of_deal

# --- how many -------------------------------------------------------------------------------

# The limits in force, by their objects' identity. One holds for the thread that set it, and for
# those that have set none: a pool's, which somebody started under it.
_limits: dict[int, int] = {}


class _Limit:
    """A limit, in force as long as its thread keeps it."""

    def __init__(self, number: int) -> None:
        self.number = number
        _limits[id(self)] = number

    def __del__(self) -> None:
        _limits.pop(id(self), None)


class _Thread(threading.local):
    """What was asked for in the calling thread."""

    limit: _Limit | None = None
    preferred: int | None = None  # by a framework
    inherited: int | None = None  # in the child of a fork under way


_thread = _Thread()


def limit() -> int | None:
    """The calling thread's own limit."""
    return None if _thread.limit is None else _thread.limit.number


def set_limit(number: int | None) -> None:
    """Has the calling thread run kernels on so many threads, and others on no more."""
    _thread.limit = None if number is None else _Limit(number)


@contextlib.contextmanager
def limited(number: int) -> Iterator[None]:
    """Sets a limit for a while."""
    before = limit()
    try:
        set_limit(number)
        yield
    finally:
        set_limit(before)


def one_thread() -> contextlib.AbstractContextManager[None]:
    """Runs kernels on the calling thread alone for a while."""
    return limited(1)


@contextlib.contextmanager
def preferring(number: int) -> Iterator[None]:
    """Runs the calling thread's kernels on as many threads as a framework has, but for limits."""
    before = _thread.preferred
    try:
        _thread.preferred = number
        yield
    finally:
        _thread.preferred = before


def number() -> int:
    """How many threads a large kernel would have that is called now, if nothing is in the way."""
    return _asked_number() or _numbas_number()


def _numbas_number() -> int:
    return numba.get_num_threads() if threading_layer.started() else config.NUMBA_NUM_THREADS


def _asked_number() -> int | None:
    """How many threads were asked for here; None where Numba's own number holds."""
    if _thread.limit is not None:
        number = _thread.limit.number
    elif _limits:
        number = min([_thread.preferred or _numbas_number(), *_limits.values()])
    elif _thread.preferred is not None:
        number = _thread.preferred
    else:
        return None
    return min(number, config.NUMBA_NUM_THREADS)


def _set_number(number: int) -> None:
    set_limit(number if number < config.NUMBA_NUM_THREADS else None)


threadpool.offer(number, _set_number)


def _note_limit() -> None:
    _thread.inherited = _asked_number() if _limits else None


def _inherit_limit() -> None:
    """What holds for the forking thread, by its own limit or its pool's, is the child's limit."""
    _limits.clear()
    set_limit(_thread.inherited)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_note_limit, after_in_child=_inherit_limit)


# --- whether --------------------------------------------------------------------------------


def _is_alone() -> bool:
    """Whether this is the main thread and no other runs Python."""
    return threading.current_thread() is threading.main_thread() and len(sys._current_frames()) == 1


def _obstacle(layer: str) -> str | None:
    """Why a layer's threads may not be called here and now."""
    if forks.process.has_lost_threads:
        return "a fork took some of its threads"
    if layer == "omp" and forks.is_forked():
        return "OpenMP may hang in the child of a fork"
    if layer == "workqueue" and not _is_alone():
        return "workqueue would end a process in which several threads use it"
    return None


def runs_parallel() -> bool:
    """Whether a parallel region may be entered here and now, and has more than one thread."""
    asked = _asked_number()
    if asked == 1 or config.NUMBA_NUM_THREADS == 1 or config.DISABLE_JIT:
        return False
    layer = threading_layer.start()
    if layer is None or _obstacle(layer) is not None:
        return False
    return (asked or numba.get_num_threads()) > 1


def thread_count() -> int:
    """How many threads a parallel region entered here and now would have."""
    return (_asked_number() or numba.get_num_threads()) if runs_parallel() else 1


class Threading(NamedTuple):
    """How kernels run in parallel in this process.

    layer    Numba's threading layer: "tbb", "omp" (OpenMP) or "workqueue"; None before the first
             kernel has needed one, and where there is none
    reason   why it is that one, or none
    threads  how many threads a large kernel has that this thread calls now
    """

    layer: str | None
    reason: str
    threads: int


def status() -> Threading:
    """How kernels run in parallel, as far as that has been decided: it starts nothing."""
    layer, reason = threading_layer.started(), threading_layer.reason()
    if layer is None:
        is_serial = threading_layer.is_missing() or config.DISABLE_JIT
        return Threading(None, reason, 1 if is_serial else number())
    obstacle = _obstacle(layer)
    if obstacle is not None:
        reason += f"; here kernels run on one thread: {obstacle}"
    return Threading(layer, reason, thread_count())


# --- the run --------------------------------------------------------------------------------


@contextlib.contextmanager
def _numba_on(number: int) -> Iterator[None]:
    before = numba.get_num_threads()
    if before == number:
        yield
        return
    try:
        numba.set_num_threads(number)
        yield
    finally:
        numba.set_num_threads(before)


def run(worker: Callable[..., None], tiles: int, parallel: bool, *arguments: Any) -> None:
    """Runs a kernel over all its tiles: dealt out to threads, or all on this one."""
    if not (parallel and tiles > 1 and runs_parallel()):
        worker(0, tiles, *arguments)
        return
    deal = address_of_deal()
    asked = _asked_number()
    with forks.region():
        if asked is None:
            worker(-deal, tiles, *arguments)
        else:
            with _numba_on(asked):
                worker(-deal, tiles, *arguments)
        tbb.leave()
