"""The asv suite of batch norm: functions and layer, both layouts and directions.

A time on a shared machine drifts by a factor of two; a ratio taken inside one benchmark, its two
sides in turn, does not. So the `track_` benchmarks are the ones to compare between commits: the
time of a call over that of a copy (forward, inference) or of ``a + b -> c`` (backward) on arrays of
the same size. nbnorm is imported in `setup`, so that a name missing in an old commit fails its own
benchmarks only.
"""

from __future__ import annotations

import numpy as np

from benchmarks.ratio import ratio

SHAPES = {
    "32x64x56x56": (32, 64, 56, 56),
    "32x256x14x14": (32, 256, 14, 14),
    "32x512x7x7": (32, 512, 7, 7),
    "256x1024": (256, 1024),
    "8x16x4x4": (8, 16, 4, 4),
}
LAYOUTS = ["channels-first", "channels-last"]


class _BatchNorm:
    """Arrays of one shape and layout, and everything compiled."""

    params = (list(SHAPES), LAYOUTS)
    param_names = ("shape", "layout")

    def setup(self, shape: str, layout: str) -> None:
        import nbnorm

        sizes = SHAPES[shape]
        if layout == "channels-last":
            if len(sizes) == 2:
                raise NotImplementedError("(n, c) has one layout")
            sizes = (sizes[0], *sizes[2:], sizes[1])
        axis = 1 if layout == "channels-first" else -1
        channels = sizes[axis]
        rng = np.random.default_rng(0)
        x = rng.standard_normal(sizes, dtype=np.float32)
        dy = rng.standard_normal(sizes, dtype=np.float32)
        gamma = rng.random(channels, dtype=np.float32)
        beta = rng.random(channels, dtype=np.float32)
        out = np.empty_like(x)
        _, context = nbnorm.batch_norm_forward(x, gamma, beta, axis=axis)
        mean, var = context.mean, context.var
        layer = nbnorm.BatchNorm(channels, axis=axis)

        def layer_step() -> None:
            layer(x)
            layer.backward(dy)

        self.forward = lambda: nbnorm.batch_norm_forward(x, gamma, beta, axis=axis, out=out)
        self.backward = lambda: nbnorm.batch_norm_backward(
            dy, context, out=nbnorm.BatchNormGradients(dx=out)
        )
        self.inference = lambda: nbnorm.batch_norm_inference(
            x, mean, var, gamma, beta, axis=axis, out=out
        )
        self.layer_step = layer_step
        self.copy = lambda: np.copyto(out, x)
        self.add = lambda: np.add(x, dy, out=out)
        for call in (self.forward, self.backward, self.inference, self.layer_step):
            call()


class Time(_BatchNorm):
    """Times of single calls, outputs preallocated where the function allows."""

    def time_forward(self, shape: str, layout: str) -> None:
        self.forward()

    def time_backward(self, shape: str, layout: str) -> None:
        self.backward()

    def time_inference(self, shape: str, layout: str) -> None:
        self.inference()

    def time_layer_step(self, shape: str, layout: str) -> None:
        self.layer_step()


class Ratio(_BatchNorm):
    """Times over the memory limit, which a noisy machine does not disturb."""

    unit = "times the limit"

    def track_forward_over_copy(self, shape: str, layout: str) -> float:
        return ratio(self.forward, self.copy)

    def track_inference_over_copy(self, shape: str, layout: str) -> float:
        return ratio(self.inference, self.copy)

    def track_backward_over_add(self, shape: str, layout: str) -> float:
        return ratio(self.backward, self.add)
