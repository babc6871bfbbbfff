"""What is computed from a battery's data, the exact result, and the scale of its errors.

Batch norm alone takes the data as it is, its scales are those of `truth.py`. A dense layer and a
convolution multiply it by random weights. Their errors, and those of a batch norm behind them, are
relative to what one rounding of a product weighs:

===================  ===============================================================
product alone        the larger of the result itself and sqrt(sum of squared terms),
                     the size of a sum of as many terms of random sign
y behind batch norm  rms(y) + gamma r, with r = rms(scale of z) / s of each channel:
                     z is rounded before its mean is known, whoever computes it
dgamma               sqrt(m) rms(dy) (rms(xh) + r)
dbeta                sqrt(m) rms(dy)
dx, dweight          sqrt(sum of squared terms), each dz being gamma rms(dy) (1 + r) / s
===================  ===============================================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.accuracy import truth
from benchmarks.accuracy.batteries import Array, Trial, draw
from benchmarks.accuracy.products import Conv2d, Dense
from benchmarks.accuracy.truth import Truth
from nbnorm import operations

CHANNELS = 16  # of a product's output, and at least as many of a convolution's input
SLOW = 1024  # pixels of a float64 convolution: long double has no fast product
LARGE = 1_000_000  # values a channel; from here on products have no more channels than are drawn

Product = Dense | Conv2d | None


@dataclass(frozen=True)
class Operation:
    """An operation of nbnorm as it is measured: forward and backward, and its inference."""

    entry: operations.Operation

    @property
    def name(self) -> str:
        """As tables have it."""
        return self.entry.title

    @property
    def product(self) -> str:
        """Its product's name, or "" where there is none."""
        product, *_ = self.entry.parts or (self.entry.name,)
        return product if "weight" in self.entry.arrays else ""

    @property
    def normalized(self) -> bool:
        """Whether there is a batch norm."""
        return "gamma" in self.entry.arrays

    def inputs(self, trial: Trial, dtype: str) -> tuple[Product, dict[str, Any]]:
        """The arrays of a trial, in the type that a library is given."""
        x, dy, gamma, beta = draw(trial, dtype)
        if not self.product:
            return None, {"x": x, "dy": dy, "gamma": gamma, "beta": beta, "eps": trial.eps}
        if self.product == "conv2d" and dtype == "float64":
            x = x[: max(1, SLOW // x.shape[2]), :, :SLOW]
        n, c, p = x.shape
        k = CHANNELS if n * p < LARGE else c
        product: Product
        if self.product == "dense":
            x = np.ascontiguousarray(np.moveaxis(x, 1, -1).reshape(n * p, c))
            product = Dense(n * p, c, k)
        else:
            side = math.isqrt(p)
            times = -(-k // c)
            x = np.concatenate([np.roll(x, i, axis=0) for i in range(times)], axis=1)
            x = np.ascontiguousarray(x[:, :, : side**2].reshape(n, times * c, side, side))
            product = Conv2d(n, times * c, side, k, 3)
        random = np.random.default_rng(p)
        fan_in = math.prod(product.weight_shape[1:])
        drawn = {
            "weight": random.standard_normal(product.weight_shape) / math.sqrt(fan_in),
            "dy": random.standard_normal(product.y_shape),
            "gamma": random.uniform(0.5, 1.5, k),
            "beta": random.uniform(-1, 1, k),
        }
        arrays = {name: value.astype(dtype) for name, value in drawn.items()}
        return product, {"x": x, **arrays, "eps": trial.eps}

    def exact(self, product: Product, given: dict[str, Any], wide: type) -> Truth:
        """The results in a wider type; adds to `given` the mean and var for inference."""
        if product is None:
            return _with_inference(
                truth.training(
                    given["x"], given["dy"], given["gamma"], given["beta"], given["eps"], wide
                ),
                given["x"], 0.0, given, wide,
            )  # fmt: skip
        x, weight, dy = (given[name].astype(wide) for name in ("x", "weight", "dy"))
        z = product.forward(x, weight)
        terms = np.sqrt(product.forward(x * x, weight * weight))
        if not self.normalized:
            bias = given["beta"].astype(wide)
            along = (1, -1, *[1] * (z.ndim - 2))
            return _product_alone(product, z + bias.reshape(along), terms, dy, x, weight)
        return _normalized(product, z, np.maximum(abs(z), terms), given, wide)


# Not norms and penalties, which are sums of positive numbers: nobody gets those wrong. Nor group
# and instance norm, which are batch norms of parts of an array, by the same kernels.
OPERATIONS = [
    Operation(entry)
    for entry in operations.OPERATIONS
    if entry.gradients
    and "backward" in entry.directions
    and ("weight" in entry.arrays or "inference" in entry.directions)
]


def _product_alone(
    product: Any, y: Array, terms: Array, dy: Array, x: Array, weight: Array
) -> Truth:
    exact = product.backward(dy, x, weight)
    squares = product.backward(dy * dy, x * x, weight * weight)
    channels = truth.as_ncp(dy)
    exact |= {"y": y, "dbias": channels.sum(axis=(0, 2))}
    squares |= {"y": terms * terms, "dbias": (channels * channels).sum(axis=(0, 2))}
    scales = {name: np.maximum(abs(exact[name]), np.sqrt(squares[name])) for name in exact}
    return Truth(exact, scales)


def _normalized(
    product: Any, z: Array, rounding: Array, given: dict[str, Any], wide: type
) -> Truth:
    """Batch norm behind a product; `rounding` is the scale of z's errors."""
    rows, dy = truth.as_ncp(z), truth.as_ncp(given["dy"])
    norm = truth.training(rows, dy, given["gamma"], given["beta"], given["eps"], wide)
    m = rows.shape[0] * rows.shape[2]
    channels = (0, 2)
    s = np.sqrt(rows.var(axis=channels, keepdims=True) + wide(given["eps"]))
    unit = np.sqrt((truth.as_ncp(rounding) ** 2).mean(axis=channels, keepdims=True))
    r = np.divide(unit, s, out=np.zeros_like(s), where=s > 0)
    gamma = abs(given["gamma"].astype(wide)).reshape(1, -1, 1)
    rms_dy = np.sqrt((dy.astype(wide) ** 2).mean(axis=channels))
    dz = norm.scales["dx"] * (1 + r)  # a scale for each channel
    squares = product.backward(
        np.broadcast_to(dz * dz, rows.shape).reshape(z.shape),
        given["x"].astype(wide) ** 2,
        given["weight"].astype(wide) ** 2,
    )
    exact = product.backward(
        norm.values["dx"].reshape(z.shape), given["x"].astype(wide), given["weight"].astype(wide)
    )
    found = Truth(
        norm.values | exact,
        {
            "y": norm.scales["y"] + gamma * r,
            "dgamma": norm.scales["dgamma"] + np.sqrt(wide(m)) * rms_dy * r.ravel(),
            "dbeta": norm.scales["dbeta"],
            **{name: np.sqrt(square) for name, square in squares.items()},
        },
    )
    return _with_inference(found, rows, gamma * r, given, wide)


def _with_inference(
    found: Truth, rows: Array, rounding: Any, given: dict[str, Any], wide: type
) -> Truth:
    """Adds the y of inference by the statistics of the batch, rounded as libraries take them."""
    dtype = given["x"].dtype
    with np.errstate(over="ignore"):
        mean, var = (f(rows.astype(wide), axis=(0, 2)).astype(dtype) for f in (np.mean, np.var))
    if given["eps"] == 0 or not np.isfinite(var).all():  # beyond what the type can hold
        return found
    given |= {"mean": mean, "var": var}
    exact = truth.inference(rows, mean, var, given["gamma"], given["beta"], given["eps"], wide)
    return Truth(
        found.values | {"inference": exact.values["y"]},
        found.scales | {"inference": exact.scales["y"] + rounding},
    )
