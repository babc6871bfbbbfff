"""The truth of products: against loops, finite differences, and errors of a known size."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.accuracy import truth
from benchmarks.accuracy.products import Conv2d, Dense, gradients

PRODUCTS = [
    Dense(5, 3, 4),
    Conv2d(2, 3, 5, 4, 3),
    Conv2d(2, 3, 6, 4, 3, stride=2),
    Conv2d(1, 2, 7, 2, 3, dilation=2),
    Conv2d(2, 4, 5, 6, 3, groups=2),
    Conv2d(2, 3, 5, 3, 3, stride=2, groups=3),
    Conv2d(2, 3, 4, 2, 1, stride=2),
    Conv2d(1, 2, 9, 2, 7, stride=2),
]


def drawn(product: Dense | Conv2d) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    shapes = product.x_shape, product.weight_shape, product.y_shape
    return tuple(random.standard_normal(shape) for shape in shapes)


@pytest.mark.parametrize("product", [p for p in PRODUCTS if isinstance(p, Conv2d)], ids=str)
def test_a_convolution_is_the_sum_that_defines_it(product: Conv2d) -> None:
    x, weight, _ = drawn(product)
    p, z = product.padding, product.forward(x, weight)
    padded = np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)))
    inputs, outputs = product.c // product.groups, product.k // product.groups
    for n, k, i, j in np.ndindex(z.shape):
        first = k // outputs * inputs
        expected = sum(
            weight[k, c, r, s] * padded[
                n, first + c, i * product.stride + r * product.dilation,
                j * product.stride + s * product.dilation,
            ]
            for c, r, s in np.ndindex(weight.shape[1:])
        )  # fmt: skip
        assert z[n, k, i, j] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("product", PRODUCTS, ids=str)
def test_gradients_are_those_of_a_linear_function(product: Dense | Conv2d) -> None:
    x, weight, dz = drawn(product)
    found = product.backward(dz, x, weight)
    for name, value in (("dx", x), ("dweight", weight)):
        assert found[name].shape == value.shape
        for i in np.ndindex(value.shape):
            unit = np.zeros_like(value)
            unit[i] = 1
            z = product.forward(unit, weight) if name == "dx" else product.forward(x, unit)
            assert found[name][i] == pytest.approx(np.sum(dz * z), abs=1e-12)


@pytest.mark.parametrize("product", PRODUCTS, ids=str)
def test_scales_are_the_size_of_a_sum_of_random_signs(product: Dense | Conv2d) -> None:
    x, weight, dz = drawn(product)
    k = product.y_shape[1]
    ones = np.ones((1, k, 1))
    exact = gradients(product, x, weight, truth.Truth({"dx": truth.as_ncp(dz)}, {"dx": ones}))
    assert exact.values["dx"].shape == truth.as_ncp(x).shape
    errors = truth.errors({"dx": exact.values["dx"] + exact.scales["dx"],
                           "dweight": exact.values["dweight"] + 2 * exact.scales["dweight"]},
                          exact)  # fmt: skip
    assert errors["dx"] == pytest.approx(1)
    assert errors["dweight"] == pytest.approx(2)
    typical = {k: np.sqrt(np.mean((exact.values[k] / exact.scales[k]) ** 2)) for k in errors}
    assert 0.2 < typical["dx"] < 3  # an edge and a stride leave out some of the terms
    assert 0.2 < typical["dweight"] < 3
