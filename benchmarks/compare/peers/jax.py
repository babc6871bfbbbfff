"""JAX: batch norm as Flax writes it, jitted; gradients by jax.vjp."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.compare.protocol import Call, Given, Unsupported


class Adapter:
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


def _broadcast(x: Any, axis: int) -> Any:
    shape = [1] * x.ndim
    shape[axis] = -1
    return lambda parameter: parameter.reshape(shape)


def _y(y: Any) -> dict[str, Any]:
    return {"y": np.asarray(y)}


def _gradients(gradients: Any) -> dict[str, Any]:
    return dict(zip(("dx", "dgamma", "dbeta"), map(np.asarray, gradients), strict=True))
