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
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numba
from numba.core import config
from numba.core.compiler_lock import global_compiler_lock

from nbnorm import forks
from nbnorm.jit import tbb
from nbnorm.jit.tiles import address_of_deal


class _Layer:
    """What is known of Numba's threading layer."""

    is_missing = False  # Numba was asked for one in vain


_layer = _Layer()


# --- layers ---------------------------------------------------------------------------------


def _started_layer() -> str | None:
    try:
        return str(numba.threading_layer())
    except ValueError:  # none yet
        return None


def threading_layer() -> str | None:
    """The threading layer in use, started if need be; None where Numba finds none."""
    layer = _started_layer()
    if layer is not None or _layer.is_missing:
        return layer
    with global_compiler_lock:  # of several threads, the first one starts it
        if _started_layer() is not None or _layer.is_missing:
            return _started_layer()
        if str(config.THREADING_LAYER).lower() not in ("omp", "workqueue"):
            tbb.load()
        try:
            numba.get_num_threads()
        except Exception as reason:  # noqa: BLE001  Numba passes on whatever the layer raises
            _layer.is_missing = True
            problem = reason
        else:
            forks.process.starter = threading.get_ident()
            return _started_layer()
    warnings.warn(
        f"nbnorm runs on one thread: Numba cannot start its threading layer ({problem})",
        RuntimeWarning,
        stacklevel=2,
    )
    return None


def runs_parallel() -> bool:
    """Whether a parallel region may be entered here and now, and has more than one thread."""
    if config.DISABLE_JIT or config.NUMBA_NUM_THREADS == 1 or forks.process.has_lost_threads:
        return False
    layer = threading_layer()
    if layer is None or (layer == "omp" and forks.is_forked()):
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


def run(worker: Callable[..., None], tiles: int, parallel: bool, *arguments: Any) -> None:
    """Runs a kernel over all its tiles: dealt out to threads, or all on this one."""
    if parallel and tiles > 1 and runs_parallel():
        deal = address_of_deal()
        with forks.region():
            try:
                worker(-deal, tiles, *arguments)
            finally:
                tbb.leave()
    else:
        worker(0, tiles, *arguments)
