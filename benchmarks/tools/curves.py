"""The twenty curves to watch on the dashboard: ratios, each with what it tells.

A ratio is two times taken in turn in one process on one thread, so that what slows the machine
slows both sides. `band` is by how much one moves on its own on a machine with other work, at least:
see "Reading a result" in benchmarks/README.md. `python -m benchmarks.regressions` compares by them.
"""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path
from typing import NamedTuple

SUITES = Path(__file__).parents[1] / "suites"

# Arrays that fit the last cache, and those that do not: memory's other users move these.
CACHED, BEYOND = 0.10, 0.35


class Curve(NamedTuple):
    """A benchmark of one set of parameters."""

    benchmark: str
    parameters: tuple[str, ...]
    tells: str
    band: float = CACHED

    def __str__(self) -> str:
        return f"{self.benchmark}({', '.join(self.parameters)})"


FIRST, LAST = "channels-first", "channels-last"
_BN, _DENSE, _CONV = "batch_norm.Ratio.", "dense_batch_norm.", "conv2d_batch_norm."

CURVES = (
    Curve(_BN + "track_forward_over_copy", ("32x256x14x14", FIRST),
          "Training's forward in cache, over a copy: the vector loops of sums and of the output."),
    Curve(_BN + "track_forward_over_copy", ("32x256x14x14", LAST),
          "The same with channels last: sums down columns."),
    Curve(_BN + "track_forward_over_copy", ("32x64x56x56", FIRST),
          "The forward beyond the cache: whether it still reads memory once.", BEYOND),
    Curve(_BN + "track_forward_over_copy", ("8x16x4x4", FIRST),
          "A tiny array: what a call costs before and after its kernel."),
    Curve(_BN + "track_forward_over_copy", ("256x1024", FIRST),
          "Rows of features, (n, c), as behind a dense layer."),
    Curve(_BN + "track_backward_over_add", ("32x256x14x14", FIRST),
          "The backward in cache, over a + b -> c: its two sums and the gradient."),
    Curve(_BN + "track_backward_over_add", ("32x256x14x14", LAST),
          "The same with channels last."),
    Curve(_BN + "track_inference_over_copy", ("32x256x14x14", FIRST),
          "Inference: one subtraction and one multiply-add a value."),
    Curve(_BN + "track_inference_over_copy", ("32x256x14x14", LAST),
          "The same with channels last."),
    Curve(_DENSE + "Ratio.track_forward_over_matmul", ("256x784x512",),
          "A dense layer with batch norm and ReLU, over NumPy's matmul: the blocked product."),
    Curve(_DENSE + "Ratio.track_step_over_three_matmuls", ("256x784x512",),
          "Its forward and backward, over the three products that they contain."),
    Curve(_DENSE + "Ratio.track_inference_over_matmul", ("1024x1024x1024",),
          "A large product: how near the microkernel is to OpenBLAS's."),
    Curve(_DENSE + "Fused.track_step_over_separate", ("256x784x512",),
          "What fusing gains: one function over two."),
    Curve(_DENSE + "Fused.track_step_over_separate", ("16384x64x128",),
          "Few inputs and many rows: statistics by covariance, no product stored.", BEYOND),
    Curve(_CONV + "Ratio.track_forward_over_matmul", ("3x3 16x256x14", FIRST),
          "A 3x3 convolution over a product of as many operations: Winograd's algorithm."),
    Curve(_CONV + "Ratio.track_forward_over_matmul", ("3x3 stride 2 16x128x28", LAST),
          "A strided one, which goes the direct way."),
    Curve(_CONV + "Ratio.track_forward_over_matmul", ("1x1 16x256x28x64", FIRST),
          "A 1x1 convolution: a product, whose output is a large part of the work."),
    Curve(_CONV + "Ratio.track_step_over_three_matmuls", ("3x3 16x256x14", LAST),
          "A 3x3 convolution's forward and backward."),
    Curve(_CONV + "Fused.track_step_over_separate", ("3x3 4x64x56", FIRST),
          "What fusing gains a convolution in training."),
    Curve(_CONV + "Fused.track_step_over_separate", ("depthwise 16x144x28", LAST),
          "The same where the convolution itself is cheap."),
)  # fmt: skip


def measure(benchmark: str, parameters: tuple[str, ...]) -> float:
    """A benchmark as asv runs it, in this process."""
    from asv_runner.discovery import get_benchmark_from_name

    found = get_benchmark_from_name(str(SUITES), benchmark)
    if parameters:
        every = list(itertools.product(*found._params))
        found.set_param_idx(every.index(parameters))
    if found.do_setup():
        raise ValueError(f"{benchmark}{parameters} is left out")
    result = found.do_run()
    return statistics.median(result["samples"]) if isinstance(result, dict) else result
