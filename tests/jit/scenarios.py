"""What test_threads.py runs, each scenario in a process of its own.

    python -m tests.jit.scenarios NAME [OPTIONS]

OPTIONS are JSON: "seconds", how long to go on, and "calls", the names of what to call (see
calls.py). A scenario prints one line of JSON for each piece of work: who did it, the digest of its
results, the calls and the faults in it, and whether kernels ran in parallel.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import faulthandler
import functools
import importlib.metadata
import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import numba

from nbnorm.jit import threading_layer, threads
from nbnorm.jit.parallel import parallel
from tests.jit import calls
from tests.jit.calls import Work, together

THREADS = 8

# As a script, or as the child of one; pytest imports it too, to look for doctests.
_IS_RUN = __name__ in ("__main__", "__mp_main__")
_options = json.loads(sys.argv[2]) if _IS_RUN and len(sys.argv) > 2 else {}
SECONDS = _options.get("seconds", 0.0)
NAMES = _options.get("calls", calls.BATCH_NORM)


class Observed:
    """`threads.runs_parallel`, remembering its answers."""

    def __init__(self, original: Callable[[], bool]) -> None:
        self.original = original
        self.answers: set[bool] = set()

    def __call__(self) -> bool:
        answer = self.original()
        self.answers.add(answer)
        return answer


observed = Observed(threads.runs_parallel)
if _IS_RUN:
    threads.runs_parallel = observed


def work(seconds: float = 0.0, first: int = 0) -> Work:
    return calls.work(NAMES, seconds, first)


def emit(record: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


def report(who: str, done: Work | None = None, faults: int = 0) -> None:
    """Prints a piece of work, done now unless it is given."""
    done = work() if done is None else done
    answers, observed.answers = observed.answers, set()
    record = {
        "who": who,
        "digest": done.digest,
        "calls": done.calls,
        "faults": faults,
        "parallel": sorted(answers),
        "layer": threading_layer.started(),
    }
    emit(record)


def in_child(task: Callable[[], Any]) -> None:
    """Runs a task in the child of a fork and waits for it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            observed.answers = set()
            task()
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if status != 0:
        raise SystemExit(f"a child ended with status {status}")


def child_and_grandchild() -> None:
    report("child", faults=1)
    in_child(lambda: report("grandchild", faults=1))


def goes_on(least: int) -> Callable[[], bool]:
    """Whether to repeat: until the time is over, and at least so many times."""
    end = time.monotonic() + SECONDS
    rounds = iter(range(least))
    return lambda: next(rounds, None) is not None or time.monotonic() < end


# --- scenarios ------------------------------------------------------------------------------


def once() -> None:
    report("main")


