"""Forks: what a child must not find half done.

A child has a copy of all memory and only one of the threads. A lock that another thread held at the
fork stays locked in it for ever, and what another was in the middle of stays as it was. So a fork
waits until no other thread imports a module of this package, compiles, is in a parallel region, or
holds a lock that `hold_while_forking` was given.

The hooks stand from `import nbnorm` on, for processes that fork before they first use it. They take
no time of that import: what they need of Numba and of `threading` they find where it is loaded.
"""

from __future__ import annotations

import os
import sys
from _thread import RLock, _local, get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

# So long a fork waits for one lock while it holds others. The thread that has it may be waiting for
# one of those (a region's kernel may have to be compiled first): then the fork lets go of all and
# begins again.
_PATIENCE_SECONDS = 1.0

# In the flags of a process that Linux tells: it has been forked and runs the same program still.
_PF_FORKNOEXEC = 0x40


class _Process:
    """What is known of this process."""

    is_forked: bool | None = None  # None: nobody has asked yet
    has_lost_threads = False  # to a fork, and with them perhaps some of Numba's
    starter: int | None = None  # the thread that started Numba's threading layer, if nbnorm did


process = _Process()

_held: list[Any] = []
_regions: dict[int, Any] = {}  # by thread
_forking = _local()


def hold_while_forking(lock: Any) -> Any:
    """Has every fork wait for a reentrant lock, which its child then finds free; returns it."""
    _held.append(lock)
    return lock


_new_region = hold_while_forking(RLock())


def region() -> Any:
    """The lock that the calling thread holds while it is in a parallel region.

    Each thread has its own, so that only forks wait for it.
    """
    own = get_ident()
    lock = _regions.get(own)
    if lock is None:
        with _new_region:
            lock = _regions.setdefault(own, RLock())
    return lock


def starter() -> int | None:
    """The thread that started Numba's threading layer; the main one, where nbnorm did not."""
    return process.starter or sys.modules["threading"].main_thread().ident


def is_forked() -> bool:
    """Whether this process runs on from a fork, which may have been before `import nbnorm`."""
    if process.is_forked is None:
        process.is_forked = _is_told_to_be_forked()
    return process.is_forked


def _is_told_to_be_forked() -> bool:
    try:
        with open("/proc/self/stat") as file:
            _, _, fields = file.read().rpartition(")")  # after the program's name
    except OSError:  # another system, which does not tell
        return False
    return bool(int(fields.split()[6]) & _PF_FORKNOEXEC)


# --- the hooks ------------------------------------------------------------------------------


def _locks() -> Iterator[Any]:
    """What a fork holds, in the order in which threads take one within another."""
    compiler = getattr(sys.modules.get("numba.core.compiler_lock"), "global_compiler_lock", None)
    if compiler is not None:
        yield compiler._lock
    yield from _held
    yield from list(_regions.values())  # no more are added: `_new_region` is held


def _is_losing_threads() -> bool:
    """Whether a fork by this thread, now, takes threads from Numba's layer."""
    try:
        sys.modules["numba"].threading_layer()
    except (KeyError, AttributeError, ValueError):  # not imported, or no layer started
        return False
    return starter() != get_ident() or len(sys._current_frames()) > 1


def _before_fork() -> None:
    _forking.taken, _forking.is_losing_threads = [], True
    interrupt = None

    def take(lock: Any) -> bool:
        nonlocal interrupt
        if not lock._is_owned():
            _forking.taken.append(lock)
            try:
                lock.acquire(timeout=_PATIENCE_SECONDS)
            # Python forks even if this function raises, and an interrupt from the keyboard ends a
            # wait: it is passed on in the end.
            except BaseException as error:  # noqa: BLE001
                interrupt = error
        return lock._is_owned()

    while not all(map(take, _locks())):
        _let_go()
    _forking.is_losing_threads = _is_losing_threads()
    if interrupt is not None:
        raise interrupt


def _let_go() -> None:
    while _forking.taken:
        lock = _forking.taken.pop()
        if lock._is_owned():
            lock.release()


def _after_fork_in_child() -> None:
    process.is_forked = True
    process.has_lost_threads |= _forking.is_losing_threads
    _let_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_let_go, after_in_child=_after_fork_in_child
    )
