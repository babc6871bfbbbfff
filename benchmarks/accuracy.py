"""How exact batch norm is on hard data, nbnorm beside PyTorch.

    python -m benchmarks.accuracy        a markdown table, and results/accuracy.json beside it

Each battery is a family of arrays that has broken somebody's batch norm. Every array goes through
forward and backward, channels-first and channels-last, and the largest error of each output
(`truth.py` says over which scale) is compared with the bound:

    float32    2e-6
    float64    1e-14 max(1, |mean| / std), to which the float64 figures are relative

Beyond 100,000 values a channel some lie so many rms out that their own type is coarser than the
bound: there, four units in the last place of each single value are forgiven. float32 is held
against float64, and float64 against the platform's long double; where that is no wider than
float64 (Windows, ARM), float64 is left out.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine, markdown, truth

BOUNDS = {"float32": 2e-6, "float64": 1e-14}
QUANTITIES = ("y", "dx", "dgamma", "dbeta")
MANY = 100_000  # values a channel; beyond, SLACK_ULPS
SLACK_ULPS = 4
EPS = 1e-5
OUT = Path(__file__).parent / "results" / "accuracy.json"

Array = truth.Array
Outputs = dict[str, Array]
Library = Callable[[Array, Array, Array, Array, float, int], Outputs]


# --------------------------------------------------------------------------------- the batteries


Draw = Callable[[np.random.Generator], Array]


@dataclass(frozen=True)
class Trial:
    """One array: what is drawn, of shape (n, c, p) in float64, then moved and scaled."""

    name: str
    values: Draw
    ratio: float = 0.0  # |mean| / std
    std: float = 1.0
    eps: float = EPS


def offsets() -> Iterator[Trial]:
    for ratio in (0.0, 1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6):
        yield Trial(f"mean/std {ratio:g}", _normal(8, 6, 1000), ratio)


def scales() -> Iterator[Trial]:
    for std in (1e-15, 1e-10, 1e-5, 1.0, 1e5, 1e10, 1e15):
        for ratio in (0.0, 1e3):
            for eps in (EPS, 0.0):
                name = f"std {std:g}, mean/std {ratio:g}, eps {eps:g}"
                yield Trial(name, _normal(8, 6, 1000), ratio, std, eps)


def lengths() -> Iterator[Trial]:
    for n, c, p in (
        (2, 6, 1), (3, 6, 1), (7, 6, 1), (5, 6, 13), (32, 6, 49), (3, 6, 21_845),
        (1, 2, 1_000_000), (10, 2, 1_000_000),
    ):  # fmt: skip
        for ratio in (0.0, 1e3):
            yield Trial(f"m {n * p}, mean/std {ratio:g}", _normal(n, c, p), ratio)


def outliers() -> Iterator[Trial]:
    for n, p in ((8, 125), (8, 50_000)):
        yield Trial(f"m {n * p}", _outliers(n, 4, p))


def orders() -> Iterator[Trial]:
    for ratio in (0.0, 1e3):
        yield Trial(f"within a picture, mean/std {ratio:g}", _ascending(1, 6, 8000), ratio)
        yield Trial(f"along the batch, mean/std {ratio:g}", _ascending(8000, 6, 1), ratio)


def signs() -> Iterator[Trial]:
    for noise in (0.0, 1e-3, 1.0):
        yield Trial(f"within a picture, noise {noise:g}", _alternating(1, 6, 8000, noise))
        yield Trial(f"along the batch, noise {noise:g}", _alternating(8000, 6, 1, noise))


def constants() -> Iterator[Trial]:
    for n, p in ((2, 1), (7, 13), (32, 3136), (100_000, 1)):
        for eps in (EPS, 0.0):
            yield Trial(f"m {n * p}, eps {eps:g}", _constant(n, p), eps=eps)


BATTERIES = {
    "mean/std 0 to 1e6": offsets,
    "std 1e-15 to 1e15": scales,
    "m 2 to 10 million": lengths,
    "one outlier of 1e30": outliers,
    "sorted values": orders,
    "alternating signs": signs,
}
CONSTANT = "constant channel, largest abs(y - beta)"


def _normal(n: int, c: int, p: int) -> Draw:
    return lambda random: random.standard_normal((n, c, p))


def _outliers(n: int, c: int, p: int) -> Draw:
    def draw(random: np.random.Generator) -> Array:
        x = random.standard_normal((n, c, p))
        for channel in range(c):  # first, last and in between
            place = channel / (c - 1)
            x[int(place * (n - 1)), channel, int(place * (p - 1))] = 1e30
        return x

    return draw


def _ascending(n: int, c: int, p: int) -> Draw:
    return lambda random: np.sort(random.standard_normal((n, c, p)), axis=2 if p > 1 else 0)


def _alternating(n: int, c: int, p: int, noise: float) -> Draw:
    signs = np.where(np.arange(n * p) % 2, -1.0, 1.0).reshape(n, 1, p)
    return lambda random: signs + noise * random.standard_normal((n, c, p))


def _constant(n: int, p: int) -> Draw:
    held = np.array([0, 0.1, -1 / 3, 1e-20, 7e5, 1e18]).reshape(1, -1, 1)
    return lambda random: np.tile(held, (n, 1, p))


# --------------------------------------------------------------------------------- the libraries


def load_nbnorm() -> Library:
    import nbnorm

    def run(x: Array, dy: Array, gamma: Array, beta: Array, eps: float, axis: int) -> Outputs:
        y, context = nbnorm.batch_norm_forward(x, gamma, beta, axis=axis, eps=eps)
        gradients = nbnorm.batch_norm_backward(dy, context)
        return {"y": y, **{name: getattr(gradients, name) for name in QUANTITIES[1:]}}

    return run


def load_pytorch() -> Library:
    import torch

    def run(x: Array, dy: Array, gamma: Array, beta: Array, eps: float, axis: int) -> Outputs:
        # A fourth axis, and channels-last strides where the array has them.
        x, dy, gamma, beta = (
            torch.from_numpy(np.ascontiguousarray(v)) for v in (x, dy, gamma, beta)
        )
        x, dy = (v.movedim(axis, 1).unsqueeze(-1) for v in (x, dy))
        y, mean, inv_std = torch.native_batch_norm(x, gamma, beta, None, None, True, 0.1, eps)
        dx, dgamma, dbeta = torch.ops.aten.native_batch_norm_backward(
            dy, x, gamma, None, None, mean, inv_std, True, eps, [True, True, True]
        )
        y, dx = (v.squeeze(-1).movedim(1, axis).numpy() for v in (y, dx))
        return {"y": y, "dx": dx, "dgamma": dgamma.numpy(), "dbeta": dbeta.numpy()}

    return run


LIBRARIES = {"nbnorm": load_nbnorm, "PyTorch": load_pytorch}


# --------------------------------------------------------------------------------- measuring


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


def measure(trials: Iterator[Trial], dtype: str, libraries: dict[str, Library]) -> dict[str, Worst]:
    """The worst of a battery for each library."""
    worst = {library: Worst() for library in libraries}
    for trial in trials:
        x, dy, gamma, beta = draw(trial, dtype)
        wide = np.float64 if dtype == "float32" else np.longdouble
        exact = truth.training(x, dy, gamma, beta, trial.eps, wide)
        slack = SLACK_ULPS if x.shape[0] * x.shape[2] > MANY else 0
        for layout, outputs_of in _both_layouts(x, dy, gamma, beta, trial.eps):
            for library, run in libraries.items():
                errors = truth.errors(outputs_of(run), exact, slack)
                if dtype == "float64":
                    errors = {k: error / max(1.0, trial.ratio) for k, error in errors.items()}
                worst[library].add(errors, f"{trial.name}, {layout}")
    return worst


def measure_constants(dtype: str, libraries: dict[str, Library]) -> dict[str, Worst]:
    """How far from beta a channel comes out that holds one value throughout: it has to be 0."""
    worst = {library: Worst() for library in libraries}
    for trial in constants():
        x, dy, gamma, beta = draw(trial, dtype)
        for layout, outputs_of in _both_layouts(x, dy, gamma, beta, trial.eps):
            for library, run in libraries.items():
                difference = np.abs(outputs_of(run)["y"] - beta[None, :, None])
                worst[library].add({"y": float(difference.max())}, f"{trial.name}, {layout}")
    return worst


def draw(trial: Trial, dtype: str) -> tuple[Array, Array, Array, Array]:
    """Draw x and dy of shape (n, c, p), gamma and beta, in the type that a library is given."""
    random = np.random.default_rng(sum(trial.name.encode()))
    x = (trial.values(random) + trial.ratio) * trial.std
    dy = random.standard_normal(x.shape)
    gamma, beta = random.uniform(0.5, 1.5, x.shape[1]), random.uniform(-1, 1, x.shape[1])
    return tuple(v.astype(dtype) for v in (x, dy, gamma, beta))


def _both_layouts(x: Array, dy: Array, gamma: Array, beta: Array, eps: float) -> Iterator[Any]:
    """Each layout's name, and a function that runs a library in it and turns results back."""
    for layout, axis in (("channels-first", 1), ("channels-last", -1)):
        stored = [np.ascontiguousarray(np.moveaxis(v, 1, axis)) for v in (x, dy)]

        def outputs_of(run: Library, stored: list[Array] = stored, axis: int = axis) -> Outputs:
            outputs = run(*stored, gamma, beta, eps, axis)
            return outputs | {k: np.moveaxis(outputs[k], axis, 1) for k in ("y", "dx")}

        yield layout, outputs_of


