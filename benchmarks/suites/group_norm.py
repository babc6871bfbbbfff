"""The asv suite of group and instance norm.

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
    "8x32x28x28": (8, 32, 28, 28),
}
LAYOUTS = {"channels-first": 1, "channels-last": -1}
# The options of each.
KINDS = {"group_norm": {"num_groups": 32}, "instance_norm": {}}


class _GroupNorm:
    """Arrays of one shape, and everything compiled."""

    params = (list(SHAPES), list(LAYOUTS), list(KINDS))
    param_names = ("shape", "layout", "kind")

    def setup(self, shape: str, layout: str, kind: str) -> None:
        n, c, *others = SHAPES[shape]
        sizes = {"n": n, "c": c, "p": tuple(others)}
        data = draw(kind, sizes, axis=LAYOUTS[layout], **KINDS[kind])
        self.forward, self.backward, _ = calls_of(kind, data)
        x, dy, out = data.given["x"], data.given["dy"], data.out["y"]
        self.copy = lambda: np.copyto(out, x)
        self.add = lambda: np.add(x, dy, out=out)
        self.forward()
        self.backward()


class Time(_GroupNorm):
    """Times of single calls, outputs preallocated."""

    def time_forward(self, shape: str, layout: str, kind: str) -> None:
        self.forward()

    def time_backward(self, shape: str, layout: str, kind: str) -> None:
        self.backward()


class Ratio(_GroupNorm):
    """Times over the memory limit, which a noisy machine does not disturb."""

    unit = "times the limit"

    def track_forward_over_copy(self, shape: str, layout: str, kind: str) -> float:
        return ratio(self.forward, self.copy)

    def track_backward_over_add(self, shape: str, layout: str, kind: str) -> float:
        return ratio(self.backward, self.add)
