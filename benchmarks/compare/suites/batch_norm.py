"""The batch norm suite: its shapes, operations, data and truth, and the targets it has to meet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from benchmarks.accuracy import truth
from benchmarks.compare.peers import SUBJECT
from benchmarks.compare.protocol import FIRST, LAST, ROWS, Case, Shape
from benchmarks.compare.results import Results
from benchmarks.compare.targets import Ratios, Target, against, against_fastest, best_layouts

NAME = "batch_norm"
DIMENSIONS = "shape"
ROUNDS, SECONDS = 3, 0.03  # at least so many turns, of so many seconds

PICTURES: list[Shape] = [
    (32, 64, 112, 112), (32, 64, 56, 56), (32, 256, 56, 56), (32, 128, 28, 28), (32, 256, 14, 14),
    (32, 512, 7, 7), (32, 2048, 7, 7), (128, 16, 32, 32), (128, 64, 8, 8), (16, 37, 29, 31),
    (7, 3, 65, 65), (1, 64, 112, 112), (32, 128, 1000), (4, 32, 16, 32, 32),
]  # fmt: skip
TABLES: list[Shape] = [(256, 1024), (4096, 1024), (64, 4096), (100000, 32)]
ONE_CALL: Shape = (8, 16, 4, 4)  # so small that the call itself is what takes the time

SHAPES = [*PICTURES, *TABLES, ONE_CALL]
QUICK_SHAPES = [(32, 64, 56, 56), (32, 256, 14, 14), (16, 37, 29, 31), (256, 1024), ONE_CALL]

INFERENCE, FORWARD, BACKWARD, BOTH = (
    f"batch_norm_{name}" for name in ("inference", "forward", "backward", "forward_backward")
)
COPY, ADD = "memory_copy", "memory_add"
OPERATIONS = {
    INFERENCE: "inference",
    FORWARD: "training forward",
    BACKWARD: "backward",
    BOTH: "forward + backward",
}
IN_SHORT = {
    BOTH: "batch norm, forward and backward",
    INFERENCE: "batch norm, inference",
}
LIMIT = {INFERENCE: COPY, FORWARD: COPY, BACKWARD: ADD, BOTH: None}

EPS = 1e-5
# Of each output's scale (benchmarks/accuracy/truth.py). It is there to catch a library that
# computes something else: float32 sums over 400,000 values, as some take them, are off by 1.5e-4.
TOLERANCE = 1e-3


def layouts(shape: Shape) -> list[str]:
    """The orders in memory that a shape is measured in."""
    if shape == ONE_CALL:
        return [FIRST]
    return [ROWS] if len(shape) == 2 else [FIRST, LAST]


def cases(shape: Shape, layout: str, operations: Iterable[str]) -> list[Case]:
    """What is measured on one array, the limits first."""
    if shape == ONE_CALL:
        return [Case(op, shape, layout) for op in (FORWARD, BACKWARD) if op in operations]
    limits = dict.fromkeys(LIMIT[operation] for operation in operations if LIMIT[operation])
    found = [Case(limit, shape, layout, True) for limit in limits]
    for operation in operations:
        found.append(Case(operation, shape, layout))
        # In inference every library may write where it likes best, so both ways are measured and
        # like is compared with like. In training out= matters where fresh pages dominate.
        if operation == INFERENCE or (operation != BOTH and is_large(shape)):
            found.append(Case(operation, shape, layout, True))
    return found


def title(case: Case) -> str:
    """The heading that a case is tabulated under."""
    where = "a call on (8, 16, 4, 4)" if case.shape == ONE_CALL else case.layout
    return f"{OPERATIONS[case.operation]}, {where}{', out=' if case.reuse else ''}"


def is_large(shape: Shape) -> bool:
    return 4 * math.prod(shape) >= 64_000_000


class Problem:
    """The data of one shape, the same for every library, and what has to come out."""

    def __init__(self, shape: Shape) -> None:
        random = np.random.default_rng([20_240_607, *shape])
        n_channels = shape[1]
        column = (1, n_channels, *[1] * (len(shape) - 2))

        def drawn(low: float, high: float) -> Any:
            return random.uniform(low, high, n_channels).astype(np.float32)

        x, dy = (random.standard_normal(shape, dtype=np.float32) for _ in range(2))
        x *= drawn(0.5, 2).reshape(column)
        x += drawn(-1, 1).reshape(column)
        self.values = {
            "x": x, "dy": dy, "eps": EPS,
            "gamma": drawn(0.5, 1.5), "beta": drawn(-1, 1),
            "mean": drawn(-1, 1), "var": drawn(0.5, 2),
        }  # fmt: skip
        self._truths: dict[str, truth.Truth] = {}

    def arranged(self, layout: str) -> dict[str, Any]:
        """The values with x and dy in the memory order of a layout."""
        if layout != LAST:
            return self.values
        moved = {k: np.ascontiguousarray(np.moveaxis(self.values[k], 1, -1)) for k in ("x", "dy")}
        return self.values | moved

    def error(self, case: Case, outputs: dict[str, Any]) -> float:
        """The largest error of the outputs of a case, NaN where one is not finite."""
        if case.operation in (COPY, ADD):
            expected = self.values["x"] + (self.values["dy"] if case.operation == ADD else 0)
            right = np.array_equal(self._ncp(outputs["result"], case), truth.as_ncp(expected))
            return 0.0 if right else float("nan")
        outputs = {
            name: self._ncp(output, case) if name in ("y", "dx") else output
            for name, output in outputs.items()
        }
        errors = truth.errors(outputs, self._truth(case.operation == INFERENCE))
        return float(np.max(list(errors.values())))

    def _ncp(self, output: Any, case: Case) -> Any:
        """An output as (n, c, p); a peer may have flattened what it saw as rows."""
        n, c, *positions = case.shape
        stored = (n, *positions, c) if case.layout == LAST else case.shape
        return truth.as_ncp(output.reshape(stored), case.axis)

    def _truth(self, inference: bool) -> truth.Truth:
        key = "inference" if inference else "training"
        if key not in self._truths:
            values = self.values | {k: truth.as_ncp(self.values[k]) for k in ("x", "dy")}
            wanted = ("mean", "var") if inference else ("dy",)
            names = ("x", *wanted, "gamma", "beta")
            function = truth.inference if inference else truth.training
            self._truths[key] = function(*(values[name] for name in names), EPS)
        return self._truths[key]


# ---------------------------------------------------------------------------------- the targets


def against_pytorch(operation: str, layout: str, shapes: list[Shape] = PICTURES) -> Any:
    """Times as fast as eager PyTorch in the same layout."""
    return against("pytorch", (Case(operation, shape, layout) for shape in shapes))


def over_limit(operation: str, layout: str) -> Any:
    """Time over the memory limit's, result arrays given, for large arrays."""

    def ratios(results: Results) -> Ratios:
        found = {}
        for shape in filter(is_large, PICTURES):
            case = Case(operation, shape, layout, True)
            ours, limit = results.seconds(SUBJECT, case), limit_of(results, case)
            if ours and limit:
                found[case] = ours / limit
        return found

    return ratios


