"""The asv suite of dense layers with batch norm and ReLU: kernel, function and layer."""

from __future__ import annotations

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

SHAPES = {  # (n, c, k)
    "256x784x512": (256, 784, 512),
    "1024x1024x1024": (1024, 1024, 1024),
    "16384x64x128": (16384, 64, 128),
    "32x100x10": (32, 100, 10),
}


ALONE, FUSED = "dense", "dense_batch_norm"


def data_of(shape: str, name: str = FUSED) -> Data:
    n, c, k = SHAPES[shape]
    options = {"activation": "relu"} if name == FUSED else {}
    return draw(name, {"n": n, "c": c, "k": k}, **options)


def fused_calls(shape: str) -> Calls:
    """With batch norm and ReLU; outputs preallocated."""
    return calls_of(FUSED, data_of(shape))


def alone_calls(shape: str) -> Calls:
    """Without batch norm, where inference is the forward."""
    return calls_of(ALONE, data_of(shape, ALONE))


def products(data: Data) -> Calls:
    """NumPy's matmuls in place of each."""
    x, weight, dy = (data.given[name] for name in ("x", "weight", "dy"))
    out, dx, dweight = (data.out[name] for name in ("y", "dx", "dweight"))

    def forward() -> None:
        np.matmul(x, weight.T, out=out)

    def backward() -> None:
        np.matmul(dy, weight, out=dx)
        np.matmul(dy.T, x, out=dweight)

    return Calls(forward, backward, forward)


class _Dense(Directions):
    params = (list(SHAPES),)
    param_names = ("shape",)


class Kernel(_Dense):
    """The compiled code of a call, on arrays made before."""

    def prepare(self, shape: str) -> Calls:
        return kernels_of(fused_calls(shape))


class Function(_Dense):
    """Single calls, outputs preallocated."""

    def prepare(self, shape: str) -> Calls:
        return fused_calls(shape)


class AloneFunction(_Dense):
    """Without batch norm; there inference is the forward."""

    def prepare(self, shape: str) -> Calls:
        return alone_calls(shape)


class Layer(_Dense):
    """Single calls, which make their outputs."""

    def prepare(self, shape: str) -> Calls:
        import nbnorm

        given = data_of(shape).given
        x, dy, (k, c) = given["x"], given["dy"], given["weight"].shape
        layer, frozen = (nbnorm.DenseBatchNorm(c, k, activation="relu") for _ in range(2))
        _, context = layer.forward(x)
        frozen.eval()
        return Calls(
            lambda: layer.forward(x),
            lambda: layer.backward(dy, context),
            lambda: frozen.forward(x),
        )


class Fused:
    """Times over those of the dense layer and then batch norm, each by its own function."""

    params = (list(SHAPES),)
    param_names = ("shape",)
    unit = "times separate"

    def setup(self, shape: str) -> None:
        on_one_thread()
        data = data_of(shape)
        self.fused, self.separate = calls_of(FUSED, data), separate_calls_of(FUSED, data)
        warm_up(self.fused, self.separate)

    def track_step_over_separate(self, shape: str) -> float:
        return ratio(step(self.fused), step(self.separate))

    def track_inference_over_separate(self, shape: str) -> float:
        return ratio(self.fused.inference, self.separate.inference)


class Ratio:
    """Times over those of NumPy's matmuls of the same matrices."""

    params = (list(SHAPES),)
    param_names = ("shape",)
    unit = "times matmul"

    def setup(self, shape: str) -> None:
        on_one_thread()
        data = data_of(shape)
        self.fused, self.limit = calls_of(FUSED, data), products(data)
        warm_up(self.fused)

    def track_forward_over_matmul(self, shape: str) -> float:
        return ratio(self.fused.forward, self.limit.forward)

    def track_inference_over_matmul(self, shape: str) -> float:
        return ratio(self.fused.inference, self.limit.forward)

    def track_step_over_three_matmuls(self, shape: str) -> float:
        return ratio(step(self.fused), step(self.limit))


class AloneRatio:
    """The same without batch norm."""

    params = (list(SHAPES),)
    param_names = ("shape",)
    unit = "times matmul"

    def setup(self, shape: str) -> None:
        on_one_thread()
        data = data_of(shape, ALONE)
        self.calls, self.limit = calls_of(ALONE, data), products(data)
        warm_up(self.calls)

    def track_forward_over_matmul(self, shape: str) -> float:
        return ratio(self.calls.forward, self.limit.forward)

    def track_step_over_three_matmuls(self, shape: str) -> float:
        return ratio(step(self.calls), step(self.limit))
