"""An adapter that needs no library: layers in NumPy, told by STAND_IN how to behave."""

from __future__ import annotations

import os

import numpy as np

from benchmarks.accuracy import truth
from benchmarks.accuracy.products import Conv2d, Dense, gradients
from benchmarks.compare.protocol import Call, Given, Unsupported


class Adapter:
    def __init__(self, threads: int) -> None:
        self.behaviour = os.environ["STAND_IN"]
        self.threads = threads
        if self.behaviour == "absent":
            raise ImportError("No module named 'nothing_of_this_name'")

    def batch_norm_forward(self, given: Given) -> Call:
        if self.behaviour == "dies":
            os._exit(3)
        if self.behaviour == "raises":
            raise RuntimeError("no kernel for this\nand a second line")
        if given.axis == -1:
            raise Unsupported("no channels-last")
        x, dy, gamma, beta, eps = (given[k] for k in ("x", "dy", "gamma", "beta", "eps"))
        x, dy = truth.as_ncp(x), truth.as_ncp(dy)
        off = 0.01 if self.behaviour == "wrong" else 0.0
        return Call(
            lambda: truth.training(x, dy, gamma, beta, eps).values["y"].astype("float32"),
            lambda y: {"y": y + off},
        )

    def dense_forward(self, given: Given) -> Call:
        x, weight = given["x"], given["weight"]
        return Call(lambda: x @ weight.T, lambda z: {"z": z})

    def dense_batch_norm_forward_backward(self, given: Given) -> Call:
        return self._step(given, Dense(*given.case.shape))

    def conv2d_batch_norm_forward_backward(self, given: Given) -> Call:
        if given.axis == -1:
            raise Unsupported("no channels-last")
        return self._step(given, Conv2d(*given.case.shape))

    def conv2d_batch_norm_memory(self, given: Given) -> Call:
        """It needs 64 MiB where there is more than one image, and 32 if it is frugal."""
        n_bytes = (32 if self.behaviour == "frugal" else 64) << 20 if given["x_shape"][0] > 1 else 1
        off = 1.0 if self.behaviour == "wrong" else 0.0
        return Call(lambda: b"1" * n_bytes, lambda _: {"y": np.ones(3) + off})

    def _step(self, given: Given, product: Dense | Conv2d) -> Call:
        x, dy, weight, gamma, beta, eps = (
            given[name] for name in ("x", "dy", "weight", "gamma", "beta", "eps")
        )
        wrong = self.behaviour == "wrong"

        def run() -> dict[str, np.ndarray]:
            z = truth.as_ncp(product.forward(x, weight))
            norm = truth.training(z, truth.as_ncp(dy), gamma, beta, eps, relu=True)
            dz = truth.training(z, truth.as_ncp(dy), gamma, beta, eps) if wrong else norm
            outputs = norm.values | gradients(product, x, weight, dz).values
            return {name: value.astype(np.float32) for name, value in outputs.items()}

        return Call(run, lambda outputs: outputs)
