"""The asv suite of batch norm: kernel, function and layer, both layouts and directions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .calls import Calls, Directions, kernels_of, warm_up
from .ratio import on_one_thread, ratio

SHAPES = {
    "32x64x56x56": (32, 64, 56, 56),
    "32x256x14x14": (32, 256, 14, 14),
    "32x512x7x7": (32, 512, 7, 7),
    "256x1024": (256, 1024),
    "8x16x4x4": (8, 16, 4, 4),
}
LAYOUTS = ["channels-first", "channels-last"]


class Arrays(NamedTuple):
    """Data of one shape and layout."""

    x: np.ndarray
    dy: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray
    out: np.ndarray
    axis: int


def arrays(shape: str, layout: str) -> Arrays:
    sizes = SHAPES[shape]
    axis = 1
    if layout == "channels-last":
        if len(sizes) == 2:
            raise NotImplementedError("(n, c) has one layout")
        sizes, axis = (sizes[0], *sizes[2:], sizes[1]), -1
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal(sizes, dtype=np.float32) for _ in range(2))
    gamma, beta = (rng.random(sizes[axis], dtype=np.float32) for _ in range(2))
    return Arrays(x, dy, gamma, beta, np.empty_like(x), axis)


def function_calls(data: Arrays) -> Calls:
    """Outputs preallocated."""
    import nbnorm

    x, dy, gamma, beta, out, axis = data
    _, context = nbnorm.batch_norm_forward(x, gamma, beta, axis=axis, out=out)
    mean, var = context.mean, context.var
    gradients = nbnorm.BatchNormGradients(dx=out)
    return Calls(
        lambda: nbnorm.batch_norm_forward(x, gamma, beta, axis=axis, out=out),
        lambda: nbnorm.batch_norm_backward(dy, context, out=gradients),
        lambda: nbnorm.batch_norm_inference(x, mean, var, gamma, beta, axis=axis, out=out),
    )


class _BatchNorm(Directions):
    params = (list(SHAPES), LAYOUTS)
    param_names = ("shape", "layout")


class Kernel(_BatchNorm):
    """The compiled code of a call, on arrays made before."""

    def prepare(self, shape: str, layout: str) -> Calls:
        return kernels_of(function_calls(arrays(shape, layout)))


class Function(_BatchNorm):
    """Single calls, outputs preallocated."""

    def prepare(self, shape: str, layout: str) -> Calls:
        return function_calls(arrays(shape, layout))


class Layer(_BatchNorm):
    """Single calls, which make their outputs."""

    def prepare(self, shape: str, layout: str) -> Calls:
        import nbnorm

        x, dy, gamma, _, _, axis = arrays(shape, layout)
        layer, frozen = (nbnorm.BatchNorm(len(gamma), axis=axis) for _ in range(2))
        _, context = layer.forward(x)
        frozen.eval()
        return Calls(
            lambda: layer.forward(x),
            lambda: layer.backward(dy, context),
            lambda: frozen.forward(x),
        )


class Ratio:
    """Times over that of the memory traffic that no kernel can do without."""

    params = (list(SHAPES), LAYOUTS)
    param_names = ("shape", "layout")
    unit = "times the limit"

    def setup(self, shape: str, layout: str) -> None:
        on_one_thread()
        data = arrays(shape, layout)
        x, dy, out = data.x, data.dy, data.out
        self.calls = function_calls(data)
        self.copy = lambda: np.copyto(out, x)
        self.add = lambda: np.add(x, dy, out=out)
        warm_up(self.calls)

    def track_forward_over_copy(self, shape: str, layout: str) -> float:
        return ratio(self.calls.forward, self.copy)

    def track_inference_over_copy(self, shape: str, layout: str) -> float:
        return ratio(self.calls.inference, self.copy)

    def track_backward_over_add(self, shape: str, layout: str) -> float:
        return ratio(self.calls.backward, self.add)
