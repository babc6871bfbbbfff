"""The libraries: each computes everything that an operation has to give, from the same arrays.

A library is a function of the operation's name and its arrays, x with channels on the axis that it
is told; results have theirs there too. Peers compute gradients by their own differentiation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.accuracy.batteries import Array

Outputs = dict[str, Array]
Library = Callable[[str, dict[str, Any], int], Outputs]

PADDING = 1


def load_nbnorm(algorithm: str = "direct") -> Library:
    from nbnorm.operations import OPERATIONS

    by_title = {operation.title: operation for operation in OPERATIONS}

    def run(title: str, given: dict[str, Any], axis: int) -> Outputs:
        operation = by_title[title]
        arguments = given | {"axis": axis, "padding": PADDING, "algorithm": algorithm}
        if not operation.parts:  # else the batch norm has a beta
            arguments["bias"] = given["beta"]
        taken = {name: arguments[name] for name in arguments.keys() & operation.arguments}
        y, _, gradients = operation.train(taken)
        outputs = {"y": y, **gradients._asdict()}
        if "mean" in given:
            outputs["inference"] = operation.call("inference", taken)()
        return outputs

    return run


def load_auto() -> Library:
    """nbnorm, the algorithm of a convolution left to it."""
    run = load_nbnorm("auto")

    def convolutions(operation: str, given: dict[str, Any], axis: int) -> Outputs:
        return run(operation, given, axis) if operation.startswith("conv2d") else {}

    return convolutions


def load_pytorch() -> Library:
    import torch
    from torch.nn import functional

    def run(operation: str, given: dict[str, Any], axis: int) -> Outputs:
        leaves = {
            name: torch.from_numpy(given[name]).requires_grad_(name not in ("dy", "mean", "var"))
            for name in ("x", "weight", "gamma", "beta", "dy", "mean", "var")
            if name in given
        }
        x = leaves["x"].movedim(axis, 1)
        weight, gamma, beta, eps = (
            leaves.get("weight"), leaves["gamma"], leaves["beta"], given["eps"],
        )  # fmt: skip
        z, alone = x, "batch norm" not in operation
        if operation.startswith("dense"):
            z = functional.linear(x, weight, beta if alone else None)
        elif operation.startswith("conv2d"):
            z = functional.conv2d(x, weight, beta if alone else None, padding=PADDING)
        y, outputs = z, {}
        if not alone:
            # What functional.batch_norm comes to, which takes no eps of 0.
            y = torch.native_batch_norm(z, gamma, beta, None, None, True, 0.1, eps)[0]
            if "mean" in leaves:
                with torch.no_grad():
                    statistics = leaves["mean"], leaves["var"]
                    outputs["inference"] = functional.batch_norm(
                        z, *statistics, gamma, beta, False, 0.1, eps
                    )
        y.backward(leaves["dy"].movedim(axis, 1))
        outputs = {name: value.movedim(1, axis) for name, value in (outputs | {"y": y}).items()}
        outputs |= {"dx": leaves["x"].grad, "dbias" if alone else "dbeta": beta.grad}
        outputs |= {} if alone else {"dgamma": gamma.grad}
        outputs |= {} if weight is None else {"dweight": weight.grad}
        return {name: value.detach().numpy() for name, value in outputs.items()}

    return run


def load_jax() -> Library:
    """Batch norm as Flax writes it; jitted."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)

    def run(operation: str, given: dict[str, Any], axis: int) -> Outputs:
        alone = "batch norm" not in operation
        x, dy = given["x"], given["dy"]
        shape = [1] * dy.ndim
        shape[axis] = -1
        others = tuple(i for i in range(dy.ndim) if i != axis % dy.ndim)
        eps = x.dtype.type(given["eps"])
        layout = ("NCHW", "OIHW", "NCHW") if axis == 1 else ("NHWC", "OIHW", "NHWC")

        def normalize(z: Any, mean: Any, var: Any, gamma: Any, beta: Any) -> Any:
            scale = jax.lax.rsqrt(var + eps) * gamma
            return (z - mean.reshape(shape)) * scale.reshape(shape) + beta.reshape(shape)

        def product(x: Any, weight: Any) -> Any:
            if operation.startswith("dense"):
                return x @ weight.T
            if operation.startswith("conv2d"):
                pads = [(PADDING, PADDING)] * 2
                return jax.lax.conv_general_dilated(
                    x, weight, (1, 1), pads, dimension_numbers=layout
                )
            return x

        def forward(x: Any, weight: Any, gamma: Any, beta: Any) -> Any:
            z = product(x, weight)
            if alone:
                return z + beta.reshape(shape)
            mean = z.mean(others)
            var = jnp.maximum(jnp.square(z).mean(others) - jnp.square(mean), 0)
            return normalize(z, mean, var, gamma, beta)

        weight, gamma, beta = given.get("weight"), given["gamma"], given["beta"]
        weight = np.zeros((), x.dtype) if weight is None else weight

        @jax.jit
        def step(x: Any, weight: Any, gamma: Any, beta: Any, dy: Any) -> Any:
            y, pullback = jax.vjp(forward, x, weight, gamma, beta)
            return y, *pullback(dy)

        y, dx, dweight, dgamma, dbeta = step(x, weight, gamma, beta, dy)
        outputs = {"y": y, "dx": dx, "dbias" if alone else "dbeta": dbeta}
        outputs |= {} if alone else {"dgamma": dgamma}
        outputs |= {"dweight": dweight} if "weight" in given else {}
        if "mean" in given:
            inference = jax.jit(lambda x, w, *others: normalize(product(x, w), *others))
            outputs["inference"] = inference(x, weight, given["mean"], given["var"], gamma, beta)
        return {name: np.asarray(value) for name, value in outputs.items()}

    return run


