"""Kernels in threads, forks and processes: nothing ends, hangs or differs in a single bit."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from nbnorm.jit import threading_layer, threads
from nbnorm.jit.cache import cache_root
from tests.jit import calls
from tests.jit.calls import BATCH_NORM, FAMILIES
from tests.jit.processes import Process, environment

pytestmark = pytest.mark.alone

# Numba prefers the first.
LAYERS = ["tbb", "omp", "workqueue"]

# Which layers run in parallel in a child that was forked by the only thread.
SURVIVE_FORKS = {"tbb", "workqueue"}

needs_timers = pytest.mark.skipif(
    not hasattr(signal, "setitimer"), reason="no timers on this system"
)

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def is_missing(layer: str) -> bool:
    """Whether this system has no library of the layer."""
    if layer == "tbb":  # not everywhere is there a wheel: see pyproject.toml
        try:
            importlib.metadata.version("tbb")
        except importlib.metadata.PackageNotFoundError:
            return True
    if layer == "omp":  # Numba's wheels bring none: it is the system's, and optional there
        try:
            importlib.import_module("numba.np.ufunc.omppool")
        except ImportError:
            return True
    return False


@pytest.fixture(params=[LAYERS[0], *(pytest.param(o, marks=pytest.mark.slow) for o in LAYERS[1:])])
def layer(request: pytest.FixtureRequest) -> str:
    if is_missing(request.param):
        pytest.skip(f"no {request.param} here")
    return request.param


@pytest.fixture(scope="session")
def digest() -> Callable[[Iterable[str]], str]:
    """The results of some calls on one thread."""

    @functools.cache
    def of(names: tuple[str, ...]) -> str:
        # Compiled here, where no watchdog waits, for all processes to load.
        calls.work(names)
        with threads.one_thread():
            calls.work(names)
        [record] = scenario("once", names, NUMBA_NUM_THREADS=1)
        assert record["parallel"] == [False]
        assert record["layer"] is None
        assert len(record["digest"]) == 64
        return record["digest"]

    return of


def scenario(
    name: str,
    names: Iterable[str] = BATCH_NORM,
    *,
    seconds: float = 0.0,
    missing: Iterable[str] = (),
    **variables: Any,
) -> list[dict[str, Any]]:
    """Runs one of scenarios.py on two threads; a variable that is None stays unset.

    Compiled code is kept where this process keeps its own.
    """
    options = {"calls": list(names), "seconds": seconds, "missing": list(missing)}
    variables = {"NUMBA_CACHE_DIR": cache_root(), "NUMBA_NUM_THREADS": 2, **variables}
    env = environment(**{key: value for key, value in variables.items() if value is not None})
    # Warnings are errors, but for the one of Python 3.12 that a process with threads forks.
    warnings = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")
    arguments = ("-m", "tests.jit.scenarios", name, json.dumps(options))
    return Process(*warnings, *arguments, env=env).records()


def assert_same_bits(records: list[dict[str, Any]], digest: str) -> None:
    assert [record["digest"] for record in records] == [digest] * len(records)


def parallel(records: list[dict[str, Any]]) -> dict[str, list[bool]]:
    return {record["who"]: record["parallel"] for record in records}


def test_each_layer_runs_in_parallel(layer, digest):
    records = scenario("once", NUMBA_THREADING_LAYER=layer)
    assert_same_bits(records, digest(BATCH_NORM))
    assert parallel(records) == {"main": [True]}
    assert records[0]["layer"] == layer


def test_several_threads_at_once(layer, digest):
    """Eight of them, each in another function."""
    records = scenario("several_threads", FAMILIES, seconds=1.5, NUMBA_THREADING_LAYER=layer)
    assert_same_bits(records, digest(FAMILIES))
    together = layer != "workqueue"
    assert parallel(records) == {"threads": [together], "main afterwards": [True]}
    assert records[0]["calls"] >= 8 * len(FAMILIES)


@needs_fork
@pytest.mark.parametrize("when", ["after", "before"])
def test_fork(when, layer, digest):
    records = scenario(f"fork_{when}_use", NUMBA_THREADING_LAYER=layer)
    assert_same_bits(records, digest(BATCH_NORM))
    survives = layer in SURVIVE_FORKS
    expected = {"child": [survives], "grandchild": [survives], "main afterwards": [True]}
    assert parallel(records) == ({"main": [True]} if when == "after" else {}) | expected


@needs_fork
def test_fork_from_a_thread(layer, digest):
    records = scenario("fork_from_a_thread", NUMBA_THREADING_LAYER=layer)
    assert_same_bits(records, digest(BATCH_NORM))
    assert parallel(records) == {
        "main": [True], "child": [False], "grandchild": [False], "main afterwards": [True],
    }  # fmt: skip


@needs_fork
def test_fork_after_use_by_a_thread(layer, digest):
    records = scenario("fork_after_use_by_a_thread", NUMBA_THREADING_LAYER=layer)
    assert_same_bits(records, digest(BATCH_NORM))
    expected = parallel(records)
    assert expected.pop("thread") == [layer != "workqueue"]
    assert expected == {"child": [False], "grandchild": [False], "main afterwards": [True]}


@needs_fork
def test_fork_while_a_thread_works(layer, digest):
    records = scenario("fork_while_a_thread_works", NUMBA_THREADING_LAYER=layer)
    assert_same_bits(records, digest(BATCH_NORM))
    assert parallel(records) == {
        "child": [False], "grandchild": [False], "main afterwards": [True],
    }  # fmt: skip


@needs_fork
def test_fork_while_a_thread_compiles(digest):
    assert_same_bits(scenario("fork_while_a_thread_compiles"), digest(BATCH_NORM))


@needs_fork
def test_a_fork_that_is_interrupted_while_it_waits():
    """Ctrl-C ends the wait for the compiler's lock, but not the fork: Python goes on with it."""
    code = """
import os, signal, threading, time
import numba
from numba.core.compiler_lock import global_compiler_lock
from nbnorm.jit import threading_layer, threads

def compile_one():
    assert numba.njit(lambda value: value + 1)(1) == 2

def hold():
    with global_compiler_lock:
        held.set()
        time.sleep(1.0)

held = threading.Event()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
signal.signal(signal.SIGALRM, signal.default_int_handler)
signal.setitimer(signal.ITIMER_REAL, 0.2)
child = os.fork()
compile_one()  # hung in the child, where nobody released the lock
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
thread.join()
for task in (hold, compile_one):  # and nobody holds it in the parent
    thread = threading.Thread(target=task)
    thread.start()
    thread.join()
"""
    env = environment(NBNORM_CACHE=0)
    assert "KeyboardInterrupt" in Process("-W", "ignore", "-c", code, env=env).output(20)[1]


