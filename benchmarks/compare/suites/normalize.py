"""The suite of L1 and L2 normalization along axis 1, and of batch norm per activation."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks.compare.protocol import FIRST, ROWS, Case, Shape
from benchmarks.compare.results import Results
from benchmarks.compare.targets import Target, against, against_fastest

NAME = "normalize"
DIMENSIONS = "shape"

PICTURES: list[Shape] = [
    (32, 64, 56, 56), (32, 256, 14, 14), (32, 512, 7, 7), (32, 3, 224, 224),
]  # fmt: skip
TABLES: list[Shape] = [(256, 1024), (4096, 1024), (100_000, 16)]

SHAPES = [*PICTURES, *TABLES]
QUICK_SHAPES = [(32, 256, 14, 14), (256, 1024)]

OPERATIONS = {
    f"normalize_{name}{step}": f"{title}, {words}"
    for name, title in (("l1", "L1"), ("l2", "L2"), ("activation", "BN per activation"))
    for step, words in (("_forward", "forward"), ("_forward_backward", "forward + backward"))
}
IN_SHORT = {
    "normalize_l2_forward_backward": "L2 normalization, forward and backward",
    "normalize_activation_forward_backward": "batch norm per activation, forward and backward",
}
FORWARDS = [operation for operation in OPERATIONS if not operation.endswith("backward")]
STEPS = [operation for operation in OPERATIONS if operation.endswith("backward")]

ROUNDS, SECONDS = 3, 0.03  # at least so many turns, of so many seconds

# Where eps matters definitions differ: added, or a least value.
EPS, BATCH_EPS = 1e-12, 1e-5
TOLERANCE = 1e-3  # of each output's scale, as in the batch norm suite


def layouts(shape: Shape) -> list[str]:
    """Channels first; a table has one order."""
    return [ROWS] if len(shape) == 2 else [FIRST]


def cases(shape: Shape, layout: str, operations: Iterable[str]) -> list[Case]:
    """What is measured on one array."""
    return [Case(operation, shape, layout) for operation in operations]


def title(case: Case) -> str:
    """The heading that a case is tabulated under."""
    return f"{OPERATIONS[case.operation]}, {case.layout}"


def limit_of(results: Results, case: Case) -> None:
    """No limit is measured."""


class Problem:
    """The data of one shape, the same for every library, and what has to come out."""

    def __init__(self, shape: Shape) -> None:
        random = np.random.default_rng([20_240_607, *shape])
        x, dy = (random.standard_normal(shape, dtype=np.float32) for _ in range(2))
        self.values = {"x": x, "dy": dy, "eps": EPS, "batch_eps": BATCH_EPS}
        self._truths: dict[str, dict[str, Any]] = {}

    def arranged(self, layout: str) -> dict[str, Any]:
        """The values; there is one order in memory."""
        return self.values

    def error(self, case: Case, outputs: dict[str, Any]) -> float:
        """The largest error over the rms of each output, NaN where one is not finite."""
        kind = case.operation.split("_")[1]
        if kind not in self._truths:
            self._truths[kind] = self._truth(kind)
        errors = []
        for name, output in outputs.items():
            wanted = self._truths[kind][name]
            difference = output.reshape(case.shape) - wanted
            errors.append(np.abs(difference).max() / math.sqrt(np.mean(wanted * wanted)))
        return float(np.max(errors))

    def _truth(self, kind: str) -> dict[str, Any]:
        """From the formulas in float64; it shares no code with nbnorm."""
        x, dy = (self.values[name].astype(np.float64) for name in ("x", "dy"))
        if kind == "activation":
            x = x - x.mean(axis=0)
            inverse = 1 / np.sqrt((x * x).mean(axis=0) + BATCH_EPS)
            y = x * inverse
            return {"y": y, "dx": inverse * (dy - dy.mean(axis=0) - y * (dy * y).mean(axis=0))}
        if kind == "l1":
            d, slope = np.abs(x).sum(axis=1, keepdims=True) + EPS, np.sign(x)
            y = x / d
        else:
            d = np.sqrt((x * x).sum(axis=1, keepdims=True) + EPS)
            y = slope = x / d
        return {"y": y, "dx": (dy - slope * (dy * y).sum(axis=1, keepdims=True)) / d}


def _all(operations: list[str]) -> list[Case]:
    return [
        Case(operation, shape, layout)
        for operation in operations
        for shape in SHAPES
        for layout in layouts(shape)
    ]


def _of(operations: list[str], kind: str) -> list[Case]:
    return _all([operation for operation in operations if f"_{kind}_" in operation])


TARGETS = [
    Target(f"{OPERATIONS[operation]}", "PyTorch eager", against("pytorch", _all([operation])), 2)
    for operation in OPERATIONS
] + [
    Target(f"{name}, {words}", "the fastest peer", against_fastest(_of(operations, kind)), 2)
    for kind, name in (("l1", "L1"), ("l2", "L2"), ("activation", "BN per activation"))
    for operations, words in ((FORWARDS, "forward"), (STEPS, "forward + backward"))
]
