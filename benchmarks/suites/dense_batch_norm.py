"""The asv suite of dense layers with batch norm and ReLU: kernel, function and layer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .calls import Calls, Directions, kernels_of, step, warm_up
from .ratio import on_one_thread, ratio

SHAPES = {  # (n, c, k)
    "256x784x512": (256, 784, 512),
    "1024x1024x1024": (1024, 1024, 1024),
    "16384x64x128": (16384, 64, 128),
    "32x100x10": (32, 100, 10),
}


class Arrays(NamedTuple):
    """Data of one shape; `out`, `dx` and `dweight` are written."""

    x: np.ndarray
    weight: np.ndarray
    dy: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray
    out: np.ndarray
    dx: np.ndarray
    dweight: np.ndarray


def arrays(shape: str) -> Arrays:
    n, c, k = SHAPES[shape]
    rng = np.random.default_rng(0)
    x, weight, dy = (
        rng.standard_normal(sizes, dtype=np.float32) for sizes in ((n, c), (k, c), (n, k))
    )
    weight /= np.float32(c**0.5)
    gamma, beta = (rng.random(k, dtype=np.float32) for _ in range(2))
    return Arrays(x, weight, dy, gamma, beta, *map(np.empty_like, (dy, x, weight)))


def fused_calls(data: Arrays) -> Calls:
    """With batch norm and ReLU; outputs preallocated."""
    import nbnorm

    x, weight, dy, gamma, beta, out, dx, dweight = data
    gradients = nbnorm.DenseBatchNormGradients(dx=dx, dweight=dweight)

    def forward() -> tuple:
        return nbnorm.dense_batch_norm_forward(x, weight, gamma, beta, activation="relu", out=out)

    _, context = forward()
    mean, var = context.mean, context.var
    return Calls(
        forward,
        lambda: nbnorm.dense_batch_norm_backward(dy, context, out=gradients),
        lambda: nbnorm.dense_batch_norm_inference(
            x, weight, mean, var, gamma, beta, activation="relu", out=out
        ),
    )


def separate_calls(data: Arrays) -> Calls:
    """The same by the dense layer's functions and batch norm's."""
    import nbnorm

    x, weight, dy, gamma, beta, out, dx, dweight = data
    z, dz = (np.empty_like(out) for _ in range(2))
    normalized = nbnorm.BatchNormGradients(dx=dz)
    gradients = nbnorm.DenseGradients(dx, dweight, None)
    needs = ("dx", "dweight")

    def forward() -> tuple:
        nbnorm.dense_forward(x, weight, out=z)
        return nbnorm.batch_norm_forward(z, gamma, beta, activation="relu", out=out)

    _, context = forward()
    mean, var = context.mean, context.var

    def backward() -> None:
        nbnorm.batch_norm_backward(dy, context, out=normalized)
        nbnorm.dense_backward(dz, x, weight, needs=needs, out=gradients)

    def inference() -> None:
        nbnorm.dense_forward(x, weight, out=z)
        nbnorm.batch_norm_inference(z, mean, var, gamma, beta, activation="relu", out=out)

    return Calls(forward, backward, inference)


def alone_calls(data: Arrays) -> Calls:
    """Without batch norm, where inference is the forward."""
    import nbnorm

    x, weight, dy, _, _, out, dx, dweight = data
    gradients, needs = nbnorm.DenseGradients(dx, dweight, None), ("dx", "dweight")

    def forward() -> np.ndarray:
        return nbnorm.dense_forward(x, weight, out=out)

    return Calls(
        forward,
        lambda: nbnorm.dense_backward(dy, x, weight, needs=needs, out=gradients),
        forward,
    )


def products(data: Arrays) -> Calls:
    """NumPy's matmuls in place of each."""
    x, weight, dy, _, _, out, dx, dweight = data

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
        return kernels_of(fused_calls(arrays(shape)))


class Function(_Dense):
    """Single calls, outputs preallocated."""

    def prepare(self, shape: str) -> Calls:
        return fused_calls(arrays(shape))


class AloneFunction(_Dense):
    """Without batch norm; there inference is the forward."""

    def prepare(self, shape: str) -> Calls:
        return alone_calls(arrays(shape))


class Layer(_Dense):
    """Single calls, which make their outputs."""

    def prepare(self, shape: str) -> Calls:
        import nbnorm

        data = arrays(shape)
        x, dy, (k, c) = data.x, data.dy, data.weight.shape
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
        data = arrays(shape)
        self.fused, self.separate = fused_calls(data), separate_calls(data)
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
        data = arrays(shape)
        self.fused, self.limit = fused_calls(data), products(data)
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
        data = arrays(shape)
        self.calls, self.limit = alone_calls(data), products(data)
        warm_up(self.calls)

    def track_forward_over_matmul(self, shape: str) -> float:
        return ratio(self.calls.forward, self.limit.forward)

    def track_step_over_three_matmuls(self, shape: str) -> float:
        return ratio(step(self.calls), step(self.limit))