# --------------------------------------------------------------------------------- the command


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy", description="how exact batch norm is on hard data"
    )
    parser.add_argument("--output", type=Path, default=OUT, help="the JSON file to write")
    options = parser.parse_args(arguments)
    libraries, missing = _installed()
    for name, reason in missing.items():
        print(f"{name} is missing: {reason}", file=sys.stderr)
    wide_enough = np.finfo(np.longdouble).eps < np.finfo(np.float64).eps
    dtypes = ("float32", "float64") if wide_enough else ("float32",)

    found: dict[str, dict[str, dict[str, Worst]]] = {}
    for dtype in dtypes:
        for name, trials in BATTERIES.items():
            print(f"{dtype}: {name}", file=sys.stderr)
            found.setdefault(name, {})[dtype] = measure(trials(), dtype, libraries)
        found.setdefault(CONSTANT, {})[dtype] = measure_constants(dtype, libraries)
    print(table(found, list(libraries)))
    document = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "versions": {name: machine.version(name) for name in ("nbnorm", "numba", "numpy", "torch")},
        "missing": missing,
        "bounds": BOUNDS,
        "worst": {
            battery: {
                dtype: {library: vars(worst) for library, worst in by_library.items()}
                for dtype, by_library in by_dtype.items()
            }
            for battery, by_dtype in found.items()
        },
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(document, indent=1) + "\n")
    return 0


def table(found: dict[str, dict[str, dict[str, Worst]]], libraries: list[str]) -> str:
    """A row for each battery and type: the worst errors, library beside library."""
    columns = [(quantity, library) for quantity in QUANTITIES for library in libraries]
    rows = []
    for battery, by_dtype in found.items():
        for dtype, worst in by_dtype.items():
            bound = 0.0 if battery == CONSTANT else BOUNDS[dtype]
            cells = [_cell(worst[library].error.get(name), bound) for name, library in columns]
            rows.append([battery, dtype, f"{bound:.0e}" if bound else "0", *cells])
    headings = ["battery", "type", "bound", *(f"{name} {library}" for name, library in columns)]
    return markdown.table(headings, rows)


def _cell(error: float | None, bound: float) -> str:
    if error is None:
        return ""
    text = "0" if error == 0 else f"{error:.1e}" if math.isfinite(error) else "not finite"
    return text if error <= bound else f"**{text}**"


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