def several_threads() -> None:
    """Each begins with another call; together they start the layer."""
    barrier = threading.Barrier(THREADS)
    done = []

    def task(number: int) -> None:
        barrier.wait()
        done.append(work(SECONDS, number))

    workers = [threading.Thread(target=task, args=(number,)) for number in range(THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(done) == THREADS
    report("threads", together(done))
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
    expected = work().digest
    stop = threading.Event()

    def task() -> None:
        while not stop.is_set():
            check()

    def check() -> None:
        assert work().digest == expected

    thread = threading.Thread(target=task)
    thread.start()
    forks, again = 0, goes_on(20)
    while again():
        in_child(check)
        forks += 1
    in_child(child_and_grandchild)
    stop.set()
    thread.join()
    observed.answers = set()
    report("main afterwards", faults=forks)


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


def _methods() -> list[str]:
    return multiprocessing.get_all_start_methods()


def pools() -> None:
    """After use of the parent's own threads; each way to start processes."""
    report("main")
    for method in _methods():
        with multiprocessing.get_context(method).Pool(2) as pool:
            done = pool.starmap(calls.work, [(NAMES, SECONDS, i) for i in range(4)])
        report(method, together(done))
    report("main afterwards")


def executors() -> None:
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        done = list(pool.map(functools.partial(work, SECONDS), range(THREADS)))
    report("threads", together(done))
    for method in _methods():
        context = multiprocessing.get_context(method)
        with concurrent.futures.ProcessPoolExecutor(2, context) as pool:
            done = list(pool.map(functools.partial(calls.work, NAMES, SECONDS), range(4)))
        report(method, together(done))
    report("main afterwards")


def with_joblib() -> None:
    import joblib

    for backend in ("threading", "loky"):
        parallel = joblib.Parallel(n_jobs=2, backend=backend)
        done = parallel(joblib.delayed(calls.work)(NAMES, SECONDS, i) for i in range(4))
        report(backend, together(done))
    report("main afterwards")


@functools.cache
def _own_code(worker: Any) -> Any:
    """All tiles of a kernel in compiled code of the user's own, with Numba's own options."""
    run_all = parallel(worker)

    @numba.njit(nogil=True)
    def call(tiles: Any, *arguments: Any) -> None:
        run_all(tiles, *arguments)

    return call


def own_code() -> None:
    """The kernels that a public function runs, from compiled code of the user's own."""
    report("main")
    kernels = set()

    def run(worker: Any, tiles: int, _: bool, *arguments: Any) -> None:
        kernels.add(worker)
        _own_code(worker)(tiles, *arguments)

    for module in list(sys.modules.values()):
        if getattr(module, "run", None) is threads.run and module is not threads:
            module.run = run
    report("own code", work(SECONDS))
    assert kernels


def interrupted() -> None:
    """KeyboardInterrupt at random moments, followed by whole work."""
    report("main")
    rng = random.Random(0)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    interrupts, done, again = 0, [], goes_on(20)
    while again():
        start = time.perf_counter()
        try:
            done.append(work())
            longest = time.perf_counter() - start
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, longest))
            work()
            time.sleep(longest)
        except KeyboardInterrupt:
            interrupts += 1
    assert interrupts >= 20
    report("interrupted", together(done), interrupts)


def interrupted_while_compiling() -> None:
    rng = random.Random(0)
    interrupts = 0

    def interrupt(*_: Any) -> NoReturn:
        nonlocal interrupts
        interrupts += 1
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, interrupt)
    while interrupts < 10:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.01, 0.5))
        try:
            work()
            signal.setitimer(signal.ITIMER_REAL, 0)
            break  # all is compiled
        except KeyboardInterrupt:
            continue
    report("interrupted", faults=interrupts)


def until_killed() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    emit({"who": "ready"})
    work(1e9)


def daemon_threads_at_the_end() -> None:
    """Threads that are inside kernels when the process ends."""
    for number in range(THREADS):
        threading.Thread(target=work, args=(1e9, number), daemon=True).start()
    time.sleep(max(SECONDS / 5, 1.0))


def one_processor() -> None:
    """Run by `confined`, whose processor this process inherits."""
    assert len(os.sched_getaffinity(0)) == 1
    report("main")


def confined() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.execv(
        sys.executable,
        [sys.executable, "-m", "tests.jit.scenarios", "one_processor", *sys.argv[2:]],
    )


def missing() -> None:
    """Without some of the layers: those named by the option "missing"."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise importlib.metadata.PackageNotFoundError

    load = ctypes.CDLL

    def load_but_tbb(name: Any, *arguments: Any, **options: Any) -> Any:
        if "tbb" in str(name):
            raise OSError(name)
        return load(name, *arguments, **options)

    for layer in _options["missing"]:
        if layer == "tbb":
            importlib.metadata.files = refuse
            sys.modules["numba.np.ufunc.parallel"].CDLL = load_but_tbb
            ctypes.CDLL = load_but_tbb
        else:
            pool = {"omp": "omppool", "workqueue": "workqueue"}[layer]
            sys.modules[f"numba.np.ufunc.{pool}"] = None  # type: ignore[assignment]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        several_threads()
    for warning in caught:
        emit({"warning": str(warning.message)})


if __name__ == "__main__":
    faulthandler.enable()
    globals()[sys.argv[1]]()
