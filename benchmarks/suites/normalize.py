"""The asv suite of L1 and L2 normalization, and of batch norm per activation.

As in batch_norm.py, the `track_` benchmarks are the ones to compare between commits: the time of a
call over that of a copy (forward) or of ``a + b -> c`` (backward) on arrays of the same size.
"""

from __future__ import annotations

import numpy as np

from .calls import calls_of, draw
from .ratio import ratio

SHAPES = {
    "32x64x56x56": (32, 64, 56, 56),
    "32x512x7x7": (32, 512, 7, 7),
    "32x3x224x224": (32, 3, 224, 224),
    "4096x1024": (4096, 1024),
    "100000x16": (100_000, 16),
    "8x16": (8, 16),
}
KINDS = ["l1", "l2", "per activation"]


class _Normalize:
    """Arrays of one shape, and everything compiled."""

    params = (list(SHAPES), KINDS)
    param_names = ("shape", "kind")

    def setup(self, shape: str, kind: str) -> None:
        n, c, *others = SHAPES[shape]
        sizes = {"n": n, "c": c, "p": tuple(others)}
        if kind == "per activation":
            name = "batch_norm"
            axis = tuple(range(1, len(SHAPES[shape])))
            data = draw(name, sizes, without=("gamma", "beta"), axis=axis, ddof=1)
        else:
            name = f"{kind}_normalize"
            data = draw(name, sizes)
        self.forward, self.backward, _ = calls_of(name, data)
        x, dy, out = data.given["x"], data.given["dy"], data.out["y"]
        self.copy = lambda: np.copyto(out, x)
        self.add = lambda: np.add(x, dy, out=out)
        self.forward()
        self.backward()


class Time(_Normalize):
    """Times of single calls, outputs preallocated."""

    def time_forward(self, shape: str, kind: str) -> None:
        self.forward()

    def time_backward(self, shape: str, kind: str) -> None:
        self.backward()


class Ratio(_Normalize):
    """Times over the memory limit, which a noisy machine does not disturb."""

    unit = "times the limit"

    def track_forward_over_copy(self, shape: str, kind: str) -> float:
        return ratio(self.forward, self.copy)

    def track_backward_over_add(self, shape: str, kind: str) -> float:
        return ratio(self.backward, self.add)
