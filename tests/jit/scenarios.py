"""What test_threads.py runs, each scenario in a process of its own.

    python -m tests.jit.scenarios NAME

A scenario prints one line of JSON for each piece of work: who did it, the digest of its results,
and whether kernels ran in parallel.
"""

from __future__ import annotations

import ctypes
import faulthandler
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import numba
import numpy as np

from nbnorm import batch_norm_backward, batch_norm_forward
from nbnorm.jit import threads

THREADS = 8
SHAPE = (8, 64, 32, 32)


class Observed:
    """`threads.runs_parallel`, remembering its answers."""

    def __init__(self, original: Callable[[], bool]) -> None:
        self.original = original
        self.answers: list[bool] = []

    def __call__(self) -> bool:
        self.answers.append(self.original())
        return self.answers[-1]


observed = Observed(threads.runs_parallel)
threads.runs_parallel = observed


def work(repeats: int = 1) -> str:
    """The digest of forward and backward, which every repetition must reach."""
    digests = set()
    for _ in range(repeats):
        rng = np.random.default_rng(0)
        x, dy = (rng.standard_normal(SHAPE, np.float32) for _ in range(2))
        y, context = batch_norm_forward(x)
        gradients = batch_norm_backward(dy, context)
        digest = hashlib.sha256()
        for result in (y, context.statistics, gradients.dx):
            digest.update(np.ascontiguousarray(result))
        digests.add(digest.hexdigest())
    return " ".join(sorted(digests))


def emit(record: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


def report(who: str, digest: str | None = None) -> None:
    """Prints a piece of work, done now unless its digest is given."""
    digest = work() if digest is None else digest
    answers, observed.answers = observed.answers, []
    record = {
        "who": who,
        "digest": digest,
        "parallel": sorted(set(answers)),
        "layer": threads._started_layer(),
    }
    emit(record)


def in_child(task: Callable[[], Any]) -> None:
    """Runs a task in the child of a fork and waits for it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            observed.answers = []
            task()
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if status != 0:
        raise SystemExit(f"a child ended with status {status}")


def child_and_grandchild() -> None:
    report("child")
    in_child(lambda: report("grandchild"))


# --- scenarios ------------------------------------------------------------------------------


def once() -> None:
    report("main")


def several_threads() -> None:
    barrier = threading.Barrier(THREADS)
    digests = []

    def task() -> None:
        barrier.wait()  # the first call of all: they start the layer together
        digests.append(work(repeats=4))

    workers = [threading.Thread(target=task) for _ in range(THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(digests) == THREADS
    report("threads", " ".join(sorted(set(digests))))
    report("main afterwards")


def fork_after_use() -> None:
    report("main")
    in_child(child_and_grandchild)
    report("main afterwards")


def fork_before_use() -> None:
    in_child(child_and_grandchild)
    report("main afterwards")


def fork_from_a_thread() -> None:
    report("main")
    thread = threading.Thread(target=in_child, args=(child_and_grandchild,))
    thread.start()
    thread.join()
    report("main afterwards")


def fork_after_use_by_a_thread() -> None:
    thread = threading.Thread(target=report, args=("thread",))
    thread.start()
    thread.join()
    in_child(child_and_grandchild)
    report("main afterwards")


def fork_while_a_thread_works() -> None:
    """Many times: a child without protection hangs in one fork of five."""
    work()
    stop = threading.Event()

    def task() -> None:
        while not stop.is_set():
            work()

    thread = threading.Thread(target=task)
    thread.start()
    for _ in range(20):
        in_child(work)
    in_child(child_and_grandchild)
    stop.set()
    thread.join()
    observed.answers = []
    report("main afterwards")


def fork_while_a_thread_compiles() -> None:
    stop = threading.Event()

    def compile_one() -> None:
        assert numba.njit(lambda value: value + 1)(1) == 2

    def task() -> None:
        while not stop.is_set():
            compile_one()

    thread = threading.Thread(target=task)
    thread.start()
    for _ in range(5):
        time.sleep(0.02)
        in_child(compile_one)
    stop.set()
    thread.join()
    report("main afterwards")


def spawn() -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        digests = pool.map(work, [1, 1, 2, 2])
    report("pool", " ".join(sorted(set(digests))))
    report("main afterwards")


def one_processor() -> None:
    """Run by `confined`, whose processor this process inherits."""
    assert len(os.sched_getaffinity(0)) == 1
    report("main")


def confined() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.execv(sys.executable, [sys.executable, "-m", "tests.jit.scenarios", "one_processor"])


def no_tbb() -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise importlib.metadata.PackageNotFoundError

    def cannot_load(name: Any, *_: Any, **__: Any) -> NoReturn:
        raise OSError(name)

    importlib.metadata.files = refuse
    sys.modules["numba.np.ufunc.parallel"].CDLL = cannot_load
    ctypes.CDLL = cannot_load
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        several_threads()
    for warning in caught:
        emit({"warning": str(warning.message)})


if __name__ == "__main__":
    faulthandler.enable()
    globals()[sys.argv[1]]()
