"""The asv suite of L1 and L2 normalization, and of batch norm per activation.

As in batch_norm.py, the `track_` benchmarks are the ones to compare between commits: the time of a
call over that of a copy (forward) or of ``a + b -> c`` (backward) on arrays of the same size.
"""

from __future__ import annotations

import numpy as np

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
        import nbnorm

        sizes = SHAPES[shape]
        rng = np.random.default_rng(0)
        x = rng.standard_normal(sizes, dtype=np.float32)
        dy = rng.standard_normal(sizes, dtype=np.float32)
        out = np.empty_like(x)
        if kind == "per activation":
            options = {"axis": tuple(range(1, x.ndim)), "ddof": 1}
            _, context = nbnorm.batch_norm_forward(x, **options)
            gradients = nbnorm.BatchNormGradients(dx=out)
            self.forward = lambda: nbnorm.batch_norm_forward(x, **options, out=out)
            self.backward = lambda: nbnorm.batch_norm_backward(dy, context, out=gradients)
        else:
            forward = getattr(nbnorm, f"{kind}_normalize_forward")
            backward = getattr(nbnorm, f"{kind}_normalize_backward")
            _, context = forward(x)
            self.forward = lambda: forward(x, out=out)
            self.backward = lambda: backward(dy, context, out=out)
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
