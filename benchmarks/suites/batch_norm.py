"""The asv suite of batch norm: kernel, function and layer, both layouts and directions."""

from __future__ import annotations

import numpy as np

from .calls import Calls, Data, Directions, calls_of, draw, kernels_of, warm_up
from .ratio import on_one_thread, ratio

SHAPES = {
    "32x64x56x56": (32, 64, 56, 56),
    "32x256x14x14": (32, 256, 14, 14),
    "32x512x7x7": (32, 512, 7, 7),
    "256x1024": (256, 1024),
    "8x16x4x4": (8, 16, 4, 4),
}
LAYOUTS = ["channels-first", "channels-last"]


def data_of(shape: str, layout: str) -> Data:
    n, c, *others = SHAPES[shape]
    if layout == "channels-last" and not others:
        raise NotImplementedError("(n, c) has one layout")
    sizes = {"n": n, "c": c, "p": tuple(others)}
    return draw("batch_norm", sizes, axis=1 if layout == "channels-first" else -1)


def function_calls(shape: str, layout: str) -> Calls:
    """Outputs preallocated."""
    return calls_of("batch_norm", data_of(shape, layout))


class _BatchNorm(Directions):
    params = (list(SHAPES), LAYOUTS)
    param_names = ("shape", "layout")


class Kernel(_BatchNorm):
    """The compiled code of a call, on arrays made before."""

    def prepare(self, shape: str, layout: str) -> Calls:
        return kernels_of(function_calls(shape, layout))


class Function(_BatchNorm):
    """Single calls, outputs preallocated."""

    def prepare(self, shape: str, layout: str) -> Calls:
        return function_calls(shape, layout)


class Layer(_BatchNorm):
    """Single calls, which make their outputs."""

    def prepare(self, shape: str, layout: str) -> Calls:
        import nbnorm

        given = data_of(shape, layout).given
        x, dy, axis = given["x"], given["dy"], given["axis"]
        layer, frozen = (nbnorm.BatchNorm(x.shape[axis], axis=axis) for _ in range(2))
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
        data = data_of(shape, layout)
        x, dy, out = data.given["x"], data.given["dy"], data.out["y"]
        self.calls = calls_of("batch_norm", data)
        self.copy = lambda: np.copyto(out, x)
        self.add = lambda: np.add(x, dy, out=out)
        warm_up(self.calls)

    def track_forward_over_copy(self, shape: str, layout: str) -> float:
        return ratio(self.calls.forward, self.copy)

    def track_inference_over_copy(self, shape: str, layout: str) -> float:
        return ratio(self.calls.inference, self.copy)

    def track_backward_over_add(self, shape: str, layout: str) -> float:
        return ratio(self.calls.backward, self.add)
