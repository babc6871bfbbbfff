"""How exact every function is on hard data, nbnorm beside PyTorch, TensorFlow and JAX.

    python -m benchmarks.accuracy            docs/accuracy.md, README's table, results/accuracy.json
    python -m benchmarks.accuracy --pages    the first two, of what was measured

Every array of every battery (batteries.py) goes through every operation, forward, backward and
inference, channels first and channels last; the largest error of each result is kept, over the
scales that truth.py and operations.py name. float32 is held against float64, and float64 against
the platform's long double; where that is no wider than float64 (Windows, ARM), float64 is left out.

float64 figures are also divided by max(1, |mean| / std): a float64 mean is rounded to so much.
Where values lie so many rms out that their own type is coarser than the scale (beyond 100,000
values a channel, from mean/std 1e7 on), four units in the last place of each are forgiven.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy import pages, truth
from benchmarks.accuracy.batteries import BATTERIES, CONSTANT, Trial, constants, draw
from benchmarks.accuracy.libraries import DISTRIBUTIONS, LIBRARIES, Library
from benchmarks.accuracy.operations import OPERATIONS, Operation, Product
from benchmarks.tools import machine

LIKE_X, LIKE_Y = ("dx",), ("y", "inference")
RESULTS = Path(__file__).parents[1] / "results" / "accuracy.json"


@dataclass
class Worst:
    """The largest error of each quantity, and the trial that it came from."""

    error: dict[str, float] = field(default_factory=dict)
    trial: dict[str, str] = field(default_factory=dict)

    def add(self, errors: dict[str, float], trial: str) -> None:
        for name, error in errors.items():
            value = math.inf if math.isnan(error) else error
            if value >= self.error.get(name, -1.0):
                self.error[name], self.trial[name] = value, trial


def measure(
    operation: Operation, trials: Iterable[Trial], dtype: str, libraries: dict[str, Library]
) -> dict[str, Worst]:
    """The worst of a battery for each library."""
    worst = {library: Worst() for library in libraries}
    for trial in trials:
        product, given = operation.inputs(trial, dtype)
        exact = operation.exact(product, given, np.float64 if dtype == "float32" else np.longdouble)
        m = given["dy"].size // given["gamma"].size
        for layout, stored, axis in layouts(product, given):
            for library, run in libraries.items():
                outputs = canonical(product, run(operation.name, stored, axis), axis)
                outputs = {name: outputs[name] for name in exact.values if name in outputs}
                errors = truth.errors(outputs, exact, trial.slack(m))
                if dtype == "float64":
                    errors = {k: error / max(1.0, trial.ratio) for k, error in errors.items()}
                worst[library].add(errors, f"{trial.name}, {layout}")
    return worst


def layouts(product: Product, given: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], int]]:
    """The arrays with channels first and last, which is one and the same for a dense layer."""
    yield "channels-first", given, 1
    if given["dy"].ndim > 2:
        moved = {k: np.ascontiguousarray(np.moveaxis(given[k], 1, -1)) for k in ("x", "dy")}
        yield "channels-last", given | moved, -1


def canonical(product: Product, outputs: dict[str, Any], axis: int) -> dict[str, Any]:
    """What a library returned, its channels second again."""
    return {
        name: np.moveaxis(value, axis, 1) if name in LIKE_X + LIKE_Y else value
        for name, value in outputs.items()
        if value is not None
    }


def measure_constants(dtype: str, libraries: dict[str, Library]) -> dict[str, Worst]:
    """How far from beta a channel comes out that holds one value throughout: it has to be 0."""
    worst = {library: Worst() for library in libraries}
    for trial in constants():
        x, dy, gamma, beta = draw(trial, dtype)
        given = {"x": x, "dy": dy, "gamma": gamma, "beta": beta, "eps": trial.eps}
        for layout, stored, axis in layouts(None, given):
            for library, run in libraries.items():
                if "y" in (outputs := canonical(None, run("batch norm", stored, axis), axis)):
                    error = float(np.abs(outputs["y"] - beta[None, :, None]).max())
                    worst[library].add({"y": error}, f"{trial.name}, {layout}")
    return worst


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy", description="how exact every function is on hard data"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="the JSON file to write")
    names = [operation.name for operation in OPERATIONS]
    parser.add_argument(
        "--only", choices=names, help="measure it anew, and keep the others' figures"
    )
    parser.add_argument(
        "--pages", action="store_true", help="measure nothing, write the pages anew"
    )
    options = parser.parse_args(arguments)
    if options.pages:
        pages.write(json.loads(RESULTS.read_text()))
        return 0
    libraries, missing = _installed()
    for name, reason in missing.items():
        print(f"{name} is missing: {reason}", file=sys.stderr)
    wide_enough = np.finfo(np.longdouble).eps < np.finfo(np.float64).eps
    dtypes = ("float32", "float64") if wide_enough else ("float32",)
    versions = {name: machine.version(name) for name in DISTRIBUTIONS}
    document = json.loads(options.results.read_text()) if options.only else {}
    for operation in OPERATIONS:
        if options.only not in (None, operation.name):
            continue
        batteries: dict[str, dict[str, dict[str, Worst]]] = {name: {} for name in BATTERIES}
        for dtype in dtypes:
            for name, trials in BATTERIES.items():
                print(f"{operation.name}, {dtype}: {name}", file=sys.stderr)
                batteries[name][dtype] = measure(operation, trials(), dtype, libraries)
            if operation.name == "batch norm":
                constant = measure_constants(dtype, libraries)
                batteries.setdefault(CONSTANT, {})[dtype] = constant
        document[operation.name] = {
            "date": datetime.now(timezone.utc).date().isoformat(),
            "machine": machine.describe(),
            "versions": versions,
            "missing": missing,
            "worst": {
                battery: {
                    dtype: {library: vars(worst) for library, worst in by_library.items()}
                    for dtype, by_library in by_dtype.items()
                }
                for battery, by_dtype in batteries.items()
            },
        }
        options.results.parent.mkdir(parents=True, exist_ok=True)
        options.results.write_text(json.dumps(document, indent=1) + "\n")
    print(pages.whole(document))
    if options.results == RESULTS:
        pages.write(document)
    return 0


def _installed() -> tuple[dict[str, Library], dict[str, str]]:
    libraries, missing = {}, {}
    for name, load in LIBRARIES.items():
        try:
            libraries[name] = load()
        except ImportError as error:
            missing[name] = str(error)
    return libraries, missing


if __name__ == "__main__":
    sys.exit(main())
