"""Random calls in a process that a stray load or store ends: ``python -m tests.bounds.run``.

Prints a line of JSON before each call and one after each case, the last one with the figures of the
whole. Every other case runs with the limits that choose kernels and blocks made small, so that
small arrays come to what only large ones do otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

import nbnorm
from nbnorm.jit import threads
from nbnorm.launch import dense_by_covariance, gemm, machine, plans, scratch
from nbnorm.launch.conv2d import direct as conv_direct
from nbnorm.launch.conv2d import tiling
from nbnorm.launch.conv2d import winograd as conv_winograd
from tests.bounds import broken, guarded
from tests.bounds.drawing import Drawing
from tests.bounds.families import FAMILIES

SMALL = {
    machine: {
        "TILE_BYTES": 4 << 10, "L2_CACHE_BYTES": 16 << 10, "L2_SET_PERIOD": 1 << 10,
        "LLC_BYTES": 64 << 10, "SHORTEST_SLICE_VALUES": 256, "SHORTEST_STREAM_BYTES": 256,
        "TILE_VALUES": 512, "PARALLEL_FROM_VALUES": 512,
    },
    plans: {"LARGEST_TILE_BYTES": 8 << 10},
    gemm: {
        "BLOCK_BYTES": 8 << 10, "FEWEST_ROWS": 16, "SHORTEST_SLICE_DEPTH": 64, "SLICE_DEPTH": 64,
    },
    dense_by_covariance: {"ROWS_A_COLUMN": 4, "FEWEST_VALUES": 1 << 10},
    tiling: {"BLOCK_BYTES": 8 << 10, "MOST_POSITIONS": 64, "FEWEST_POSITIONS": 24},
    conv_direct: {"SUMS_BYTES": 64 << 10},
    conv_winograd: {
        "POINT_BYTES": 32 << 10, "MOST_TILES": 16, "FEWEST_TILES": 6, "SUMS_BYTES": 256 << 10,
    },
}  # fmt: skip

CASES_BETWEEN_CLEARINGS = 100  # of scratch: the system allows some ten thousand guarded arrays


class Runs:
    """In the place of `jit.threads.run`: on one thread or several, whatever an array's size."""

    def __init__(self, sabotage: str | None) -> None:
        self.parallel = False
        self.reached: set[str] = set()
        self._sabotage = sabotage

    def __call__(self, worker: Any, tiles: int, _parallel: bool, *arguments: Any) -> None:
        dealt_out = self.parallel and tiles > 1
        body = getattr(worker, "py_func", worker)
        name = f"{body.__module__.rpartition('.')[2]}.{body.__name__}"
        self.reached.add(f"{name}_parallel" if dealt_out else name)
        if self._sabotage:
            broken.instead_of(worker, self._sabotage)(0, tiles, *arguments)
        else:
            threads.run(worker, tiles, dealt_out, *arguments)


def _install(runs: Runs) -> None:
    for name in nbnorm.__all__:  # modules are imported when they are asked for
        getattr(nbnorm, name)
    for module in _launchers():
        if getattr(module, "run", None) is threads.run:
            module.run = runs
    # No more of an array than was asked for: neither alignment nor memory that is used again.
    scratch._ALIGNED_FROM = sys.maxsize


@contextlib.contextmanager
def _small_limits() -> Iterator[None]:
    before = {module: {name: getattr(module, name) for name in limits}
              for module, limits in SMALL.items()}  # fmt: skip
    _set_limits(SMALL)
    yield
    _set_limits(before)


def _set_limits(limits: dict[Any, dict[str, int]]) -> None:
    for module, values in limits.items():
        for name, value in values.items():
            if not hasattr(module, name):
                raise AttributeError(f"{module.__name__} has no {name}")
            for user in _launchers() if module is machine else [module]:
                if hasattr(user, name):
                    setattr(user, name, value)
    for user in _launchers():
        for value in vars(user).values():
            if isinstance(value, functools._lru_cache_wrapper):
                value.cache_clear()


def _launchers() -> list[ModuleType]:
    """The modules that run kernels, by limits that they have imported and plans that they keep."""
    names = [name for name in sys.modules if name.startswith("nbnorm.launch.")]
    return [sys.modules[name] for name in names]


def _tell(**facts: Any) -> None:
    os.write(1, (json.dumps(facts) + "\n").encode())


def _compiled() -> dict[str, float]:
    """Variants of kernels that this process has loaded and compiled."""
    named = (getattr(nbnorm.kernels, name) for name in nbnorm.kernels.__all__)
    dispatchers = [kernel for kernel in named if hasattr(kernel, "stats")]
    return {
        "variants loaded": sum(sum(k.stats.cache_hits.values()) for k in dispatchers),
        "variants compiled": sum(sum(k.stats.cache_misses.values()) for k in dispatchers),
    }


def _case(number: int, seed: int, few: bool, runs: Runs) -> tuple[str, set[str], int]:
    """One case on one thread and on several, whose results must be the same."""
    digests = []
    told = 0
    for runs.parallel in (False, True):

        def tell(call: str) -> None:
            nonlocal told
            told += 1
            where = "several threads" if runs.parallel else "one thread"
            _tell(case=number, call=call, where=where)

        rng = np.random.default_rng([seed, number])
        family = FAMILIES[rng.integers(len(FAMILIES))]
        profiles = family.few if few else family.many
        profile = profiles[rng.integers(len(profiles))]
        if few and runs.parallel and profile.dtype != "float32":
            continue
        d = Drawing(rng, profile, few, tell)
        family.draw(d)
        digests.append(d.digest())
    if len(set(digests)) > 1:
        raise AssertionError("several threads give other bits than one")
    return digests[0], d.called, told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("place", choices=["end", "begin"])
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=1e9, help="no new case after these")
    parser.add_argument("--only", type=int, help="a single case, to look at it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--few", action="store_true", help="few compiled variants")
    parser.add_argument("--sabotage", choices=broken.NAMES)
    arguments = parser.parse_args()

    runs = Runs(arguments.sabotage)
    _install(runs)
    guarded.place(arguments.place)
    numbers = range(arguments.cases) if arguments.only is None else [arguments.only]
    started = time.perf_counter()
    called: set[str] = set()
    calls = cases = 0

    def run_all(numbers: list[int], until: float) -> None:
        nonlocal calls, cases, called
        for number in numbers:
            if time.perf_counter() - started > until:
                break
            digest, functions, told = _case(number, arguments.seed, arguments.few, runs)
            called |= functions
            calls, cases = calls + told, cases + 1
            _tell(case=number, digest=digest)
            if cases % CASES_BETWEEN_CLEARINGS == 0:
                scratch.scratch.__init__()

    try:
        run_all([n for n in numbers if n % 2 == 0], arguments.seconds / 2)
        with _small_limits():
            run_all([n for n in numbers if n % 2 == 1], arguments.seconds)
    except Exception:  # noqa: BLE001  whatever it is, it is told
        _tell(error=traceback.format_exc())
        os._exit(1)
    _tell(
        figures={
            "cases": cases, "calls": calls, "seconds": round(time.perf_counter() - started, 1),
            **_compiled(),
        },
        functions=sorted(called), kernels=sorted(runs.reached),
    )  # fmt: skip
    os._exit(0)


if __name__ == "__main__":
    main()
