"""The asv suite of dense layers, alone and with batch norm and ReLU: functions and layer.

The `track_` benchmarks are the ones to compare between commits (`batch_norm.py` says why): the time
of a call over that of NumPy's matmul on matrices of the same size, or of three for a step forward
and backward. nbnorm is imported in `setup`, so that a name missing in an old commit fails its own
benchmarks only.
"""

from __future__ import annotations

import numpy as np

from benchmarks.ratio import ratio_to_blas

SHAPES = {  # (n, c, k)
    "256x784x512": (256, 784, 512),
    "1024x1024x1024": (1024, 1024, 1024),
    "16384x64x128": (16384, 64, 128),
    "32x100x10": (32, 100, 10),
}


class _Arrays:
    """Arrays of one shape."""

    params = (list(SHAPES),)
    param_names = ("shape",)

    def setup(self, shape: str) -> None:
        n, c, k = SHAPES[shape]
        rng = np.random.default_rng(0)
        self.x = rng.standard_normal((n, c), dtype=np.float32)
        self.weight = rng.standard_normal((k, c), dtype=np.float32) / np.float32(c**0.5)
        self.dy = rng.standard_normal((n, k), dtype=np.float32)
        self.gamma = rng.random(k, dtype=np.float32)
        self.beta = rng.random(k, dtype=np.float32)
        self.out = np.empty_like(self.dy)
        self.dx = np.empty_like(self.x)
        self.dweight = np.empty_like(self.weight)

    def matmul(self) -> None:
        np.matmul(self.x, self.weight.T, out=self.out)

    def three_matmuls(self) -> None:
        self.matmul()
        np.matmul(self.dy, self.weight, out=self.dx)
        np.matmul(self.dy.T, self.x, out=self.dweight)


class _Dense(_Arrays):
    """The dense layer alone, compiled."""

    def setup(self, shape: str) -> None:
        import nbnorm

        super().setup(shape)
        out = nbnorm.DenseGradients(self.dx, self.dweight, None)
        needs = ("dx", "dweight")
        self.forward = lambda: nbnorm.dense_forward(self.x, self.weight, out=self.out)
        self.backward = lambda: nbnorm.dense_backward(
            self.dy, self.x, self.weight, needs=needs, out=out
        )
        for call in (self.forward, self.backward):
            call()

    def step(self) -> None:
        self.forward()
        self.backward()


class _DenseBatchNorm(_Arrays):
    """With batch norm and ReLU, functions and layer, compiled."""

    def setup(self, shape: str) -> None:
        import nbnorm

        super().setup(shape)
        x, weight, gamma, beta, out = self.x, self.weight, self.gamma, self.beta, self.out
        dy, gradients = self.dy, nbnorm.DenseBatchNormGradients(dx=self.dx, dweight=self.dweight)

        def forward() -> object:
            return nbnorm.dense_batch_norm_forward(
                x, weight, gamma, beta, activation="relu", out=out
            )

        _, context = forward()
        mean, var = context.mean, context.var
        layer = nbnorm.DenseBatchNorm(x.shape[1], len(weight), activation="relu")

        def layer_step() -> None:
            layer(x)
            layer.backward(dy)

        self.forward = forward
        self.backward = lambda: nbnorm.dense_batch_norm_backward(dy, context, out=gradients)
        self.inference = lambda: nbnorm.dense_batch_norm_inference(
            x, weight, mean, var, gamma, beta, activation="relu", out=out
        )
        self.layer_step = layer_step
        for call in (self.forward, self.backward, self.inference, self.layer_step):
            call()

    def step(self) -> None:
        self.forward()
        self.backward()


class TimeDense(_Dense):
    """Times of single calls, outputs preallocated."""

    def time_forward(self, shape: str) -> None:
        self.forward()

    def time_backward(self, shape: str) -> None:
        self.backward()


class TimeDenseBatchNorm(_DenseBatchNorm):
    """Times of single calls, outputs preallocated where the function allows."""

    def time_forward(self, shape: str) -> None:
        self.forward()

    def time_backward(self, shape: str) -> None:
        self.backward()

    def time_inference(self, shape: str) -> None:
        self.inference()

    def time_layer_step(self, shape: str) -> None:
        self.layer_step()


class RatioDense(_Dense):
    """Times over NumPy's, which a noisy machine does not disturb."""

    unit = "times matmul"

    def track_forward_over_matmul(self, shape: str) -> float:
        return ratio_to_blas(self.forward, self.matmul)

    def track_step_over_three_matmuls(self, shape: str) -> float:
        return ratio_to_blas(self.step, self.three_matmuls)


class RatioDenseBatchNorm(_DenseBatchNorm):
    """The same with batch norm and ReLU."""

    unit = "times matmul"

    def track_forward_over_matmul(self, shape: str) -> float:
        return ratio_to_blas(self.forward, self.matmul)

    def track_inference_over_matmul(self, shape: str) -> float:
        return ratio_to_blas(self.inference, self.matmul)

    def track_step_over_three_matmuls(self, shape: str) -> float:
        return ratio_to_blas(self.step, self.three_matmuls)
