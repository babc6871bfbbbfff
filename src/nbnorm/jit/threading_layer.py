"""Which of Numba's threading layers runs the kernels: chosen once, when the first one needs it.

nbnorm has Numba try

- what ``NUMBA_THREADING_LAYER`` or ``NUMBA_THREADING_LAYER_PRIORITY`` says;
- TBB and then workqueue, where OpenMP may hang or abort: in a child of multiprocessing or of a
  fork, whose parent may have used OpenMP, and on macOS, where a second OpenMP ends the process;
- OpenMP first, where one is loaded that Numba shares (openmp.py);
- TBB, OpenMP and workqueue, in this order, elsewhere.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numba
from numba.core import config
from numba.core.compiler_lock import global_compiler_lock

from nbnorm import forks
from nbnorm.jit import openmp, tbb

_NUMBAS = ["tbb", "omp", "workqueue"]
_OPENMP_FIRST = ["omp", "tbb", "workqueue"]
_OPENMP_LAST = ["tbb", "workqueue", "omp"]


class Choice(NamedTuple):
    """The order in which Numba is to try its layers, and why."""

    order: list[str]
    reason: str


class _State:
    """What is known of this process's layer."""

    is_missing = False  # Numba was asked for one in vain
    reason = "nothing has run in parallel yet"
    had_openmp = False  # when the layer was chosen


_state = _State()


def _is_child_of_multiprocessing() -> bool:
    module = sys.modules.get("multiprocessing.process")
    return module is not None and module.parent_process() is not None


def choose() -> Choice:
    """What Numba is to try, here and now."""
    order = list(config.THREADING_LAYER_PRIORITY)
    if str(config.THREADING_LAYER).lower() != "default":
        return Choice(order, "NUMBA_THREADING_LAYER says so")
    if order != _NUMBAS:
        return Choice(order, "NUMBA_THREADING_LAYER_PRIORITY says so")
    if sys.platform == "darwin":
        return Choice(_OPENMP_LAST, "a second OpenMP would end the process on macOS")
    if forks.is_forked() or _is_child_of_multiprocessing():
        return Choice(_OPENMP_LAST, "OpenMP may hang in the child of a process that has used it")
    if openmp.loaded() is None:
        return Choice(_NUMBAS, "no OpenMP is loaded whose threads could be shared")
    if not openmp.is_available():
        return Choice(_NUMBAS, f"Numba finds no {openmp.LIBRARY}, to share OpenMP's threads")
    return Choice(_OPENMP_FIRST, "OpenMP is loaded, and its threads are shared")


@contextlib.contextmanager
def _trying(order: list[str]) -> Iterator[None]:
    before = config.THREADING_LAYER_PRIORITY
    config.THREADING_LAYER_PRIORITY = order
    try:
        yield
    finally:
        config.THREADING_LAYER_PRIORITY = before


def started() -> str | None:
    """The layer in use; None if none is yet."""
    try:
        return str(numba.threading_layer())
    except ValueError:
        return None


def start() -> str | None:
    """The layer in use, started if need be; None, after one warning, where Numba finds none."""
    layer = started()
    if layer is not None or _state.is_missing:
        return layer
    with global_compiler_lock:  # of several threads, the first one starts it
        if started() is not None or _state.is_missing:
            return started()
        choice = choose()
        _state.had_openmp = openmp.loaded() is not None
        if str(config.THREADING_LAYER).lower() not in ("omp", "workqueue"):
            tbb.load()
        try:
            with _trying(choice.order), openmp.number_kept():
                numba.get_num_threads()
        except Exception as problem:  # noqa: BLE001  Numba passes on whatever the layer raises
            _state.is_missing = True
            _state.reason = f"Numba cannot start its threading layer ({problem})"
        else:
            forks.process.starter = threading.get_ident()
            _state.reason = choice.reason
            return started()
    warnings.warn(f"nbnorm runs on one thread: {_state.reason}", RuntimeWarning, stacklevel=2)
    return None


def is_missing() -> bool:
    """Whether Numba was asked for a layer in vain."""
    return _state.is_missing


def reason() -> str:
    """Why the layer is what it is, or why there is none."""
    layer = started()
    if layer is None:
        return _state.reason
    told = _state.reason if forks.process.starter else "other code had Numba start it"
    if layer != "omp" and openmp.loaded() is not None and not _state.had_openmp:
        told += "; an OpenMP was loaded afterwards, and its threads are others"
    return told
