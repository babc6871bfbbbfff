"""JAX: layers as Flax writes them, jitted; gradients by jax.vjp."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from benchmarks.compare.peers import normalizing
from benchmarks.compare.protocol import LAST, Call, Given, Unsupported


class Adapter(normalizing.Jax):
    def __init__(self, threads: int) -> None:
        import jax

        self.jax = jax  # its threads are set by NPROC

    def batch_norm_inference(self, given: Given) -> Call:
        x, mean, var, gamma, beta = self._on_device(given, "x", "mean", "var", "gamma", "beta")
        along, eps, rsqrt = _broadcast(x, given.axis), given["eps"], self.jax.lax.rsqrt

        def normalize(x: Any, mean: Any, var: Any, gamma: Any, beta: Any) -> Any:
            return (x - along(mean)) * along(rsqrt(var + eps) * gamma) + along(beta)

        function = self._jit(given, normalize)
        return Call(lambda: function(x, mean, var, gamma, beta).block_until_ready(), _y)

    def batch_norm_forward(self, given: Given) -> Call:
        x, gamma, beta = self._on_device(given, "x", "gamma", "beta")
        function = self._jit(given, self._training(given))
        return Call(lambda: function(x, gamma, beta).block_until_ready(), _y)

    def batch_norm_backward(self, given: Given) -> Call:
        x, gamma, beta, dy = self._on_device(given, "x", "gamma", "beta", "dy")
        forward = self._training(given)
        _, pullback = self._jit(given, lambda *args: self.jax.vjp(forward, *args))(x, gamma, beta)
        function, wait = (
            self._jit(given, lambda pullback, dy: pullback(dy)),
            self.jax.block_until_ready,
        )
        return Call(lambda: wait(function(pullback, dy)), _gradients)

    def batch_norm_forward_backward(self, given: Given) -> Call:
        """One jitted function of everything: XLA may share work between the two halves."""
        x, gamma, beta, dy = self._on_device(given, "x", "gamma", "beta", "dy")
        forward, vjp, wait = self._training(given), self.jax.vjp, self.jax.block_until_ready

        def step(x: Any, gamma: Any, beta: Any, dy: Any) -> Any:
            y, pullback = vjp(forward, x, gamma, beta)
            return y, pullback(dy)

        function = self._jit(given, step)
        return Call(
            lambda: wait(function(x, gamma, beta, dy)),
            lambda results: {**_y(results[0]), **_gradients(results[1])},
        )

    def dense_batch_norm_inference(self, given: Given) -> Call:
        """With weights folded beforehand."""
        x, mean, var, gamma, beta = self._on_device(given, "x", "mean", "var", "gamma", "beta")
        product, weight = self._product(given), self._weight(given)
        along, relu = _broadcast(given["x"], given.axis), self.jax.nn.relu
        scale = gamma * self.jax.lax.rsqrt(var + given["eps"])
        outputs = (-1,) if _is_hwio(given) else (-1, *[1] * (weight.ndim - 1))
        weight, bias = weight * scale.reshape(outputs), beta - mean * scale
        function = self._jit(given, lambda x, w, bias: relu(product(x, w) + along(bias)))
        return Call(lambda: function(x, weight, bias).block_until_ready(), _y)

    def dense_batch_norm_forward(self, given: Given) -> Call:
        x, gamma, beta = self._on_device(given, "x", "gamma", "beta")
        weight, function = self._weight(given), self._jit(given, self._layer(given))
        return Call(lambda: function(x, weight, gamma, beta).block_until_ready(), _y)

    def dense_batch_norm_forward_backward(self, given: Given) -> Call:
        x, gamma, beta, dy = self._on_device(given, "x", "gamma", "beta", "dy")
        weight, layer = self._weight(given), self._layer(given)
        vjp, wait = self.jax.vjp, self.jax.block_until_ready

        def step(x: Any, weight: Any, gamma: Any, beta: Any, dy: Any) -> Any:
            y, pullback = vjp(layer, x, weight, gamma, beta)
            return y, *pullback(dy)

        def read(results: Any) -> dict[str, Any]:
            y, dx, dweight, dgamma, dbeta = map(np.asarray, results)
            if _is_hwio(given):
                dweight = dweight.transpose(3, 2, 0, 1)
            return {"y": y, "dx": dx, "dweight": dweight, "dgamma": dgamma, "dbeta": dbeta}

        function = self._jit(given, step)
        return Call(lambda: wait(function(x, weight, gamma, beta, dy)), read)

    conv2d_batch_norm_inference = dense_batch_norm_inference
    conv2d_batch_norm_forward = dense_batch_norm_forward
    conv2d_batch_norm_forward_backward = dense_batch_norm_forward_backward

    def _layer(self, given: Given) -> Any:
        product, relu = self._product(given), self.jax.nn.relu
        normalize = self._training(given)
        return lambda x, weight, gamma, beta: relu(normalize(product(x, weight), gamma, beta))

    def _product(self, given: Given) -> Any:
        """The dense layer or the convolution of a case."""
        if given["weight"].ndim == 2:
            return lambda x, weight: x @ weight.T
        stride, padding, dilation, groups = (
            given[name] for name in ("stride", "padding", "dilation", "groups")
        )
        last = ("NHWC", "HWIO", "NHWC")
        return functools.partial(
            self.jax.lax.conv_general_dilated,
            window_strides=[stride] * 2,
            padding=[(padding, padding)] * 2,
            rhs_dilation=[dilation] * 2,
            feature_group_count=groups,
            dimension_numbers=last if _is_hwio(given) else ("NCHW", "OIHW", "NCHW"),
        )

    def _weight(self, given: Given) -> Any:
        weight = given["weight"]
        if _is_hwio(given):
            weight = np.ascontiguousarray(weight.transpose(2, 3, 1, 0))
        return self.jax.device_put(weight)

    def _training(self, given: Given) -> Any:
        jnp, rsqrt, eps = self.jax.numpy, self.jax.lax.rsqrt, given["eps"]
        along = _broadcast(given["x"], given.axis)
        others = tuple(i for i in range(given["x"].ndim) if i != given.axis % given["x"].ndim)

        def forward(x: Any, gamma: Any, beta: Any) -> Any:
            # Flax's default variance: less exact than sum((x - mean)^2), but one pass, and the
            # fastest that JAX has.
            mean = x.mean(others)
            var = jnp.maximum(jnp.square(x).mean(others) - jnp.square(mean), 0)
            return (x - along(mean)) * along(rsqrt(var + eps) * gamma) + along(beta)

        return forward

    def _jit(self, given: Given, function: Any) -> Any:
        if given.reuse:
            raise Unsupported("a JAX call allocates its results")
        return self.jax.jit(function)

    def _on_device(self, given: Given, *names: str) -> list[Any]:
        return [self.jax.device_put(given[name]) for name in names]


def _is_hwio(given: Given) -> bool:
    """Whether weights are in the order that goes with channels-last data."""
    return given["weight"].ndim == 4 and given.case.layout == LAST


def _broadcast(x: Any, axis: int) -> Any:
    shape = [1] * x.ndim
    shape[axis] = -1
    return lambda parameter: parameter.reshape(shape)


def _y(y: Any) -> dict[str, Any]:
    return {"y": np.asarray(y)}


def _gradients(gradients: Any) -> dict[str, Any]:
    return dict(zip(("dx", "dgamma", "dbeta"), map(np.asarray, gradients), strict=True))
