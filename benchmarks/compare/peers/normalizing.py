"""How each library divides by a norm, and does batch norm per activation: mixed into the adapters.

PyTorch's and torch.compile's is `torch.nn.functional.normalize`; JAX and TensorFlow are given the
formula, compiled whole. Batch norm per activation is batch norm of (n, c h w) everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.compare.protocol import Call, Given

POWERS = {"l1": 1, "l2": 2}


def _y(y: Any) -> dict[str, Any]:
    return {"y": np.asarray(y)}


def _both(results: Any) -> dict[str, Any]:
    y, dx = results
    return {"y": np.asarray(y), "dx": np.asarray(dx)}


class _Named:
    """The operations of the suite, from `_forward` and `_step` of a kind."""

    def normalize_l1_forward(self, given: Given) -> Call:
        return self._forward_of(given, "l1")

    def normalize_l1_forward_backward(self, given: Given) -> Call:
        return self._step_of(given, "l1")

    def normalize_l2_forward(self, given: Given) -> Call:
        return self._forward_of(given, "l2")

    def normalize_l2_forward_backward(self, given: Given) -> Call:
        return self._step_of(given, "l2")

    def normalize_activation_forward(self, given: Given) -> Call:
        return self._forward_of(given, "activation")

    def normalize_activation_forward_backward(self, given: Given) -> Call:
        return self._step_of(given, "activation")

    def _forward_of(self, given: Given, kind: str) -> Call:
        raise NotImplementedError

    def _step_of(self, given: Given, kind: str) -> Call:
        raise NotImplementedError


class Nbnorm(_Named):
    nbnorm: Any

    def _functions(self, given: Given, kind: str) -> Any:
        x, n = given["x"], self.nbnorm
        if kind == "activation":
            options = {"axis": tuple(range(1, x.ndim)), "eps": given["batch_eps"]}
            return (
                lambda: n.batch_norm_forward(x, **options),
                lambda dy, context: n.batch_norm_backward(dy, context).dx,
            )
        normalize = getattr(n, f"{kind}_normalize_forward")
        options = {"eps": given["eps"]}
        return lambda: normalize(x, **options), getattr(n, f"{kind}_normalize_backward")

    def _forward_of(self, given: Given, kind: str) -> Call:
        forward, _ = self._functions(given, kind)
        return Call(forward, lambda result: _y(result[0]))

    def _step_of(self, given: Given, kind: str) -> Call:
        (forward, backward), dy = self._functions(given, kind), given["dy"]

        def run() -> Any:
            y, context = forward()
            return y, backward(dy, context)

        return Call(run, _both)


class PyTorch(_Named):
    torch: Any

    def _function_of(self, given: Given, kind: str) -> Any:
        functional = self.torch.nn.functional
        if kind == "activation":
            eps = given["batch_eps"]
            return lambda x: functional.batch_norm(
                x.reshape(len(x), -1), None, None, training=True, eps=eps
            ).reshape(x.shape)
        power, eps = POWERS[kind], given["eps"]
        return lambda x: functional.normalize(x, p=power, dim=1, eps=eps)

    def _forward_of(self, given: Given, kind: str) -> Call:
        function, x = self._function_of(given, kind), self.torch.from_numpy(given["x"]).clone()
        return Call(lambda: function(x), lambda y: _y(y.numpy()))

    def _step_of(self, given: Given, kind: str) -> Call:
        """Through autograd."""
        function, grad = self._function_of(given, kind), self.torch.autograd.grad
        x, dy = (self.torch.from_numpy(given[name]).clone() for name in ("x", "dy"))
        x.requires_grad_()

        def run() -> Any:
            y = function(x)
            return y, *grad(y, x, dy)

        return Call(run, lambda results: _both(r.detach().numpy() for r in results))


class PyTorchCompiled(PyTorch):
    def _function_of(self, given: Given, kind: str) -> Any:
        self.torch._dynamo.reset()
        return self.torch.compile(super()._function_of(given, kind), dynamic=False)


class Jax(_Named):
    jax: Any

    def _function_of(self, given: Given, kind: str) -> Any:
        jnp, eps, batch_eps = self.jax.numpy, given["eps"], given["batch_eps"]

        def normalize(x: Any) -> Any:
            if kind == "activation":
                mean = x.mean(0)
                var = jnp.maximum(jnp.square(x).mean(0) - jnp.square(mean), 0)
                return (x - mean) * self.jax.lax.rsqrt(var + batch_eps)
            if kind == "l1":
                return x / (jnp.abs(x).sum(1, keepdims=True) + eps)
            return x * self.jax.lax.rsqrt(jnp.square(x).sum(1, keepdims=True) + eps)

        return normalize

    def _forward_of(self, given: Given, kind: str) -> Call:
        function = self.jax.jit(self._function_of(given, kind))
        x = self.jax.device_put(given["x"])
        return Call(lambda: function(x).block_until_ready(), _y)

    def _step_of(self, given: Given, kind: str) -> Call:
        normalize, vjp = self._function_of(given, kind), self.jax.vjp
        wait = self.jax.block_until_ready
        x, dy = (self.jax.device_put(given[name]) for name in ("x", "dy"))

        def step(x: Any, dy: Any) -> Any:
            y, pullback = vjp(normalize, x)
            return y, *pullback(dy)

        function = self.jax.jit(step)
        return Call(lambda: wait(function(x, dy)), _both)


class TensorFlow(_Named):
    tf: Any

    def _function_of(self, given: Given, kind: str) -> Any:
        tf, eps, batch_eps = self.tf, given["eps"], given["batch_eps"]

        def normalize(x: Any) -> Any:
            if kind == "activation":
                mean, var = tf.nn.moments(x, 0)
                return (x - mean) * tf.math.rsqrt(var + batch_eps)
            if kind == "l1":
                return x / (tf.reduce_sum(tf.abs(x), 1, keepdims=True) + eps)
            return tf.math.l2_normalize(x, 1, epsilon=eps)

        return normalize

    def _forward_of(self, given: Given, kind: str) -> Call:
        function, x = self.tf.function(self._function_of(given, kind)), self.tf.constant(given["x"])
        return Call(lambda: function(x), lambda y: _y(y.numpy()))

    def _step_of(self, given: Given, kind: str) -> Call:
        tf, normalize = self.tf, self._function_of(given, kind)
        x, dy = (tf.constant(given[name]) for name in ("x", "dy"))

        @tf.function
        def step(x: Any, dy: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = normalize(x)
            return y, tape.gradient(y, x, dy)

        return Call(lambda: step(x, dy), lambda results: _both(r.numpy() for r in results))
