"""What fork_trials.py runs: sequences of forks, threads and pools, each in a process of its own.

    python -m tests.jit.forks NAME

The process ends with 0 if all its children did, and every result had the same bits. It uses public
names alone, so that older versions of the package can be tried too.
"""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

import nbnorm

THREADS = 6
FORK = "fork" if "fork" in multiprocessing.get_all_start_methods() else None


@functools.cache
def array() -> Any:
    """Large enough for two threads."""
    return np.random.default_rng(0).standard_normal((16, 32, 28, 28), np.float32)


def work(_: Any = None) -> str:
    """A call forward and one backward; the digest of their results."""
    y, context = nbnorm.batch_norm_forward(array())
    gradients = nbnorm.batch_norm_backward(y, context)
    digest = hashlib.sha256()
    for result in (y, gradients.dx):
        digest.update(np.ascontiguousarray(result))
    return digest.hexdigest()


# --- pieces ---------------------------------------------------------------------------------

_expected: set[str] = set()


def start() -> None:
    """Works for the first time."""
    _expected.add(work())


def check(_: Any = None) -> None:
    """Works again: the results are the same."""
    assert {work()} == _expected


def in_child(task: Callable[[], Any], end: Callable[[int], Any] = os._exit) -> None:
    """Runs a task in the child of a fork, which then ends itself, and waits for it."""
    child = os.fork()
    if child == 0:
        try:
            task()
        except Exception:  # noqa: BLE001
            traceback.print_exc()
            os._exit(1)
        end(0)
    _, status = os.waitpid(child, 0)
    if status != 0:
        sys.stderr.write(f"a child ended with status {status}\n")
        os._exit(1)


def descend(generations: int = 3) -> None:
    """Works in a child of a child and so on, each before it forks."""
    check()
    if generations:
        in_child(lambda: descend(generations - 1))


def join_threads(task: Callable[[], Any], count: int = THREADS) -> None:
    """Runs a task in several threads at once, each six times."""
    threads = [threading.Thread(target=lambda: [task() for _ in range(6)]) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# --- a fork of a fork -----------------------------------------------------------------------


def fork_of_fork() -> None:
    start()
    in_child(descend)
    check()


def fork_of_fork_before_use() -> None:
    def first() -> None:
        start()
        in_child(descend)

    in_child(first)
    start()


def threads_then_fork_of_fork() -> None:
    """The one that hung most: the system was still ending the threads when Python forked."""
    start()
    join_threads(check)
    in_child(descend)
    check()


def threads_then_forks_without_use() -> None:
    start()
    join_threads(check)
    in_child(lambda: in_child(lambda: in_child(lambda: None)))
    check()


def thread_pool_then_fork_of_fork() -> None:
    start()
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(check, range(30)))
    in_child(descend)
    check()


def idle_thread_pool_and_fork_of_fork() -> None:
    """The threads are alive, wait for work, and have worked."""
    start()
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(check, range(30)))
        in_child(descend)
        list(pool.map(check, range(6)))
        in_child(descend)
    check()


def threads_never_joined_then_fork_of_fork() -> None:
    start()
    for _ in range(THREADS):
        threading.Thread(target=check).start()
    while len(sys._current_frames()) > 1:
        time.sleep(0)
    in_child(descend)
    check()


def fork_right_after_regions() -> None:
    start()
    for _ in range(25):
        work()
        in_child(lambda: None)
    in_child(descend)
    check()


# --- forks in threads, and while threads work -----------------------------------------------


def fork_from_a_thread() -> None:
    start()
    thread = threading.Thread(target=in_child, args=(descend,))
    thread.start()
    thread.join()
    check()


def fork_from_a_thread_while_the_main_one_works() -> None:
    start()
    done = []

    def task() -> None:
        for _ in range(5):
            in_child(lambda: descend(2))
        done.append(True)

    thread = threading.Thread(target=task)
    thread.start()
    while thread.is_alive():
        check()
    assert done


def first_use_and_fork_in_threads() -> None:
    """No thread that starts the layer or forks is the main one; its child's threads fork too."""
    first = threading.Thread(target=start)
    first.start()
    first.join()

    def child() -> None:
        check()
        thread = threading.Thread(target=in_child, args=(descend,))
        thread.start()
        thread.join()

    thread = threading.Thread(target=in_child, args=(child,))
    thread.start()
    check()
    thread.join()


def fork_while_threads_work() -> None:
    start()
    stop = threading.Event()

    def task() -> None:
        while not stop.is_set():
            check()

    threads = [threading.Thread(target=task) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(8):
        in_child(lambda: descend(1))
    stop.set()
    for thread in threads:
        thread.join()
    in_child(descend)
    check()


def fork_while_threads_come_and_go() -> None:
    start()
    stop = threading.Event()

    def task() -> None:
        while not stop.is_set():
            thread = threading.Thread(target=check)
            thread.start()
            thread.join()

    threads = [threading.Thread(target=task) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(8):
        in_child(lambda: descend(2))
    stop.set()
    for thread in threads:
        thread.join()
    in_child(descend)
    check()


# --- pools ----------------------------------------------------------------------------------


def _branch(_: Any) -> set[str]:
    with multiprocessing.get_context(FORK).Pool(2) as pool:
        return {*pool.map(work, range(4)), work()}


def pools_in_pools() -> None:
    start()
    join_threads(check)
    context = multiprocessing.get_context(FORK)
    with concurrent.futures.ProcessPoolExecutor(2, context) as pool:
        assert set().union(*pool.map(_branch, range(4))) == _expected
    check()


def pool_that_renews_its_workers() -> None:
    """It forks from a thread of its own."""
    start()
    with multiprocessing.get_context(FORK).Pool(2, maxtasksperchild=1) as pool:
        assert {*pool.map(work, range(8), 1)} == _expected
    check()


def subprocesses_after_threads() -> None:
    start()
    join_threads(check)
    for _ in range(3):
        subprocess.run(["true"], preexec_fn=lambda: None, check=True)
    in_child(descend)
    check()


# --- ends of processes ----------------------------------------------------------------------


def children_end_by_exit() -> None:
    start()

    def child() -> None:
        check()
        in_child(check, sys.exit)

    in_child(child, sys.exit)
    check()


def threads_then_children_end_by_exit() -> None:
    start()
    join_threads(check)

    def child() -> None:
        check()
        in_child(check, sys.exit)

    in_child(child, sys.exit)
    check()


def children_end_by_exit_while_threads_work() -> None:
    start()
    stop = threading.Event()

    def task() -> None:
        while not stop.is_set():
            check()

    thread = threading.Thread(target=task)
    thread.start()
    for _ in range(5):
        in_child(lambda: in_child(check, sys.exit), sys.exit)
    stop.set()
    thread.join()


# --- PyTorch --------------------------------------------------------------------------------


class _Samples:
    """A dataset for PyTorch: its workers call this library."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, _: int) -> str:
        return work()


def _load() -> set[str]:
    """The digests from a loader that forks after PyTorch's own threads have worked."""
    import torch

    torch.ones(1 << 20).add(1).sum()
    loader = torch.utils.data.DataLoader(_Samples(), num_workers=2, multiprocessing_context=FORK)
    return {digest for batch in loader for digest in batch}


def loader_before_use() -> None:
    digests = _load()
    start()
    assert digests == _expected == _load()


def loader_after_use() -> None:
    start()
    assert _load() == _expected == _load()
    check()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
