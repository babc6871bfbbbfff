"""How many threads kernels have: whose word counts, in threads, pools and processes."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import joblib
import numba
import pytest
import threadpoolctl
from numba.core import config

import nbnorm
from nbnorm.jit import threads
from nbnorm.jit.cache import cache_root
from tests.jit.processes import Process, environment

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def told(code: str, **variables: Any) -> list[int]:
    """What a process with four threads prints, by lines; `tell` prints how many it has."""
    begin = """
import os, sys, threading
import numba, nbnorm
from nbnorm.jit import threads

def seen():
    count = threads.thread_count()
    if count > 1:  # a worker in Python: Numba's number within the region
        threads.run(lambda *_: numbers.append(numba.get_num_threads()), 9, True)
        assert numbers.pop() == count
    return count

def print(number):
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()

def tell():
    print(seen())

numbers = []

"""
    variables = {"NUMBA_CACHE_DIR": cache_root(), "NUMBA_NUM_THREADS": 4, **variables}
    env = environment(**{name: value for name, value in variables.items() if value is not None})
    process = Process("-W", "ignore", "-c", begin + code, env=env)
    return [int(line) for line in process.output()[0].splitlines() if line.isdigit()]


def test_precedence():
    """threads(n), then a framework's number, then Numba's; NUMBA_NUM_THREADS is the most."""
    code = """
tell()
numba.set_num_threads(3)
tell()
with threads.preferring(2):
    tell()
    with nbnorm.threads(4):
        tell()
        with nbnorm.one_thread():
            tell()
        tell()
    tell()
with threads.preferring(64):
    tell()
with nbnorm.threads(64):
    tell()
tell()
print(numba.get_num_threads())
"""
    assert told(code) == [4, 3, 2, 4, 1, 4, 2, 4, 4, 3, 3]


def test_a_number_holds_in_a_pool_that_is_started_under_it():
    code = """
from concurrent.futures import ThreadPoolExecutor

def in_a_thread():
    with ThreadPoolExecutor(1) as pool:
        print(pool.submit(seen).result())

in_a_thread()
with nbnorm.threads(2):
    in_a_thread()
    with nbnorm.threads(3):  # the innermost
        in_a_thread()
    in_a_thread()

def own():
    with nbnorm.threads(4):  # its own
        tell()

with nbnorm.threads(2):
    thread = threading.Thread(target=own)
    thread.start()
    thread.join()

def with_less():
    numba.set_num_threads(1)
    tell()

with nbnorm.threads(2):
    thread = threading.Thread(target=with_less)
    thread.start()
    thread.join()
in_a_thread()
"""
    assert told(code) == [4, 2, 3, 2, 4, 1, 4]


@needs_fork
def test_a_number_holds_in_processes_that_are_forked_under_it():
    code = """
import multiprocessing
fork = multiprocessing.get_context("fork")

def in_processes():
    with fork.Pool(1) as pool:
        print(pool.apply(seen))

in_processes()
with nbnorm.threads(2):
    in_processes()

def fork_from_a_thread():
    child = os.fork()
    if child == 0:
        print(threads.number())
        os._exit(0)
    os.waitpid(child, 0)

with nbnorm.threads(2):
    thread = threading.Thread(target=fork_from_a_thread)
    thread.start()
    thread.join()
in_processes()
"""
    assert told(code) == [4, 2, 2, 4]


def test_a_thread_that_ends_within_its_number_leaves_none():
    thread = threading.Thread(target=threads.set_limit, args=(1,))
    thread.start()
    thread.join()
    assert threads._limits == {}


def test_a_number_of_one_starts_no_threads():
    code = """
with nbnorm.one_thread():
    tell()
try:
    print(numba.threading_layer())
except ValueError:
    print(0)
"""
    assert told(code) == [1, 0]


def test_an_exception_ends_the_number_too():
    with pytest.raises(KeyError), nbnorm.threads(1):
        raise KeyError
    assert threads.limit() is None


def test_numba_s_own_number_is_left_alone():
    before = numba.get_num_threads()
    with nbnorm.threads(1):
        nbnorm.threading()
        assert numba.get_num_threads() == before
    assert numba.get_num_threads() == before


def test_numbers_of_several_threads_do_not_meet():
    barrier = threading.Barrier(2)

    def task(number: int) -> list[int | None]:
        seen = []
        with nbnorm.threads(number):
            for _ in range(100):
                barrier.wait()
                seen.append(threads.limit())
        return seen

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(task, (1, 2))) == [[1] * 100, [2] * 100]
    assert threads._limits == {}


# --- other libraries ------------------------------------------------------------------------


def controller() -> Any:
    [found] = threadpoolctl.ThreadpoolController().select(user_api="nbnorm").lib_controllers
    return found


def test_threadpoolctl_knows_the_number():
    assert controller().num_threads == config.NUMBA_NUM_THREADS
    assert controller().info()["internal_api"] == "nbnorm"
    with nbnorm.threads(1):
        assert controller().num_threads == 1


@pytest.mark.parametrize("selected", [{}, {"user_api": "nbnorm"}])
def test_threadpoolctl_limits_it(selected):
    with threadpoolctl.threadpool_limits(1, **selected):
        assert threads.thread_count() == 1
        assert threads.limit() == 1
    assert threads.limit() is None


@pytest.mark.parametrize(
    "imports",
    ["import threadpoolctl, nbnorm.jit.threads", "import nbnorm.jit.threads, threadpoolctl"],
)
def test_threadpoolctl_may_be_imported_before_or_after(imports):
    """Before the first call, which may be under its limit; and nbnorm does not import it."""
    code = f"""
{imports}
with threadpoolctl.threadpool_limits(2):
    tell()
    with ThreadPoolExecutor(1) as pool:
        print(pool.submit(seen).result())
tell()
"""
    before = """
import importlib.util, sys
from concurrent.futures import ThreadPoolExecutor
assert importlib.util.find_spec("threadpoolctl")
print(int("threadpoolctl" in sys.modules))
"""
    assert told(before + code) == [0, 2, 2, 4]


def test_joblib_shares_the_processors_out():
    """It tells its processes how many threads each may have."""
    code = """
import joblib

def number():
    from nbnorm.jit import threads
    return threads.number()

for found in joblib.Parallel(n_jobs=2)(joblib.delayed(number)() for _ in range(2)):
    print(found)
"""
    share = max(joblib.cpu_count() // 2, 1)
    assert told(code, NUMBA_NUM_THREADS=None) == [share, share]
