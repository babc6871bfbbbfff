"""How often sequences of forks hang: many trials of each, beside a process that is busy.

    python -m tests.jit.fork_trials [--trials 200] [--layers tbb omp] [--sequences NAME ...]
                                    [--source FOLDER] [--jobs 2]

--source tries another version of the package: the folder `src` of a git worktree. A hang is counted
in processor time, so a slow machine is none.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from nbnorm.jit.cache import cache_root
from tests.jit import forks
from tests.jit.processes import PACKAGE, REPOSITORY, Process, environment

LAYERS = ("default", "tbb", "omp", "workqueue")

PYTORCH = ("loader_before_use", "loader_after_use")

# What hung or could, on one layer or another: `make soak` tries each 200 times.
HARD = (
    "threads_then_fork_of_fork",
    "fork_from_a_thread",
    "fork_while_threads_work",
    "pools_in_pools",
    "threads_then_children_end_by_exit",
    *PYTORCH,
)
EASY = (
    "fork_of_fork",
    "fork_of_fork_before_use",
    "threads_then_forks_without_use",
    "thread_pool_then_fork_of_fork",
    "idle_thread_pool_and_fork_of_fork",
    "threads_never_joined_then_fork_of_fork",
    "fork_right_after_regions",
    "fork_from_a_thread_while_the_main_one_works",
    "first_use_and_fork_in_threads",
    "fork_while_threads_come_and_go",
    "pool_that_renews_its_workers",
    "subprocesses_after_threads",
    "children_end_by_exit",
    "children_end_by_exit_while_threads_work",
)
SEQUENCES = (*HARD, *EASY)

SECONDS = 25.0  # of processor time; a trial takes one or two


class Outcome(NamedTuple):
    """What many trials of one sequence came to, by layer."""

    layer: str
    sequence: str
    trials: int
    hangs: int
    failures: int
    last_words: str  # of one that hung or failed, or what most said

    def __str__(self) -> str:
        return (
            f"{self.layer:<10} {self.sequence:<45} {self.trials:>4} trials {self.hangs:>4} hung "
            f"{self.failures:>4} failed  {self.last_words}"
        )


@contextlib.contextmanager
def busy_neighbour() -> Iterator[None]:
    """Keeps one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def is_there(sequence: str) -> bool:
    """Whether the sequence can be tried: some need PyTorch."""
    return sequence not in PYTORCH or importlib.util.find_spec("torch") is not None


def _trial(layer: str, sequence: str, source: Path) -> tuple[str, str]:
    env = environment(
        source, REPOSITORY, NUMBA_CACHE_DIR=cache_root(), NUMBA_NUM_THREADS=2,
        **({} if layer == "default" else {"NUMBA_THREADING_LAYER": layer}),
    )  # fmt: skip
    process = Process("-W", "ignore", "-m", "tests.jit.forks", sequence, env=env)
    try:
        code, out, err = process.end(SECONDS)
    except TimeoutError as hang:
        return "hang", str(hang)
    return ("well" if code == 0 else "failure"), f"{out}{err}"


def tried(
    layer: str, sequence: str, trials: int, *, source: Path = PACKAGE.parent, jobs: int = 1
) -> Outcome:
    """The outcome of so many trials, some of them at once."""
    assert getattr(forks, sequence)
    ends: Counter[str] = Counter()
    words: dict[str, str] = {}
    with ThreadPoolExecutor(jobs) as pool:
        for end, said in pool.map(lambda _: _trial(layer, sequence, source), range(trials)):
            ends[end] += 1
            words[end] = said
    said = words.get("hang") or words.get("failure") or words["well"]
    lines = said.strip().splitlines() or [""]
    return Outcome(layer, sequence, trials, ends["hang"], ends["failure"], lines[-1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line for each sequence and layer."""
    parser = argparse.ArgumentParser(prog="python -m tests.jit.fork_trials", description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=LAYERS)
    parser.add_argument("--sequences", nargs="+", choices=SEQUENCES, default=HARD)
    parser.add_argument("--source", type=Path, default=PACKAGE.parent)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args(arguments)
    with busy_neighbour():
        for sequence in filter(is_there, options.sequences):
            for layer in options.layers:
                outcome = tried(
                    layer, sequence, options.trials,
                    source=options.source.resolve(), jobs=options.jobs,
                )  # fmt: skip
                sys.stdout.write(f"{outcome}\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
