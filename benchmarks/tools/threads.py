"""What a parallel region costs, and from which size threads pay, on each of Numba's layers.

python -m benchmarks.tools.threads [--layers tbb omp workqueue] [--seconds 0.5]

Each layer is measured in a process of its own: regions one after the other, and after 1, 3 and
20 ms of sleep, as between the calls of a program that does something else too. What a region costs
is its time with tiles that do nothing, over that of the same tiles on one thread. Speedups are of
public functions, forward, by the units of work that launch/machine.py counts: there it says from
which size on functions use threads, here they do at every size. It needs a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks.tools import machine, markdown

LAYERS = ("tbb", "omp", "workqueue")
IDLE = (0.0, 1.0, 3.0, 20.0)  # milliseconds before a call
COLUMNS = ("warm", *(f"{idle:g} ms idle" for idle in IDLE[1:]))
TILES = 16

Call = Callable[[], object]


# --- what is called -------------------------------------------------------------------------


def _values(size: int) -> Call:
    import nbnorm

    x, ones = _normal(1, 16, size // 16), _normal(16) ** 2
    y = x.copy()
    return lambda: nbnorm.batch_norm_inference(x, ones, ones, out=y)


def _macs(size: int) -> Call:
    import nbnorm

    x, weight = _normal(size // 64**2, 64), _normal(64, 64)
    return lambda: nbnorm.dense_forward(x, weight)


def _unpacked_macs(size: int) -> Call:
    import nbnorm

    x, weight = _normal(4, 128), _normal(size // (4 * 128), 128)
    return lambda: nbnorm.dense_forward(x, weight)


def _winograd(size: int) -> Call:
    import nbnorm

    x, weight = _normal(1, 16, 16, size // 16**3), _normal(16, 16, 3, 3)
    return lambda: nbnorm.conv2d_forward(x, weight, padding=1, algorithm="winograd")


# By the constant of launch/machine.py: sizes around it, in its unit.
KINDS: dict[str, tuple[Callable[[int], Call], range]] = {
    "PARALLEL_FROM_VALUES": (_values, range(14, 20)),
    "PARALLEL_FROM_MACS": (_macs, range(18, 25)),
    "PARALLEL_FROM_UNPACKED_MACS": (_unpacked_macs, range(16, 22)),
    "PARALLEL_FROM_WINOGRAD": (_winograd, range(16, 22)),
}


def _normal(*shape: int) -> Any:
    import numpy as np

    return np.random.default_rng(0).standard_normal(shape, np.float32)


# --- one layer, in its process --------------------------------------------------------------


def _seconds_of(calls: Sequence[Call], idle: float, seconds: float) -> list[float]:
    """The median time of each, called in turn after so many idle milliseconds."""
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while len(times[0]) < 5 or time.perf_counter() < end:
        for call, taken in zip(calls, times, strict=True):
            if idle:
                time.sleep(idle / 1e3)
            else:
                call()  # the one before this was another's
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def _region() -> tuple[Call, Call]:
    """Tiles that do nothing, in a region and on one thread."""
    import numpy as np

    from nbnorm.jit import threads
    from nbnorm.jit.options import worker

    @worker
    def visit(lo: Any, hi: Any, visits: Any) -> None:
        for tile in range(lo, hi):
            visits[tile] += 1

    visits = np.zeros(TILES)

    def run(parallel: bool) -> Call:
        return lambda: threads.run(visit, TILES, parallel, visits)

    return run(True), run(False)


def _use_threads_everywhere() -> None:
    """Has every size run in parallel."""
    import nbnorm

    for name in nbnorm.__all__:
        getattr(nbnorm, name)  # imports the modules that launch
    for name, module in list(sys.modules.items()):
        if name.startswith("nbnorm.launch."):
            for constant in KINDS:
                if hasattr(module, constant):
                    setattr(module, constant, 0)


def _measured(seconds: float) -> dict[str, Any]:
    """For the layer of this process: microseconds of a region, speedups by kind and size."""
    import nbnorm

    _use_threads_everywhere()
    region, alone = _region()
    region()
    region_us = []
    for idle in IDLE:
        taken, taken_alone = _seconds_of((region, alone), idle, seconds)
        region_us.append(1e6 * (taken - taken_alone))

    def on_one_thread(call: Call) -> Call:
        def run() -> None:
            with nbnorm.one_thread():
                call()

        return run

    speedups: dict[str, dict[int, list[float]]] = {}
    for constant, (make, powers) in KINDS.items():
        speedups[constant] = {}
        for power in powers:
            call = make(1 << power)
            both = (call, on_one_thread(call))
            for one in both:
                one()  # compiles
            speedups[constant][power] = [
                alone / together
                for together, alone in (_seconds_of(both, idle, seconds) for idle in IDLE)
            ]
    status = nbnorm.threading()
    return {
        "layer": status.layer, "threads": status.threads, "region": region_us, "speedups": speedups,
    }  # fmt: skip


# --- the tables -----------------------------------------------------------------------------


def _in_a_process(layer: str, seconds: float) -> dict[str, Any] | None:
    """What is measured on a layer; None where it is missing."""
    command = ["-m", "benchmarks.tools.threads", "--measure", "--seconds", str(seconds)]
    ended = subprocess.run(
        [sys.executable, "-W", "error", *command],
        check=False,
        env={**os.environ, "NUMBA_THREADING_LAYER": layer},
        stdout=subprocess.PIPE,
        text=True,
    )
    if ended.returncode:
        return None
    return json.loads(ended.stdout.splitlines()[-1])


def pays_from(speedups: dict[str, list[float]], column: int) -> str:
    """The power of two from which on threads are faster, as it is written in launch/machine.py."""
    slower = [int(power) for power, row in speedups.items() if row[column] <= 1.0]
    least = max(slower, default=min(map(int, speedups)) - 1) + 1
    return f"1 << {least}" if str(least) in speedups else "none of these"


def tables(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """A region's cost by layer; speedups by layer and size, and from which size they are some."""
    rows = [
        [layer, *(f"{us:.1f}" for us in measured["region"])] for layer, measured in found.items()
    ]
    yield markdown.table(["a region, us", *COLUMNS], rows)
    for constant in KINDS:
        rows = []
        for layer, measured in found.items():
            speedups = measured["speedups"][constant]
            for power, row in speedups.items():
                rows.append([layer, f"1 << {power}", *(f"{speedup:.2f}" for speedup in row)])
            least = [pays_from(speedups, column) for column in range(len(IDLE))]
            rows.append([layer, "pays from", *least])
        yield markdown.table([constant, "work", *COLUMNS], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints what was measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tools.threads",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=LAYERS)
    parser.add_argument("--seconds", type=float, default=0.5, help="for each figure")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(_measured(options.seconds)))
        return
    found = {}
    for layer in options.layers:
        measured = _in_a_process(layer, options.seconds)
        if measured is None:
            print(f"no {layer} here")
        else:
            found[layer] = measured
    described = machine.describe()
    threads = {measured["threads"] for measured in found.values()}
    print(f"{described['processor']}, threads: {threads}, load {machine.load():.1f}")
    for table in tables(found):
        print(f"\n{table}", flush=True)


if __name__ == "__main__":
    main()
