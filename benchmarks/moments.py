"""Moments of each channel, beside a read of the array and other libraries' mean and variance.

python -m benchmarks.moments [--seconds 0.05] [--dask]

Times are those of nbnorm; all else is the time of another side over nbnorm's, medians of the rounds
in which the sides take turns of some calls, each on all threads that it uses. "read" sums the array
up, once, on as many threads as nbnorm. numbagg and scikit-learn are measured where they are
installed. scikit-learn takes tables: what has more axes is brought into that form before the clock
runs. With ``--dask`` arrays are Dask's, in chunks along the first axis, on its threads, beside its
own mean and var taken together. It needs a quiet machine.
"""

from __future__ import annotations

import argparse
import importlib
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec

import numpy as np

from benchmarks.compare.timing import median_of_calls
from benchmarks.suites.moments import SHAPES, TYPES, dasks, drawn, nbnorms, numpys, reading
from benchmarks.tools import machine, markdown
from nbnorm.typing import Array

Run = Callable[[], object]

OWN, READ = "nbnorm", "read"
ROUNDS = 5


def _others(x: Array, axis: int) -> tuple[int, ...]:
    return tuple(a for a in range(x.ndim) if a != axis)


def _numbaggs(x: Array, axis: int) -> Run:
    numbagg, axes = importlib.import_module("numbagg"), _others(x, axis)
    return lambda: (numbagg.nanmean(x, axis=axes), numbagg.nanvar(x, axis=axes, ddof=0))


def _scikit_learns(x: Array, axis: int) -> Run:
    extmath = importlib.import_module("sklearn.utils.extmath")
    c = x.shape[axis]
    table = np.ascontiguousarray(np.moveaxis(x, axis, -1)).reshape(-1, c)
    nothing = np.zeros(c), np.zeros(c), np.zeros(c, np.int64)
    return lambda: extmath._incremental_mean_and_var(table, *nothing)


# By the module that each needs.
PEERS = {
    "NumPy": ("numpy", numpys),
    "numbagg": ("numbagg", _numbaggs),
    "scikit-learn": ("sklearn", _scikit_learns),
}


def sides(x: Array, axis: int) -> dict[str, Run]:
    """What is measured on an array; each has been called, and compiled."""
    found = {OWN: nbnorms(x, axis), READ: reading(x)}
    for name, (module, make) in PEERS.items():
        if find_spec(module):
            found[name] = make(x, axis)
            found[name]()
    return found


def sides_of_dask(x: Array, axis: int) -> dict[str, Run]:
    """The same of a Dask array."""
    found = dict(zip((OWN, "Dask"), dasks(x, axis), strict=True))
    for run in found.values():
        run()
    return found


def taken(runs: Mapping[str, Run], seconds: float) -> dict[str, float]:
    """The time of nbnorm in seconds, and other sides' over it, medians of rounds."""
    rounds = []
    for _ in range(ROUNDS):
        times = {name: median_of_calls(run, seconds) for name, run in runs.items()}
        ratios = {name: time / times[OWN] for name, time in times.items()}
        rounds.append(ratios | {OWN: times[OWN]})
    return {name: statistics.median(one[name] for one in rounds) for name in runs}


def rows_of(found: Mapping[str, Mapping[str, float]]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table: one for each case, and the geometric means of ratios."""
    first, *_ = found.values()
    ratios = [name for name in first if name != OWN]
    rows = [
        [case, f"{1e3 * one[OWN]:.3g} ms", *(f"{one[name]:.2f}" for name in ratios)]
        for case, one in found.items()
    ]
    means = [
        math.exp(statistics.fmean(math.log(one[name]) for one in found.values())) for name in ratios
    ]
    rows.append(["geometric mean", "", *(f"{mean:.2f}" for mean in means)])
    return ["array", OWN, *ratios], rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints what was measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.moments",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=0.05, help="of each turn")
    parser.add_argument("--dask", action="store_true", help="Dask arrays")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    options = parser.parse_args(arguments)
    make = sides_of_dask if options.dask else sides
    found = {}
    for shape in options.shapes:
        for dtype in TYPES:
            found[f"{shape}, {dtype}"] = taken(make(*drawn(shape, dtype)), options.seconds)
    described = machine.describe()
    print(f"{described['processor']}, {described['cores']} cores, load {machine.load():.1f}\n")
    print(markdown.table(*rows_of(found)))


if __name__ == "__main__":
    main()
