"""TensorFlow: its fused batch norm and the gradient of it, inside tf.function."""

from __future__ import annotations

from typing import Any

from benchmarks.compare.protocol import FIRST, Call, Given, Unsupported


class Adapter:
    def __init__(self, threads: int) -> None:
        import tensorflow

        self.tf = tensorflow
        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        # One operation at a time: more than one would be threads with nothing to do.
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)

    def batch_norm_inference(self, given: Given) -> Call:
        x, gamma, beta, mean, var = self._tensors(given, "x", "gamma", "beta", "mean", "var")
        fused, eps = self.tf.raw_ops.FusedBatchNormV3, given["eps"]

        @self.tf.function
        def function(x: Any, gamma: Any, beta: Any, mean: Any, var: Any) -> Any:
            return fused(
                x=x, scale=gamma, offset=beta, mean=mean, variance=var, epsilon=eps,
                is_training=False,
            ).y  # fmt: skip

        return Call(lambda: function(x, gamma, beta, mean, var), lambda y: {"y": y.numpy()})

    def batch_norm_forward(self, given: Given) -> Call:
        x, gamma, beta = self._tensors(given, "x", "gamma", "beta")
        forward = self.tf.function(self._forward(given))
        return Call(lambda: forward(x, gamma, beta), lambda results: {"y": results[0].numpy()})

    def batch_norm_backward(self, given: Given) -> Call:
        x, gamma, beta, dy = self._tensors(given, "x", "gamma", "beta", "dy")
        saved = self.tf.function(self._forward(given))(x, gamma, beta)[1:]
        backward = self.tf.function(self._backward(given))
        return Call(lambda: backward(dy, x, gamma, *saved), _gradients)

    def batch_norm_forward_backward(self, given: Given) -> Call:
        x, gamma, beta, dy = self._tensors(given, "x", "gamma", "beta", "dy")
        forward, backward = self._forward(given), self._backward(given)

        @self.tf.function
        def step(x: Any, gamma: Any, beta: Any, dy: Any) -> Any:
            y, *saved = forward(x, gamma, beta)
            return y, *backward(dy, x, gamma, *saved)

        return Call(
            lambda: step(x, gamma, beta, dy),
            lambda results: {"y": results[0].numpy(), **_gradients(results[1:])},
        )

    def _forward(self, given: Given) -> Any:
        fused, eps, none = self.tf.raw_ops.FusedBatchNormV3, given["eps"], self.tf.zeros(0)

        def forward(x: Any, gamma: Any, beta: Any) -> Any:
            result = fused(
                x=x, scale=gamma, offset=beta, mean=none, variance=none, epsilon=eps,
                is_training=True,
            )  # fmt: skip
            return result.y, result.reserve_space_1, result.reserve_space_2, result.reserve_space_3

        return forward

    def _backward(self, given: Given) -> Any:
        fused, eps = self.tf.raw_ops.FusedBatchNormGradV3, given["eps"]

        def backward(dy: Any, x: Any, gamma: Any, *saved: Any) -> Any:
            one, two, three = saved
            result = fused(
                y_backprop=dy, x=x, scale=gamma, reserve_space_1=one, reserve_space_2=two,
                reserve_space_3=three, epsilon=eps, is_training=True,
            )  # fmt: skip
            return result.x_backprop, result.scale_backprop, result.offset_backprop

        return backward

    def _tensors(self, given: Given, *names: str) -> list[Any]:
        if given.case.layout == FIRST:
            raise Unsupported("its CPU kernels are channels-last")
        if given.reuse:
            raise Unsupported("a TensorFlow call allocates its results")
        c = given["gamma"].size
        return [
            # As (rows, 1, 1, c), which is all that the kernel makes of any channels-last array.
            self.tf.constant(given[k].reshape(-1, 1, 1, c) if k in ("x", "dy") else given[k])
            for k in names
        ]


def _gradients(results: Any) -> dict[str, Any]:
    return dict(zip(("dx", "dgamma", "dbeta"), (r.numpy() for r in results), strict=True))
