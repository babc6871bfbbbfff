"""SGD: steps worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm.layers import SGD, Dense, Sequential


def at_one(dtype=np.float64):
    """A layer with the single parameter 1 and the gradient 2."""
    layer = Dense(1, 1, bias=False, dtype=dtype)
    layer.weight[...] = 1
    layer.gradients()["weight"][...] = 2
    return layer


def test_plain_steps():
    layer = at_one()
    optimizer = SGD(layer, lr=0.25)
    optimizer.step()
    np.testing.assert_allclose(layer.weight, 1 - 0.25 * 2)
    optimizer.step()
    np.testing.assert_allclose(layer.weight, 1 - 2 * 0.25 * 2)


def test_steps_with_momentum():
    layer = at_one()
    optimizer = SGD(layer, lr=0.25, momentum=0.5)
    optimizer.step()  # v = 2
    np.testing.assert_allclose(layer.weight, 0.5)
    optimizer.step()  # v = 0.5 * 2 + 2 = 3
    np.testing.assert_allclose(layer.weight, -0.25)
    layer.gradients()["weight"][...] = 0
    optimizer.step()  # v = 0.5 * 3
    np.testing.assert_allclose(layer.weight, -0.625)


def test_a_new_learning_rate_scales_the_whole_velocity():
    layer = at_one()
    optimizer = SGD(layer, lr=0.25, momentum=0.5)
    optimizer.step()
    optimizer.lr = 0.1
    optimizer.step()
    np.testing.assert_allclose(layer.weight, 0.5 - 0.1 * 3)


def test_writes_into_the_live_arrays_and_keeps_their_type():
    layer = at_one(np.float32)
    weight = layer.weight
    SGD(layer, lr=0.1, momentum=0.9).step()
    assert layer.weight is weight
    assert weight.dtype == np.float32
    np.testing.assert_allclose(weight, 0.8, rtol=1e-6)


def test_steps_every_layer_and_clears_every_gradient():
    layers = [at_one(), Sequential(at_one(), at_one())]
    optimizer = SGD(layers, lr=0.25)
    optimizer.step()
    for layer in layers:
        for parameter in layer.parameters().values():
            np.testing.assert_allclose(parameter, 0.5)
    optimizer.zero_grad()
    for layer in layers:
        assert not any(gradient.any() for gradient in layer.gradients().values())


def test_a_layer_that_occurs_twice_is_stepped_once():
    layer = at_one()
    SGD([Sequential(layer, layer), layer], lr=0.25).step()
    np.testing.assert_allclose(layer.weight, 0.5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((at_one(), -0.1), ValueError, "lr is -0.1; expected a finite number, 0 or more"),
        ((at_one(), float("nan")), ValueError, "lr is nan; expected"),
        ((at_one(), 0.1, 1.5), ValueError, "momentum is 1.5; expected a number from 0 to 1"),
        (([], 0.1), TypeError, r"layers is \[\]; expected a Layer"),
        (([at_one().weight], 0.1), TypeError, "layers is .* expected a Layer"),
    ],
)
def test_refuses(arguments, error, message):
    with pytest.raises(error, match=f"SGD: {message}"):
        SGD(*arguments)
