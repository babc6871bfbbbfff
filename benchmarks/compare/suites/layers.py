"""What the suites of whole layers share: a product with weights, then batch norm, then ReLU."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.accuracy import truth
from benchmarks.accuracy.products import Conv2d, Dense, gradients
from benchmarks.compare.protocol import LAST, Case, Shape

EPS = 1e-5
TOLERANCE = 1e-3  # of each output's scale, as in the batch norm suite
DATA, LIKE_X, LIKE_Y = ("x", "dy"), ("dx",), ("y", "z")


class Problem:
    """The data of one shape, the same for every library, and what has to come out."""

    def __init__(self, shape: Shape, product: Dense | Conv2d) -> None:
        random = np.random.default_rng([20_240_607, *shape])
        self.product = product
        c, k = product.x_shape[1], product.y_shape[1]

        def drawn(n: int, low: float, high: float) -> Any:
            return random.uniform(low, high, n).astype(np.float32)

        def normal(shape: Shape) -> Any:
            return random.standard_normal(shape, dtype=np.float32)

        x, dy, weight = map(normal, (product.x_shape, product.y_shape, product.weight_shape))
        column = (1, c, *[1] * (x.ndim - 2))
        x *= drawn(c, 0.5, 2).reshape(column)
        x += drawn(c, -1, 1).reshape(column)
        weight /= np.sqrt(np.float32(weight[0].size))  # z is of the size of x
        self.values = {
            "x": x, "dy": dy, "weight": weight, "eps": EPS,
            "gamma": drawn(k, 0.5, 1.5), "beta": drawn(k, -1, 1),
            "mean": drawn(k, -1, 1), "var": drawn(k, 0.5, 2),
        }  # fmt: skip
        if isinstance(product, Conv2d):
            self.values |= product.options
        self._z = truth.as_ncp(product.forward(x, weight))
        if self._z[:, 0].size > 1:  # else there are no statistics to train with
            self._mask_close_calls()
        self._truths: dict[str, truth.Truth] = {}

    def arranged(self, layout: str) -> dict[str, Any]:
        """The values with x and dy in the memory order of a layout."""
        if layout != LAST:
            return self.values
        moved = {k: np.ascontiguousarray(np.moveaxis(self.values[k], 1, -1)) for k in DATA}
        return self.values | moved

    def error(self, case: Case, outputs: dict[str, Any]) -> float:
        """The largest error of the outputs of a case, NaN where one is not finite."""
        like = dict.fromkeys(LIKE_X, self.product.x_shape) | dict.fromkeys(
            LIKE_Y, self.product.y_shape
        )
        outputs = {
            name: _ncp(output, like[name], case) if name in like else output
            for name, output in outputs.items()
        }
        errors = truth.errors(outputs, self._truth(case.operation))
        return float(np.max(list(errors.values())))

    def _mask_close_calls(self) -> None:
        """Let dy be 0 where a ReLU's input is so close to 0 that rounding decides its sign.

        There a library that is within the tolerance may pass the gradient on or not, and one value
        of dy is far more than the tolerance of dx allows.
        """
        gamma, beta = self.values["gamma"], self.values["beta"]
        y = truth.training(self._z, self._z, gamma, beta, EPS)
        close = np.abs(y.values["y"]) < 2 * TOLERANCE * y.scales["y"]
        self.values["dy"][close.reshape(self.product.y_shape)] = 0

    def _truth(self, operation: str) -> truth.Truth:
        key = "z" if operation in ("dense_forward", "conv2d_forward") else "training"
        key = "inference" if operation.endswith("_inference") else key
        if key not in self._truths:
            self._truths[key] = getattr(self, f"_{key}_truth")()
        return self._truths[key]

    def _z_truth(self) -> truth.Truth:
        rms = np.sqrt(np.mean(self._z**2, axis=(0, 2), keepdims=True))
        return truth.Truth({"z": self._z}, {"z": rms})

    def _inference_truth(self) -> truth.Truth:
        given = (self.values[name] for name in ("mean", "var", "gamma", "beta", "eps"))
        return truth.inference(self._z, *given, relu=True)

    def _training_truth(self) -> truth.Truth:
        x, dy, weight, gamma, beta = (
            self.values[name] for name in ("x", "dy", "weight", "gamma", "beta")
        )
        norm = truth.training(self._z, truth.as_ncp(dy), gamma, beta, EPS, relu=True)
        product = gradients(self.product, x, weight, norm)
        return truth.Truth(norm.values | product.values, norm.scales | product.scales)


def _ncp(output: Any, shape: Shape, case: Case) -> Any:
    """An output as (n, c, p); a peer may have flattened what it saw as rows."""
    n, c, *positions = shape
    stored = (n, *positions, c) if case.layout == LAST else shape
    return truth.as_ncp(output.reshape(stored), case.axis)