def limit_of(results: Results, case: Case) -> float | None:
    """The seconds of the copy or the sum that a case is held against."""
    name = LIMIT[case.operation]
    return results.seconds("limits", Case(name, case.shape, case.layout, True)) if name else None


def _steps() -> Iterable[Case]:
    return (Case(BOTH, shape, "any") for shape in (*PICTURES, *TABLES))


def _inferences() -> Iterable[Case]:
    for shape in (*PICTURES, *TABLES):
        for layout in layouts(shape):
            yield from (Case(INFERENCE, shape, layout, reuse) for reuse in (False, True))


def _tables() -> Iterable[Case]:
    return (Case(operation, shape, ROWS) for operation in (FORWARD, BACKWARD) for shape in TABLES)


def _at_least(floor: float, large: float | None = None) -> Callable[[Case], float]:
    return lambda case: large if large is not None and is_large(case.shape) else floor


_SAME, _FASTEST = "PyTorch eager, same layout", "the fastest peer"

TARGETS = [
    Target("training forward, channels-first", _SAME,
           against_pytorch(FORWARD, FIRST), 6, _at_least(2.5, large=1.5)),
    Target("training forward, channels-last", _SAME,
           against_pytorch(FORWARD, LAST), 2, _at_least(1.3)),
    Target("backward, channels-first", _SAME,
           against_pytorch(BACKWARD, FIRST), 3, _at_least(1.5)),
    Target("backward, channels-last", _SAME,
           against_pytorch(BACKWARD, LAST), 2, _at_least(1.2)),
    Target("forward + backward, best layout of each", "the fastest peer of all",
           best_layouts(_steps(), layouts), 1.8, _at_least(1.1)),
    Target("(n, c), forward and backward", _FASTEST,
           against_fastest(_tables()), 2, _at_least(1.3)),
    Target("inference", _FASTEST, against_fastest(_inferences()), 1.2, _at_least(1.0)),
    *(Target(f"{name} with out=, 64 MB and more, {layout}", f"{limit}: times its time",
             over_limit(operation, layout), mean, at_most=True)
      for operation, name, limit, layout, mean in (
          (FORWARD, "forward", "a copy", FIRST, 1.25), (FORWARD, "forward", "a copy", LAST, 1.5),
          (BACKWARD, "backward", "a + b -> c", FIRST, 1.25),
          (BACKWARD, "backward", "a + b -> c", LAST, 1.75))),
    *(Target(f"a call on (8, 16, 4, 4), {name}", "PyTorch's call",
             against_pytorch(operation, FIRST, [ONE_CALL]), 1.0, _at_least(1.0))
      for operation, name in ((FORWARD, "forward"), (BACKWARD, "backward"))),
]  # fmt: skip
