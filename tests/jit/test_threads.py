"""Kernels in threads, forks and processes: nothing ends, hangs or differs in a single bit."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nbnorm.jit import threads
from tests.jit.processes import Process, environment

LAYERS = ["tbb", "omp", "workqueue"]

# Which layers run in parallel in a child that was forked by the only thread.
SURVIVE_FORKS = {"tbb", "workqueue"}

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def is_missing(layer: str) -> bool:
    """Whether this system has no wheel of the layer's library: see pyproject.toml."""
    if layer == "tbb":
        try:
            importlib.metadata.version("tbb")
        except importlib.metadata.PackageNotFoundError:
            return True
    return layer == "omp" and sys.platform == "darwin"


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> str:
    if is_missing(request.param):
        pytest.skip(f"no {request.param} here")
    return request.param


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for compiled code that the processes of this module share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def digest(cache: Path) -> str:
    """The results of one thread."""
    [record] = scenario("once", cache, NUMBA_NUM_THREADS=1)
    assert record["parallel"] == [False]
    assert record["layer"] is None
    assert len(record["digest"]) == 64
    return record["digest"]


def scenario(name: str, cache: Path, **variables: Any) -> list[dict[str, Any]]:
    """Runs one of scenarios.py on two threads; a variable that is None stays unset."""
    variables = {"NUMBA_CACHE_DIR": cache, "NUMBA_NUM_THREADS": 2, **variables}
    env = environment(**{key: value for key, value in variables.items() if value is not None})
    # Warnings are errors, but for the one of Python 3.12 that a process with threads forks.
    warnings = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")
    return Process(*warnings, "-m", "tests.jit.scenarios", name, env=env).records()


def assert_same_bits(records: list[dict[str, Any]], digest: str) -> None:
    assert [record["digest"] for record in records] == [digest] * len(records)


def parallel(records: list[dict[str, Any]]) -> dict[str, list[bool]]:
    return {record["who"]: record["parallel"] for record in records}


def test_each_layer_runs_in_parallel(layer, cache, digest):
    records = scenario("once", cache, NUMBA_THREADING_LAYER=layer)
    assert_same_bits(records, digest)
    assert parallel(records) == {"main": [True]}
    assert records[0]["layer"] == layer


def test_several_threads_at_once(layer, cache, digest):
    records = scenario("several_threads", cache, NUMBA_THREADING_LAYER=layer)
    assert_same_bits(records, digest)
    together = layer != "workqueue"
    assert parallel(records) == {"threads": [together], "main afterwards": [True]}


@needs_fork
@pytest.mark.parametrize("when", ["after", "before"])
def test_fork(when, layer, cache, digest):
    records = scenario(f"fork_{when}_use", cache, NUMBA_THREADING_LAYER=layer)
    assert_same_bits(records, digest)
    survives = layer in SURVIVE_FORKS
    expected = {"child": [survives], "grandchild": [survives], "main afterwards": [True]}
    assert parallel(records) == ({"main": [True]} if when == "after" else {}) | expected


@needs_fork
def test_fork_from_a_thread(layer, cache, digest):
    records = scenario("fork_from_a_thread", cache, NUMBA_THREADING_LAYER=layer)
    assert_same_bits(records, digest)
    assert parallel(records) == {
        "main": [True], "child": [False], "grandchild": [False], "main afterwards": [True],
    }  # fmt: skip


@needs_fork
def test_fork_after_use_by_a_thread(layer, cache, digest):
    records = scenario("fork_after_use_by_a_thread", cache, NUMBA_THREADING_LAYER=layer)
    assert_same_bits(records, digest)
    expected = parallel(records)
    assert expected.pop("thread") == [layer != "workqueue"]
    assert expected == {"child": [False], "grandchild": [False], "main afterwards": [True]}


@needs_fork
def test_fork_while_a_thread_works(layer, cache, digest):
    records = scenario("fork_while_a_thread_works", cache, NUMBA_THREADING_LAYER=layer)
    assert_same_bits(records, digest)
    assert parallel(records) == {
        "child": [False], "grandchild": [False], "main afterwards": [True],
    }  # fmt: skip


@needs_fork
def test_fork_while_a_thread_compiles(cache, digest):
    assert_same_bits(scenario("fork_while_a_thread_compiles", cache), digest)


@needs_fork
def test_a_fork_that_is_interrupted_while_it_waits():
    """Ctrl-C ends the wait for the compiler's lock, but not the fork: Python goes on with it."""
    code = """
import os, signal, threading, time
import numba
from numba.core.compiler_lock import global_compiler_lock
from nbnorm.jit import threads

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


def test_spawned_processes(layer, cache, digest):
    assert_same_bits(scenario("spawn", cache, NUMBA_THREADING_LAYER=layer), digest)


def test_more_threads_than_processors(layer, cache, digest):
    records = scenario("once", cache, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS=16)
    assert_same_bits(records, digest)
    assert parallel(records) == {"main": [True]}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_confined_to_one_processor(cache, digest):
    records = scenario("confined", cache, NUMBA_NUM_THREADS=None)
    assert_same_bits(records, digest)
    assert parallel(records) == {"main": [False]}
    assert records[0]["layer"] is None


def test_without_tbb_another_layer_serves(cache, digest):
    records = scenario("no_tbb", cache)
    assert_same_bits(records, digest)
    assert parallel(records)["main afterwards"] == [True]
    assert records[-1]["layer"] in ("omp", "workqueue")


@pytest.mark.parametrize("wanted", ["tbb", "nonsense"])
def test_a_layer_that_is_missing_means_one_warning_and_one_thread(wanted, cache, digest):
    *records, warning = scenario("no_tbb", cache, NUMBA_THREADING_LAYER=wanted)
    assert_same_bits(records, digest)
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
    monkeypatch.setattr(threads, "numba", slow_numba)
    monkeypatch.setattr(threads, "_process", threads._Process())
    with ThreadPoolExecutor(8) as pool, pytest.warns(RuntimeWarning, match="broken") as caught:
        layers = list(pool.map(lambda _: threads.threading_layer(), range(8)))
    assert layers == [None] * 8
    assert (len(started), len(caught)) == (1, 1)


def test_the_user_s_number_of_threads_is_respected(cache, digest):
    code = """
import numba
from nbnorm.jit import threads
answers = [threads.runs_parallel()]
numba.set_num_threads(1)
answers.append(threads.runs_parallel())
numba.set_num_threads(2)
answers.append(threads.runs_parallel())
print(*answers)
"""
    env = environment(NUMBA_CACHE_DIR=cache, NUMBA_NUM_THREADS=2)
    assert Process("-c", code, env=env).output()[0].split() == ["True", "False", "True"]
