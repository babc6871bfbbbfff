"""TensorFlow: its fused batch norm, matmul and their gradients, inside tf.function."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.compare.peers import normalizing
from benchmarks.compare.protocol import FIRST, Call, Given, Unsupported


class Adapter(normalizing.TensorFlow):
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

    def dense_batch_norm_inference(self, given: Given) -> Call:
        """With folded weights; TensorFlow makes one operation of the three itself."""
        scale = given["gamma"] / np.sqrt(given["var"] + np.float32(given["eps"]))
        x, weight, bias = map(
            self.tf.constant,
            (given["x"], _keras(given["weight"]) * scale, given["beta"] - given["mean"] * scale),
        )
        _refuse_reuse(given)
        matmul, bias_add, relu = self.tf.matmul, self.tf.nn.bias_add, self.tf.nn.relu

        @self.tf.function
        def function(x: Any, weight: Any, bias: Any) -> Any:
            return relu(bias_add(matmul(x, weight), bias))

        return Call(lambda: function(x, weight, bias), lambda y: {"y": y.numpy()})

    def dense_batch_norm_forward(self, given: Given) -> Call:
        x, weight, gamma, beta, _ = self._dense_tensors(given)
        forward = self._dense_forward(given)
        function = self.tf.function(lambda *args: forward(*args)[0])
        return Call(lambda: function(x, weight, gamma, beta), lambda y: {"y": y.numpy()})

    def dense_batch_norm_forward_backward(self, given: Given) -> Call:
        x, weight, gamma, beta, dy = self._dense_tensors(given)
        forward, norm_backward = self._dense_forward(given), self._backward(given)
        matmul, relu_grad, k = self.tf.matmul, self.tf.raw_ops.ReluGrad, given["gamma"].size

        @self.tf.function
        def step(x: Any, weight: Any, gamma: Any, beta: Any, dy: Any) -> Any:
            y, z, *saved = forward(x, weight, gamma, beta)
            masked = self.tf.reshape(relu_grad(gradients=dy, features=y), (-1, 1, 1, k))
            dz, dgamma, dbeta = norm_backward(masked, z, gamma, *saved)
            dz = self.tf.reshape(dz, (-1, k))
            dx, dweight = matmul(dz, weight, transpose_b=True), matmul(x, dz, transpose_a=True)
            return y, dx, dweight, dgamma, dbeta

        def read(results: Any) -> dict[str, Any]:
            names = ("y", "dx", "dweight", "dgamma", "dbeta")
            outputs = dict(zip(names, (r.numpy() for r in results), strict=True))
            return outputs | {"dweight": outputs["dweight"].T}

        return Call(lambda: step(x, weight, gamma, beta, dy), read)

    def _dense_forward(self, given: Given) -> Any:
        norm, matmul, relu = self._forward(given), self.tf.matmul, self.tf.nn.relu
        k = given["gamma"].size

        def forward(x: Any, weight: Any, gamma: Any, beta: Any) -> Any:
            z = self.tf.reshape(matmul(x, weight), (-1, 1, 1, k))
            y, *saved = norm(z, gamma, beta)
            return relu(self.tf.reshape(y, (-1, k))), z, *saved

        return forward

    def _dense_tensors(self, given: Given) -> list[Any]:
        arrays = {name: given[name] for name in ("x", "weight", "gamma", "beta", "dy")}
        arrays["weight"] = _keras(arrays["weight"])
        return [self.tf.constant(array) for array in arrays.values()]

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
        _refuse_reuse(given)
        c = given["gamma"].size
        return [
            # As (rows, 1, 1, c), which is all that the kernel makes of any channels-last array.
            self.tf.constant(given[k].reshape(-1, 1, 1, c) if k in ("x", "dy") else given[k])
            for k in names
        ]


def _keras(weight: Any) -> Any:
    """Weights as Keras keeps them, (c, k)."""
    return np.ascontiguousarray(weight.T)


def _refuse_reuse(given: Given) -> None:
    if given.reuse:
        raise Unsupported("a TensorFlow call allocates its results")


def _gradients(results: Any) -> dict[str, Any]:
    return dict(zip(("dx", "dgamma", "dbeta"), (r.numpy() for r in results), strict=True))
