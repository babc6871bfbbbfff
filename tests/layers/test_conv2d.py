"""Conv2d: the reference with parameters of its own."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nbnorm import reference
from nbnorm.layers import Conv2d


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": (1, 0), "groups": 2},
        {"padding": "same", "dilation": 2},
        {"padding": ((0, 1), (1, 0)), "stride": 2},
    ],
)
def test_is_the_reference(rng, options, axis):
    layer = Conv2d(4, 6, (3, 2), **options, axis=axis, dtype=np.float64, rng=rng)
    x = rng.standard_normal((2, 4, 7, 6))
    y = reference.conv2d_forward(x, layer.weight, layer.bias, **options)
    dy = rng.standard_normal(y.shape)
    np.testing.assert_allclose(layer(np.moveaxis(x, 1, axis)), np.moveaxis(y, 1, axis))

    dx = layer.backward(np.moveaxis(dy, 1, axis))
    expected = reference.conv2d_backward(dy, x, layer.weight, **options)
    np.testing.assert_allclose(dx, np.moveaxis(expected.dx, 1, axis), atol=1e-13)
    np.testing.assert_allclose(layer.gradients()["weight"], expected.dweight)
    np.testing.assert_allclose(layer.gradients()["bias"], expected.dbias)


def test_without_bias(rng):
    layer = Conv2d(4, 6, 3, bias=False, rng=rng)
    y = layer(rng.standard_normal((2, 4, 5, 5), dtype=np.float32))
    layer.backward(y)
    assert layer.bias is None
    assert list(layer.parameters()) == list(layer.gradients()) == ["weight"]


def test_starts_uniform_within_one_over_the_root_of_its_inputs():
    layer = Conv2d(32, 64, (3, 5), groups=2, rng=0)
    assert layer.weight.shape == (64, 16, 3, 5)
    bound = 1 / math.sqrt(16 * 3 * 5)
    assert max(np.abs(layer.weight).max(), np.abs(layer.bias).max()) <= bound
    np.testing.assert_allclose(layer.weight.std(), bound / math.sqrt(3), rtol=0.01)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((0, 4, 3), {}, ValueError, "in_channels is 0; expected an int of 1 or more"),
        ((4, -1, 3), {}, ValueError, "out_channels is -1; expected an int of 1 or more"),
        ((4, 6, 0), {}, ValueError, "kernel_size is 0; expected an int of 1 or more"),
        ((4, 6, (3, 3, 3)), {}, ValueError, r"kernel_size is \(3, 3, 3\); expected .* a pair"),
        ((4, 6, 3), {"groups": 4}, ValueError, "groups is 4; expected a divisor of .*out_channels"),
        ((4, 6, 3), {"dtype": "int32"}, TypeError, "dtype is .* expected float32 or float64"),
    ],
)
def test_refuses(arguments, options, error, message):
    with pytest.raises(error, match=f"Conv2d: {message}"):
        Conv2d(*arguments, **options)


def test_says_what_it_is():
    assert repr(Conv2d(4, 6, 3, groups=2, padding="same")) == (
        "Conv2d(4, 6, (3, 3), bias=True, stride=1, padding='same', dilation=1, groups=2, axis=1)"
    )
