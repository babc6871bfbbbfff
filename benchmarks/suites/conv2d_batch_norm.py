"""The asv suite of convolutions with batch norm and ReLU: kernel, function and layer."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .calls import Calls, Directions, kernels_of, step, warm_up
from .ratio import on_one_thread, ratio


class Sizes(NamedTuple):
    """A convolution of n square images, padded so that stride 1 keeps their size."""

    n: int
    c: int
    h: int
    k: int
    r: int  # the window is as high as wide, too
    stride: int = 1
    groups: int = 1

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of x, the weights and y."""
        n, c, h, k, r, stride, groups = self
        height = (h - 1) // stride + 1
        return (n, c, h, h), (k, c // groups, r, r), (n, k, height, height)

    @property
    def options(self) -> dict[str, int]:
        return {"stride": self.stride, "padding": self.r // 2, "groups": self.groups}


SHAPES = {
    "3x3 4x64x56": Sizes(4, 64, 56, 64, 3),
    "3x3 16x256x14": Sizes(16, 256, 14, 256, 3),
    "3x3 stride 2 16x128x28": Sizes(16, 128, 28, 128, 3, stride=2),
    "1x1 16x256x28x64": Sizes(16, 256, 28, 64, 1),
    "depthwise 16x144x28": Sizes(16, 144, 28, 144, 3, groups=144),
}
LAYOUTS = ["channels-first", "channels-last"]


class Arrays(NamedTuple):
    """Data of one shape and layout; `out`, `dx` and `dweight` are written."""

    x: np.ndarray
    weight: np.ndarray
    dy: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray
    out: np.ndarray
    dx: np.ndarray
    dweight: np.ndarray
    axis: int
    options: dict[str, Any]  # of the convolution


def arrays(shape: str, layout: str) -> Arrays:
    sizes = SHAPES[shape]
    axis = 1 if layout == "channels-first" else -1
    rng = np.random.default_rng(0)
    x, weight, dy = (
        rng.standard_normal(dimensions, dtype=np.float32) for dimensions in sizes.shapes
    )
    x, dy = (np.ascontiguousarray(np.moveaxis(images, 1, axis)) for images in (x, dy))
    gamma, beta = (rng.random(sizes.k, dtype=np.float32) for _ in range(2))
    written = map(np.empty_like, (dy, x, weight))
    return Arrays(x, weight, dy, gamma, beta, *written, axis, sizes.options)


def fused_calls(data: Arrays) -> Calls:
    """With batch norm and ReLU; outputs preallocated."""
    import nbnorm

    x, weight, dy, gamma, beta, out, dx, dweight, axis, options = data
    keywords = options | {"axis": axis, "activation": "relu"}
    gradients = nbnorm.Conv2dBatchNormGradients(dx=dx, dweight=dweight)

    def forward() -> tuple:
        return nbnorm.conv2d_batch_norm_forward(x, weight, gamma, beta, out=out, **keywords)

    _, context = forward()
    mean, var = context.mean, context.var
    return Calls(
        forward,
        lambda: nbnorm.conv2d_batch_norm_backward(dy, context, out=gradients),
        lambda: nbnorm.conv2d_batch_norm_inference(
            x, weight, mean, var, gamma, beta, out=out, **keywords
        ),
    )


def separate_calls(data: Arrays) -> Calls:
    """The same by the convolution's functions and batch norm's."""
    import nbnorm

    x, weight, dy, gamma, beta, out, dx, dweight, axis, options = data
    z, dz = (np.empty_like(out) for _ in range(2))
    convolution = options | {"axis": axis}
    normalization = {"axis": axis, "activation": "relu", "out": out}
    normalized = nbnorm.BatchNormGradients(dx=dz)
    gradients, needs = nbnorm.Conv2dGradients(dx, dweight, None), ("dx", "dweight")

    def forward() -> tuple:
        nbnorm.conv2d_forward(x, weight, out=z, **convolution)
        return nbnorm.batch_norm_forward(z, gamma, beta, **normalization)

    _, context = forward()
    mean, var = context.mean, context.var

    def backward() -> None:
        nbnorm.batch_norm_backward(dy, context, out=normalized)
        nbnorm.conv2d_backward(dz, x, weight, needs=needs, out=gradients, **convolution)

    def inference() -> None:
        nbnorm.conv2d_forward(x, weight, out=z, **convolution)
        nbnorm.batch_norm_inference(z, mean, var, gamma, beta, **normalization)

    return Calls(forward, backward, inference)


def alone_calls(data: Arrays) -> Calls:
    """Without batch norm, where inference is the forward."""
    import nbnorm

    x, weight, dy, _, _, out, dx, dweight, axis, options = data
    keywords = options | {"axis": axis}
    gradients, needs = nbnorm.Conv2dGradients(dx, dweight, None), ("dx", "dweight")

    def forward() -> np.ndarray:
        return nbnorm.conv2d_forward(x, weight, out=out, **keywords)

    return Calls(
        forward,
        lambda: nbnorm.conv2d_backward(dy, x, weight, needs=needs, out=gradients, **keywords),
        forward,
    )


def products(data: Arrays) -> Calls:
    """NumPy's matmuls of as many operations, a group at a time: (k, c r s) times (c r s, n h w).

    The matrix that such a convolution would have to lay out first is there already.
    """
    groups = data.options["groups"]
    k, depth = len(data.weight) // groups, data.weight[0].size
    columns = data.dy.size // len(data.weight)
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
        return kernels_of(fused_calls(arrays(shape, layout)))


class Function(_Conv2d):
    """Single calls, outputs preallocated."""

    def prepare(self, shape: str, layout: str) -> Calls:
        return fused_calls(arrays(shape, layout))


class AloneFunction(_Conv2d):
    """Without batch norm; there inference is the forward."""

    def prepare(self, shape: str, layout: str) -> Calls:
        return alone_calls(arrays(shape, layout))


class Layer(_Conv2d):
    """Single calls, which make their outputs."""

    def prepare(self, shape: str, layout: str) -> Calls:
        import nbnorm

        data, sizes = arrays(shape, layout), SHAPES[shape]
        x, dy = data.x, data.dy
        keywords = data.options | {"axis": data.axis, "activation": "relu"}
        layer, frozen = (
            nbnorm.Conv2dBatchNorm(sizes.c, sizes.k, sizes.r, **keywords) for _ in range(2)
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
        data = arrays(shape, layout)
        self.fused, self.separate = fused_calls(data), separate_calls(data)
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
        data = arrays(shape, layout)
        self.fused, self.limit = fused_calls(data), products(data)
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
        data = arrays(shape, layout)
        self.calls, self.limit = alone_calls(data), products(data)
        warm_up(self.calls)

    def track_forward_over_matmul(self, shape: str, layout: str) -> float:
        return ratio(self.calls.forward, self.limit.forward)

    def track_step_over_three_matmuls(self, shape: str, layout: str) -> float:
        return ratio(step(self.calls), step(self.limit))
