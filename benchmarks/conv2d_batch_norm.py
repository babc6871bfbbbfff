"""The asv suite of convolutions, alone and with batch norm and ReLU: functions and layer.

The `track_` benchmarks are the ones to compare between commits (`batch_norm.py` says why): the time
of a call over that of NumPy's matmul of as many operations, (k, c r s) times (c r s, n h w), a step
forward and backward over three of them. The matrix that such a convolution would have to lay out
first is not counted. nbnorm is imported in `setup`, so that a name missing in an old commit fails
its own benchmarks only.
"""

from __future__ import annotations

import numpy as np

from benchmarks.products import Conv2d
from benchmarks.ratio import ratio_to_blas

SHAPES = {
    "3x3 4x64x56": Conv2d(4, 64, 56, 64, 3),
    "3x3 16x256x14": Conv2d(16, 256, 14, 256, 3),
    "3x3 stride 2 16x128x28": Conv2d(16, 128, 28, 128, 3, stride=2),
    "1x1 16x256x28x64": Conv2d(16, 256, 28, 64, 1),
    "depthwise 16x144x28": Conv2d(16, 144, 28, 144, 3, groups=144),
}
LAYOUTS = ["channels-first", "channels-last"]


class _Arrays:
    """Arrays of one shape and layout."""

    params = (list(SHAPES), LAYOUTS)
    param_names = ("shape", "layout")

    def setup(self, shape: str, layout: str) -> None:
        self.sizes = sizes = SHAPES[shape]
        axis = 1 if layout == "channels-first" else -1
        rng = np.random.default_rng(0)
        x, self.weight, dy = (
            rng.standard_normal(shape, dtype=np.float32)
            for shape in (sizes.x_shape, sizes.weight_shape, sizes.y_shape)
        )
        self.x, self.dy = (np.ascontiguousarray(np.moveaxis(v, 1, axis)) for v in (x, dy))
        self.gamma = rng.random(sizes.k, dtype=np.float32)
        self.beta = rng.random(sizes.k, dtype=np.float32)
        self.out, self.dx = np.empty_like(self.dy), np.empty_like(self.x)
        self.dweight = np.empty_like(self.weight)
        self.keywords = sizes.options | {"axis": axis}


class _Conv2d(_Arrays):
    """The convolution alone, compiled."""

    def setup(self, shape: str, layout: str) -> None:
        import nbnorm

        super().setup(shape, layout)
        x, weight, dy, keywords = self.x, self.weight, self.dy, self.keywords
        out, needs = nbnorm.Conv2dGradients(self.dx, self.dweight, None), ("dx", "dweight")
        self.forward = lambda: nbnorm.conv2d_forward(x, weight, out=self.out, **keywords)
        self.backward = lambda: nbnorm.conv2d_backward(
            dy, x, weight, needs=needs, out=out, **keywords
        )
        for call in (self.forward, self.backward):
            call()


class _Conv2dBatchNorm(_Arrays):
    """With batch norm and ReLU, functions and layer, compiled."""

    def setup(self, shape: str, layout: str) -> None:
        import nbnorm

        super().setup(shape, layout)
        x, weight, gamma, beta, out = self.x, self.weight, self.gamma, self.beta, self.out
        keywords = self.keywords | {"activation": "relu"}
        dy, gradients = self.dy, nbnorm.Conv2dBatchNormGradients(dx=self.dx, dweight=self.dweight)

        def forward() -> object:
            return nbnorm.conv2d_batch_norm_forward(x, weight, gamma, beta, out=out, **keywords)

        _, context = forward()
        mean, var = context.mean, context.var
        sizes = self.sizes
        layer = nbnorm.Conv2dBatchNorm(sizes.c, sizes.k, sizes.r, **keywords)

        def layer_step() -> None:
            layer(x)
            layer.backward(dy)

        self.forward = forward
        self.backward = lambda: nbnorm.conv2d_batch_norm_backward(dy, context, out=gradients)
        self.inference = lambda: nbnorm.conv2d_batch_norm_inference(
            x, weight, mean, var, gamma, beta, out=out, **keywords
        )
        self.layer_step = layer_step
        for call in (self.forward, self.backward, self.inference, self.layer_step):
            call()


class _Matmul:
    """NumPy's products of the same size, a group at a time."""

    unit = "times matmul"

    def setup(self, shape: str, layout: str) -> None:
        super().setup(shape, layout)
        sizes = self.sizes
        k, depth = sizes.k // sizes.groups, self.weight[0].size
        n_values = self.dy.size // sizes.k
        rng = np.random.default_rng(1)
        self.rows, self.columns, self.products = (
            rng.random((sizes.groups, *shape), dtype=np.float32)
            for shape in ((k, depth), (depth, n_values), (k, n_values))
        )
        self.results = [np.empty_like(v) for v in (self.products, self.columns, self.rows)]

    def matmul(self) -> None:
        np.matmul(self.rows, self.columns, out=self.results[0])

    def three_matmuls(self) -> None:
        self.matmul()
        np.matmul(self.rows.swapaxes(1, 2), self.products, out=self.results[1])
        np.matmul(self.products, self.columns.swapaxes(1, 2), out=self.results[2])

    def step(self) -> None:
        self.forward()
        self.backward()


class TimeConv2d(_Conv2d):
    """Times of single calls, outputs preallocated."""

    def time_forward(self, shape: str, layout: str) -> None:
        self.forward()

    def time_backward(self, shape: str, layout: str) -> None:
        self.backward()


class TimeConv2dBatchNorm(_Conv2dBatchNorm):
    """Times of single calls, outputs preallocated where the function allows."""

    def time_forward(self, shape: str, layout: str) -> None:
        self.forward()

    def time_backward(self, shape: str, layout: str) -> None:
        self.backward()

    def time_inference(self, shape: str, layout: str) -> None:
        self.inference()

    def time_layer_step(self, shape: str, layout: str) -> None:
        self.layer_step()


class RatioConv2d(_Matmul, _Conv2d):
    """Times over NumPy's, which a noisy machine does not disturb."""

    def track_forward_over_matmul(self, shape: str, layout: str) -> float:
        return ratio_to_blas(self.forward, self.matmul)

    def track_step_over_three_matmuls(self, shape: str, layout: str) -> float:
        return ratio_to_blas(self.step, self.three_matmuls)


class RatioConv2dBatchNorm(_Matmul, _Conv2dBatchNorm):
    """The same with batch norm and ReLU."""

    def track_forward_over_matmul(self, shape: str, layout: str) -> float:
        return ratio_to_blas(self.forward, self.matmul)

    def track_inference_over_matmul(self, shape: str, layout: str) -> float:
        return ratio_to_blas(self.inference, self.matmul)

    def track_step_over_three_matmuls(self, shape: str, layout: str) -> float:
        return ratio_to_blas(self.step, self.three_matmuls)


class MemoryConv2dBatchNorm(_Conv2dBatchNorm):
    """The peak of the process; `python -m benchmarks.compare` has the growth, beside PyTorch's."""

    def peakmem_layer_step(self, shape: str, layout: str) -> None:
        self.layer_step()
