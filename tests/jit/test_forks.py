"""Forks of processes with threads: no child hangs, and every result has the same bits."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest

from nbnorm import forks
from nbnorm.jit.cache import cache_root
from tests.jit.calls import BATCH_NORM
from tests.jit.fork_trials import PYTORCH, SEQUENCES, tried
from tests.jit.processes import Process, environment
from tests.jit.test_threads import (
    digest,  # noqa: F401  a fixture
    layer,  # noqa: F401  a fixture
)

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
]


def assert_well(layer_, sequence, digest_):
    digest_(BATCH_NORM)  # compiled once, for all
    outcome = tried(layer_, sequence, 1)
    assert (outcome.hangs, outcome.failures) == (0, 0), outcome


@pytest.mark.slow
@pytest.mark.parametrize("sequence", [name for name in SEQUENCES if name not in PYTORCH])
def test_a_sequence_of_forks(sequence, layer, digest):  # noqa: F811
    """Once each; `make soak` has 200 trials of those that hung, beside a busy process."""
    assert_well(layer, sequence, digest)


@pytest.mark.slow
@pytest.mark.peer
@pytest.mark.parametrize("sequence", PYTORCH)
def test_a_loader_of_pytorch(sequence, layer, torch, digest):  # noqa: F811
    assert_well(layer, sequence, digest)


@pytest.mark.slow
@pytest.mark.peer
@pytest.mark.parametrize("sequence", PYTORCH)
def test_a_loader_of_pytorch_on_the_layer_that_is_chosen(sequence, torch, digest):  # noqa: F811
    assert_well("default", sequence, digest)


# --- what a fork waits for ------------------------------------------------------------------


def fork_while(hold: Any, released_after: float) -> float:
    """How long a fork took while another thread held a lock for so many seconds."""
    held = threading.Event()

    def task() -> None:
        with hold:
            held.set()
            time.sleep(released_after)

    thread = threading.Thread(target=task)
    thread.start()
    held.wait()
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        os._exit(0 if hold.acquire(blocking=False) else 1)
    seconds = time.monotonic() - start
    assert os.waitpid(child, 0)[1] == 0
    thread.join()
    return seconds


@pytest.fixture
def lock() -> Any:
    lock = forks.hold_while_forking(threading.RLock())
    yield lock
    forks._held.remove(lock)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("seconds", [0.2, 1.5 * forks._PATIENCE_SECONDS])
def test_a_fork_waits_for_a_lock(seconds, lock):
    assert fork_while(lock, seconds) >= 0.9 * seconds
    assert lock.acquire(blocking=False)  # and nobody holds it
    lock.release()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_waits_for_the_region_of_another_thread():
    region = Region()
    assert fork_while(region, 0.2) >= 0.18


class Region:
    """The lock of the thread that takes it first."""

    def __init__(self) -> None:
        self._lock: Any = None

    def __enter__(self) -> None:
        self._lock = forks.region()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def acquire(self, blocking: bool) -> bool:
        return self._lock.acquire(blocking=blocking)


def test_each_thread_has_a_region_of_its_own():
    regions = [forks.region(), forks.region()]
    thread = threading.Thread(target=lambda: regions.append(forks.region()))
    thread.start()
    thread.join()
    assert regions[0] is regions[1]
    assert regions[2] is not regions[0]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_lets_go_of_what_others_wait_for(lock):
    """Of two threads that take two locks in turn, one forks: neither waits for ever."""
    second = forks.hold_while_forking(threading.RLock())
    has_second = threading.Event()

    def task() -> None:
        with second:
            has_second.set()
            time.sleep(0.2)  # the fork has the first by now, and waits for the second
            with lock:
                pass

    thread = threading.Thread(target=task)
    thread.start()
    has_second.wait()
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    thread.join()
    forks._held.remove(second)


def in_a_process(code: str, **variables: Any) -> str:
    env = environment(NUMBA_CACHE_DIR=cache_root(), NUMBA_NUM_THREADS=2, **variables)
    return Process("-W", "ignore", "-c", code, env=env).output(30)[0]


def test_hooks_stand_before_numba_is_used():
    """A child is not left with the compiler's lock, though nbnorm has only been imported."""
    code = """
import os, sys, threading, time
import nbnorm
assert "nbnorm.jit.threads" not in sys.modules
import numba
from numba.core.compiler_lock import global_compiler_lock

def hold():
    with global_compiler_lock:
        held.set()
        time.sleep(0.5)

held = threading.Event()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
child = os.fork()
assert numba.njit(lambda value: value + 1)(1) == 2
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
thread.join()
"""
    in_a_process(code)


TELL = "from nbnorm import forks; print(forks.is_forked(), flush=True)"
IS_FORKED = f"""
import os, sys
MODULES
def tell():
    {TELL}

child = os.fork()
if child == 0:
    tell()
    os._exit(0)
os.waitpid(child, 0)
tell()
os.execv(sys.executable, [sys.executable, "-c", {TELL!r}])
"""


@pytest.mark.parametrize("modules", ["", "import nbnorm"])
def test_a_process_knows_that_it_was_forked(modules):
    if not modules and not os.path.isdir("/proc/self"):
        pytest.skip("only Linux tells of a fork before the import")
    assert in_a_process(IS_FORKED.replace("MODULES", modules)).split() == ["True", "False", "False"]


LOSES_THREADS = """
import os, threading
import numpy as np
import nbnorm
from nbnorm import forks
x = np.ones((16, 32, 28, 28), np.float32)

def tell():
    child = os.fork()
    if child == 0:
        print(forks.process.has_lost_threads, flush=True)
        os._exit(0)
    os.waitpid(child, 0)

def in_a_thread(task):
    thread = threading.Thread(target=task)
    thread.start()
    thread.join()

def with_another_thread():
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    tell()
    done.set()
    thread.join()

with_another_thread()
in_a_thread(tell)
nbnorm.batch_norm_forward(x)
tell()
with_another_thread()
in_a_thread(tell)
"""


def test_a_child_knows_which_threads_it_lost():
    """None of Numba's before there is a layer; then those that did not fork."""
    told = in_a_process(LOSES_THREADS).split()
    assert told == ["False", "False", "False", "True", "True"]
