"""The suite of convolutions with batch norm and ReLU behind them.

Shapes are (n, c, h = w, k, window, stride, dilation, groups), the last two left out where they are
1. Every library counts in the layout that it is faster in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.accuracy.products import Conv2d
from benchmarks.compare.peers import SUBJECT
from benchmarks.compare.protocol import FIRST, LAST, Case, Given, Shape
from benchmarks.compare.results import Results
from benchmarks.compare.suites import layers
from benchmarks.compare.suites.layers import EPS
from benchmarks.compare.targets import Ratios, Target, best_layouts

NAME = "conv2d_batch_norm"
DIMENSIONS = "n x c x h x k x window x stride (x dilation x groups)"
ROUNDS, SECONDS = 3, 0.01  # at least so many turns, of so many seconds
# Each takes about ten seconds to compile one case.
SLOW_PEERS = ("jax", "pytorch_compiled")

SHAPES: list[Shape] = [
    # 3x3, stride 1
    (16, 64, 56, 64, 3, 1), (16, 128, 28, 128, 3, 1), (16, 256, 14, 256, 3, 1),
    (16, 512, 7, 512, 3, 1), (4, 256, 56, 256, 3, 1), (64, 16, 32, 16, 3, 1),
    (128, 32, 8, 64, 3, 1), (1, 64, 56, 64, 3, 1), (1, 512, 13, 1024, 3, 1),
    # 3x3, stride 2
    (16, 128, 56, 128, 3, 2), (16, 256, 28, 256, 3, 2),
    # 1x1, the last with stride 2
    (16, 64, 56, 256, 1, 1), (16, 256, 56, 64, 1, 1), (16, 1024, 14, 256, 1, 1),
    (16, 512, 7, 2048, 1, 1), (16, 256, 56, 512, 1, 2),
    # 7x7 and 5x5
    (16, 3, 224, 64, 7, 2), (16, 32, 28, 64, 5, 1),
    # dilation 2; 32 groups; depthwise, with stride 1 and 2
    (8, 128, 28, 128, 3, 1, 2), (16, 128, 56, 128, 3, 1, 1, 32),
    (16, 144, 56, 144, 3, 1, 1, 144), (16, 96, 112, 96, 3, 2, 1, 96),
]  # fmt: skip
QUICK_SHAPES: list[Shape] = [
    (16, 64, 56, 64, 3, 1), (16, 256, 14, 256, 3, 1), (16, 256, 56, 64, 1, 1),
    (16, 144, 56, 144, 3, 1, 1, 144),
]  # fmt: skip

INFERENCE, FORWARD, BOTH, MEMORY = (
    f"{NAME}_{name}" for name in ("inference", "forward", "forward_backward", "memory")
)
OPERATIONS = {
    INFERENCE: "inference",
    FORWARD: "training forward",
    BOTH: "forward + backward",
    MEMORY: "memory of a training step",  # of four blocks; it is not timed
}
IN_SHORT = {
    BOTH: "convolution + batch norm + ReLU, forward and backward",
    INFERENCE: "convolution + batch norm + ReLU, inference",
}

TOLERANCE = layers.TOLERANCE


def layouts(shape: Shape) -> list[str]:
    """The orders in memory that a shape is measured in."""
    return [FIRST, LAST]


def cases(shape: Shape, layout: str, operations: Iterable[str]) -> list[Case]:
    """What is timed on one pair of x and weights."""
    return [
        Case(operation, shape, layout, reuse)
        for operation in operations
        if operation != MEMORY
        for reuse in ways(operation)
    ]


def ways(operation: str) -> tuple[bool, ...]:
    """Whether results are reused: in inference both, as every library likes it best."""
    return (False, True) if operation == INFERENCE else (False,)


def title(case: Case) -> str:
    """The heading that a case is tabulated under."""
    return f"{OPERATIONS[case.operation]}, {case.layout}{', out=' if case.reuse else ''}"


def limit_of(results: Results, case: Case) -> None:
    """There is none: multiplying takes longer than moving the bytes."""


class Problem(layers.Problem):
    def __init__(self, shape: Shape) -> None:
        super().__init__(shape, Conv2d(*shape))


# --------------------------------------------------------------------------------------- memory

# Of every block, each taking the output of the one before.
MEMORY_SHAPE: Shape = (16, 64, 56, 64, 3, 1)
MEMORY_BLOCKS = 4
MEMORY_PEERS = (SUBJECT, "pytorch")
# As a whole: a ReLU's input close to 0 decides over single values, here in millions, 3e-3 of dx.
MEMORY_TOLERANCE = 1e-2


def memory_cases() -> list[Case]:
    """The cases whose memory is measured, not their time."""
    return [Case(MEMORY, MEMORY_SHAPE, layout) for layout in layouts(MEMORY_SHAPE)]


def memory_problem(case: Case) -> tuple[Given, Given]:
    """What a peer needs to make its blocks and their data: for a batch of one, and as it is."""
    _, *rest = case.shape
    product = Conv2d(*case.shape)
    values = {
        "blocks": MEMORY_BLOCKS, "eps": EPS, "x_shape": product.x_shape,
        "weight_shape": product.weight_shape, **product.options,
    }  # fmt: skip
    one = Given(replace(case, shape=(1, *rest)), values | {"x_shape": (1, *product.x_shape[1:])})
    return one, Given(case, values)


def memory_error(expected: dict[str, Any], outputs: dict[str, Any]) -> float:
    """How far two libraries' outputs are apart as a whole, relative to their rms."""
    distances = [
        float(np.linalg.norm(outputs[name] - value) / np.linalg.norm(value))
        for name, value in expected.items()
    ]
    return max(distances)


