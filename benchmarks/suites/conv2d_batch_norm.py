"""The asv suite of convolutions with batch norm and ReLU: kernel, function and layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from .calls import (
    Calls,
    Data,
    Directions,
    calls_of,
    draw,
    kernels_of,
    separate_calls_of,
    step,
    warm_up,
)
from .ratio import on_one_thread, ratio


def _sizes(n: int, c: int, h: int, k: int, r: int) -> dict[str, int]:
    """Of a convolution of n square images."""
    return {"n": n, "c": c, "h": h, "w": h, "k": k, "r": r, "s": r}


# Sizes and options, with a padding that keeps the images' size where the stride is 1.
SHAPES = {
    "3x3 4x64x56": (_sizes(4, 64, 56, 64, 3), {"padding": 1}),
    "3x3 16x256x14": (_sizes(16, 256, 14, 256, 3), {"padding": 1}),
    "3x3 stride 2 16x128x28": (_sizes(16, 128, 28, 128, 3), {"padding": 1, "stride": 2}),
    "1x1 16x256x28x64": (_sizes(16, 256, 28, 64, 1), {}),
    "depthwise 16x144x28": (_sizes(16, 144, 28, 144, 3), {"padding": 1, "groups": 144}),
}
LAYOUTS = ["channels-first", "channels-last"]

ALONE, FUSED = "conv2d", "conv2d_batch_norm"


def options_of(shape: str, layout: str, name: str = FUSED) -> dict[str, Any]:
    _, options = SHAPES[shape]
    activation = {"activation": "relu"} if name == FUSED else {}
    return options | activation | {"axis": 1 if layout == "channels-first" else -1}


def data_of(shape: str, layout: str, name: str = FUSED) -> Data:
    sizes, _ = SHAPES[shape]
    return draw(name, sizes, **options_of(shape, layout, name))


def fused_calls(shape: str, layout: str) -> Calls:
    """With batch norm and ReLU; outputs preallocated."""
    return calls_of(FUSED, data_of(shape, layout))


def alone_calls(shape: str, layout: str) -> Calls:
    """Without batch norm, where inference is the forward."""
    return calls_of(ALONE, data_of(shape, layout, ALONE))


def products(data: Data) -> Calls:
    """NumPy's matmuls of as many operations, a group at a time: (k, c r s) times (c r s, n h w).

    The matrix that such a convolution would have to lay out first is there already.
    """
    weight, groups = data.given["weight"], data.given.get("groups", 1)
    k, depth = len(weight) // groups, weight[0].size
    columns = data.given["dy"].size // len(weight)
    rng = np.random.default_rng(1)
    a, b, c = (
        rng.random((groups, *sizes), dtype=np.float32)
        for sizes in ((k, depth), (depth, columns), (k, columns))
    )
    da, db, ab = map(np.empty_like, (a, b, c))

    def forward() -> None:
        np.matmul(a, b, out=ab)

    def backward() -> None:
        np.matmul(a.swapaxes(1, 2), c, out=db)
        np.matmul(c, b.swapaxes(1, 2), out=da)

    return Calls(forward, backward, forward)


class _Conv2d(Directions):
    params = (list(SHAPES), LAYOUTS)
    param_names = ("shape", "layout")


class Kernel(_Conv2d):
    """The compiled code of a call, on arrays made before."""

    def prepare(self, shape: str, layout: str) -> Calls:
        return kernels_of(fused_calls(shape, layout))


class Function(_Conv2d):
    """Single calls, outputs preallocated."""

    def prepare(self, shape: str, layout: str) -> Calls:
        return fused_calls(shape, layout)


class AloneFunction(_Conv2d):
    """Without batch norm; there inference is the forward."""

    def prepare(self, shape: str, layout: str) -> Calls:
        return alone_calls(shape, layout)


class Layer(_Conv2d):
    """Single calls, which make their outputs."""

    def prepare(self, shape: str, layout: str) -> Calls:
        import nbnorm

        (sizes, _), given = SHAPES[shape], data_of(shape, layout).given
        x, dy, options = given["x"], given["dy"], options_of(shape, layout)
        layer, frozen = (
            nbnorm.Conv2dBatchNorm(sizes["c"], sizes["k"], sizes["r"], **options) for _ in range(2)
        )
        _, context = layer.forward(x)
        frozen.eval()
        return Calls(
            lambda: layer.forward(x),
            lambda: layer.backward(dy, context),
            lambda: frozen.forward(x),
        )


class Fused:
    """Times over those of the convolution and then batch norm, each by its own function."""

    params = (list(SHAPES), LAYOUTS)
    param_names = ("shape", "layout")
    unit = "times separate"

    def setup(self, shape: str, layout: str) -> None:
        on_one_thread()
        data = data_of(shape, layout)
        self.fused, self.separate = calls_of(FUSED, data), separate_calls_of(FUSED, data)
        warm_up(self.fused, self.separate)

    def track_step_over_separate(self, shape: str, layout: str) -> float:
        return ratio(step(self.fused), step(self.separate))

    def track_inference_over_separate(self, shape: str, layout: str) -> float:
        return ratio(self.fused.inference, self.separate.inference)


class Ratio:
    """Times over those of NumPy's matmuls of as many operations."""

    params = (list(SHAPES), LAYOUTS)
    param_names = ("shape", "layout")
    unit = "times matmul"

    def setup(self, shape: str, layout: str) -> None:
        on_one_thread()
        data = data_of(shape, layout)
        self.fused, self.limit = calls_of(FUSED, data), products(data)
        warm_up(self.fused)

    def track_forward_over_matmul(self, shape: str, layout: str) -> float:
        return ratio(self.fused.forward, self.limit.forward)

    def track_inference_over_matmul(self, shape: str, layout: str) -> float:
        return ratio(self.fused.inference, self.limit.forward)

    def track_step_over_three_matmuls(self, shape: str, layout: str) -> float:
        return ratio(step(self.fused), step(self.limit))


class AloneRatio:
    """The same without batch norm."""

    params = (list(SHAPES), LAYOUTS)
    param_names = ("shape", "layout")
    unit = "times matmul"

    def setup(self, shape: str, layout: str) -> None:
        on_one_thread()
        data = data_of(shape, layout, ALONE)
        self.calls, self.limit = calls_of(ALONE, data), products(data)
        warm_up(self.calls)

    def track_forward_over_matmul(self, shape: str, layout: str) -> float:
        return ratio(self.calls.forward, self.limit.forward)

    def track_step_over_three_matmuls(self, shape: str, layout: str) -> float:
        return ratio(step(self.calls), step(self.limit))
