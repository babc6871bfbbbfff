"""The suite of dense layers with batch norm and ReLU behind them; shapes are (n, c, k)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from benchmarks.accuracy.products import Dense
from benchmarks.compare.protocol import ROWS, Case, Shape
from benchmarks.compare.results import Results
from benchmarks.compare.suites import layers
from benchmarks.compare.targets import Target, against, against_fastest

NAME = "dense_batch_norm"
DIMENSIONS = "n x c x k"
ROUNDS, SECONDS = 3, 0.03  # at least so many turns, of so many seconds

ONE_ROW: Shape = (1, 1024, 1024)  # no batch to train with
SHAPES: list[Shape] = [
    (256, 784, 512), (1024, 1024, 1024), (4096, 512, 512), (64, 2048, 1000), (16384, 64, 128),
    (65536, 32, 32), (128, 4096, 4096), (32, 100, 10), ONE_ROW,
]  # fmt: skip
QUICK_SHAPES: list[Shape] = [(256, 784, 512), (16384, 64, 128), (32, 100, 10), ONE_ROW]

INFERENCE, FORWARD, BOTH = (
    f"{NAME}_{name}" for name in ("inference", "forward", "forward_backward")
)
PRODUCT = "dense_forward"
OPERATIONS = {
    INFERENCE: "inference",
    FORWARD: "training forward",
    BOTH: "forward + backward",
    PRODUCT: "dense_forward alone",
}
IN_SHORT = {
    BOTH: "dense + batch norm + ReLU, forward and backward",
    INFERENCE: "dense + batch norm + ReLU, inference",
}

TOLERANCE = layers.TOLERANCE


def layouts(shape: Shape) -> list[str]:
    """Rows have one order in memory."""
    return [ROWS]


def cases(shape: Shape, layout: str, operations: Iterable[str]) -> list[Case]:
    """What is measured on one pair of x and weights."""
    return [
        Case(operation, shape, layout, reuse)
        for operation in operations
        if shape != ONE_ROW or operation == INFERENCE
        for reuse in ways(operation)
    ]


def ways(operation: str) -> tuple[bool, ...]:
    """Whether results are reused: in inference both, as every library likes it best."""
    return (False, True) if operation in (INFERENCE, PRODUCT) else (False,)


def title(case: Case) -> str:
    """The heading that a case is tabulated under."""
    return f"{OPERATIONS[case.operation]}{', out=' if case.reuse else ''}"


def limit_of(results: Results, case: Case) -> None:
    """There is none: multiplying takes longer than moving the bytes."""


class Problem(layers.Problem):
    def __init__(self, shape: Shape) -> None:
        super().__init__(shape, Dense(*shape))


def _all(operation: str) -> Iterator[Case]:
    for shape in SHAPES:
        yield from cases(shape, ROWS, [operation])


TARGETS = [
    Target("training forward", "the fastest peer",
           against_fastest(_all(FORWARD)), 1.4, lambda _: 1.0),
    Target("training forward + backward", "the fastest peer",
           against_fastest(_all(BOTH)), 1.4, lambda _: 1.0),
    Target("inference", "the fastest peer",
           against_fastest(_all(INFERENCE)), 1.15, lambda _: 0.95),
    Target("`dense_forward` alone", "NumPy's matmul",
           against("numpy", _all(PRODUCT)), 1.0, lambda _: 0.9),
    Target("forward + backward, fused", "nbnorm's own dense, then its batch norm",
           against("separate", _all(BOTH)), 1.15, lambda _: 1.0),
]  # fmt: skip