def over_pytorch(results: Results) -> Ratios:
    """How many times PyTorch's memory nbnorm needs, each in its more frugal layout."""
    least = {
        peer: min(found)
        for peer in MEMORY_PEERS
        if (found := [m.mebibytes for m in results.memory if m.peer == peer])
    }
    if len(least) < len(MEMORY_PEERS):
        return {}
    return {Case(MEMORY, MEMORY_SHAPE, "best layout"): least[SUBJECT] / least["pytorch"]}


# ---------------------------------------------------------------------------------- the targets


def is_3x3_of_stride_1(shape: Shape) -> bool:
    return Conv2d(*shape) == Conv2d(*shape[:4], r=3)


def _all(operation: str, where: Callable[[Shape], bool] = lambda _: True) -> Iterator[Case]:
    for shape in filter(where, SHAPES):
        yield from cases(shape, FIRST, [operation])


def _target(
    what: str, operation: str, mean: float, floor: float, where: Callable[[Shape], bool] | None
) -> Target:
    chosen, title = (where, "3x3 stride 1") if where else (lambda _: True, "all")
    ratios = best_layouts(_all(operation, chosen), layouts)
    return Target(f"{what}, {title}", "the fastest peer", ratios, mean, lambda _: floor)


TARGETS = [
    _target("inference (folded)", INFERENCE, 1.6, 1.1, is_3x3_of_stride_1),
    _target("inference (folded)", INFERENCE, 1.3, 0.9, None),
    _target("training forward", FORWARD, 1.5, 1.0, None),
    _target("training forward + backward", BOTH, 1.6, 1.1, is_3x3_of_stride_1),
    _target("training forward + backward", BOTH, 1.4, 0.95, None),
    Target("forward + backward, fused", "nbnorm's own convolution, then its batch norm",
           best_layouts(_all(BOTH), layouts, "separate"), 1.15, lambda _: 1.0),
    Target("resident memory of a training step of four blocks, growth above the warmed idle "
           "process", "PyTorch's", over_pytorch, 0.9, at_most=True),
]  # fmt: skip