def test_pools_of_processes(layer, digest):
    records = scenario("pools", NUMBA_THREADING_LAYER=layer)
    assert_same_bits(records, digest(BATCH_NORM))
    assert len(records) == 2 + len(multiprocessing.get_all_start_methods())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["executors", "with_joblib"])
def test_executors(name, digest):
    """Each layer in `make soak`."""
    assert_same_bits(scenario(name, FAMILIES), digest(FAMILIES))


def test_kernels_in_compiled_code_of_the_user(layer, digest):
    records = scenario("own_code", NUMBA_THREADING_LAYER=layer)
    assert_same_bits(records, digest(BATCH_NORM))


@needs_timers
def test_interrupts_from_the_keyboard(layer, digest):
    records = scenario("interrupted", NUMBA_THREADING_LAYER=layer)
    assert_same_bits(records, digest(BATCH_NORM))
    assert records[-1]["faults"] >= 20


@needs_timers
def test_interrupts_while_compiling(digest):
    names = ("batch norm inference",)
    records = scenario("interrupted_while_compiling", names, NBNORM_CACHE=0)
    assert_same_bits(records, digest(names))
    assert records[-1]["faults"] >= 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals are of another kind")
def test_ctrl_c_ends_a_process_as_it_does_elsewhere(layer):
    variables = {"NUMBA_THREADING_LAYER": layer, "NUMBA_CACHE_DIR": cache_root()}
    process = Process(
        "-m", "tests.jit.scenarios", "until_killed", env=environment(**variables)
    )  # fmt: skip
    assert "KeyboardInterrupt" in process.interrupted(after=0.5)


def test_threads_inside_kernels_when_the_process_ends(layer):
    scenario("daemon_threads_at_the_end", FAMILIES, NUMBA_THREADING_LAYER=layer)


def test_more_threads_than_processors(layer, digest):
    records = scenario("once", NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS=16)
    assert_same_bits(records, digest(BATCH_NORM))
    assert parallel(records) == {"main": [True]}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_confined_to_one_processor(digest):
    records = scenario("confined", NUMBA_NUM_THREADS=None)
    assert_same_bits(records, digest(BATCH_NORM))
    assert parallel(records) == {"main": [False]}
    assert records[0]["layer"] is None


@pytest.mark.parametrize("absent", LAYERS)
def test_without_a_layer_another_one_serves(absent, digest):
    if all(map(is_missing, {*LAYERS} - {absent})):
        pytest.skip(f"nothing but {absent} here")
    records = scenario("missing", missing=[absent])
    assert_same_bits(records, digest(BATCH_NORM))
    assert parallel(records)["main afterwards"] == [True]
    assert records[-1]["layer"] in {*LAYERS} - {absent}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wanted", "absent"),
    [*((layer, [layer]) for layer in LAYERS), ("nonsense", []), (None, LAYERS)],
)
def test_a_layer_that_is_missing_means_one_warning_and_one_thread(wanted, absent, digest):
    *records, warning = scenario("missing", missing=absent, NUMBA_THREADING_LAYER=wanted)
    assert_same_bits(records, digest(BATCH_NORM))
    assert parallel(records) == {"threads": [False], "main afterwards": [False]}
    assert "nbnorm runs on one thread" in warning["warning"]


def test_threads_that_ask_together_start_the_layer_once(monkeypatch):
    started = []

    def no_layer_yet():
        raise ValueError

    def fail():
        started.append(threading.get_ident())
        time.sleep(0.05)
        raise RuntimeError("broken")

    slow_numba = SimpleNamespace(threading_layer=no_layer_yet, get_num_threads=fail)
    monkeypatch.setattr(threading_layer, "numba", slow_numba)
    monkeypatch.setattr(threading_layer, "_state", threading_layer._State())
    with ThreadPoolExecutor(8) as pool, pytest.warns(RuntimeWarning, match="broken") as caught:
        found = list(pool.map(lambda _: threading_layer.start(), range(8)))
    assert found == [None] * 8
    assert (len(started), len(caught)) == (1, 1)


def test_the_user_s_number_of_threads_is_respected():
    code = """
import numba
from nbnorm.jit import threading_layer, threads
answers = [threads.runs_parallel()]
numba.set_num_threads(1)
answers.append(threads.runs_parallel())
numba.set_num_threads(2)
answers.append(threads.runs_parallel())
print(*answers)
"""
    env = environment(NUMBA_CACHE_DIR=cache_root(), NUMBA_NUM_THREADS=2)
    assert Process("-c", code, env=env).output()[0].split() == ["True", "False", "True"]
