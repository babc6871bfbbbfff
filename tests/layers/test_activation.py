"""Activation: elementwise, as the reference has it."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm import reference
from nbnorm.layers import Activation
from tests.cases.activations import FEW


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5, 4), (0, 3)])
@pytest.mark.parametrize("activation", [*FEW, "leaky_relu", "gelu"])
def test_is_the_reference(rng, activation, shape):
    layer = Activation(activation)
    x, dy = rng.standard_normal((2, *shape))
    tolerance = {"rtol": 1e-13, "atol": 1e-15}
    np.testing.assert_allclose(layer(x), reference.activate(x, activation), **tolerance)
    expected = dy * reference.activate_derivative(x, activation)
    np.testing.assert_allclose(layer.backward(dy), expected, **tolerance)


def test_relu_changes_no_bit_of_what_it_lets_through(rng):
    x = (rng.standard_normal((64, 33)) * 10.0 ** rng.integers(-30, 30, (64, 33))).astype(np.float32)
    np.testing.assert_array_equal(Activation("relu")(x), np.maximum(x, 0))


def test_channels_last_stays_channels_last(rng):
    x = np.moveaxis(rng.standard_normal((2, 5, 4, 3)), -1, 1)
    np.testing.assert_array_equal(Activation("relu")(x), np.maximum(x, 0))


def test_a_residual_is_added_first(rng):
    layer = Activation("relu")
    x, residual, dy = rng.standard_normal((3, 4, 3))
    np.testing.assert_array_equal(layer(x, residual), np.maximum(x + residual, 0))
    for gradient in layer.backward(dy):
        np.testing.assert_array_equal(gradient, dy * (x + residual > 0))


def test_has_no_state():
    layer = Activation("relu")
    assert layer.parameters() == layer.gradients() == layer.state_dict() == {}


def test_refuses_an_unknown_name():
    with pytest.raises(ValueError, match="Activation: activation is 'softmax'; expected"):
        Activation("softmax")