def load_tensorflow() -> Library:
    """Its fused batch norm, which is float32 alone; moments and batch_normalization for float64."""
    import tensorflow as tf

    def run(operation: str, given: dict[str, Any], axis: int) -> Outputs:
        if axis == 1 and given["dy"].ndim > 2:
            return {}  # its CPU kernels are channels-last
        alone = "batch norm" not in operation
        names = ("x", "weight", "gamma", "beta", "dy", "mean", "var")
        leaves = {name: tf.constant(given[name]) for name in names if name in given}
        gamma, beta, eps, k = leaves["gamma"], leaves["beta"], given["eps"], given["gamma"].size

        def product(x: Any) -> Any:
            if operation.startswith("dense"):
                return tf.matmul(x, leaves["weight"], transpose_b=True)
            if operation.startswith("conv2d"):
                pads = [[0, 0], [PADDING] * 2, [PADDING] * 2, [0, 0]]
                window = tf.transpose(leaves["weight"], (2, 3, 1, 0))
                return tf.nn.conv2d(x, window, 1, pads)
            return x

        def normalize(z: Any) -> Any:
            rows = tf.reshape(z, (-1, 1, 1, k))
            if z.dtype == tf.float32:
                y = tf.compat.v1.nn.fused_batch_norm(rows, gamma, beta, epsilon=eps)[0]
            else:
                mean, var = tf.nn.moments(rows, (0, 1, 2))
                y = tf.nn.batch_normalization(rows, mean, var, beta, gamma, eps)
            return tf.reshape(y, z.shape)

        with tf.GradientTape() as tape:
            tape.watch(
                [leaves[name] for name in ("x", "weight", "gamma", "beta") if name in leaves]
            )
            z = product(leaves["x"])
            y = tf.nn.bias_add(z, beta) if alone else normalize(z)
        wanted = {"dx": leaves["x"], "dbias" if alone else "dbeta": beta}
        wanted |= {} if alone else {"dgamma": gamma}
        wanted |= {"dweight": leaves["weight"]} if "weight" in leaves else {}
        outputs = {"y": y} | tape.gradient(y, wanted, leaves["dy"])
        if "mean" in leaves:
            outputs["inference"] = tf.nn.batch_normalization(
                z, leaves["mean"], leaves["var"], beta, gamma, eps
            )
        return {name: value.numpy() for name, value in outputs.items()}

    return run


LIBRARIES: dict[str, Callable[[], Library]] = {
    "nbnorm": load_nbnorm,
    'nbnorm "auto"': load_auto,
    "PyTorch": load_pytorch,
    "TensorFlow": load_tensorflow,
    "JAX": load_jax,
}
DISTRIBUTIONS = ("nbnorm", "numba", "numpy", "torch", "tensorflow-cpu", "jax", "jaxlib")
