"""Freezing statistics, and training some parameters only."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm.layers import (
    SGD,
    Activation,
    BatchNorm,
    Conv2d,
    Conv2dBatchNorm,
    Dense,
    DenseBatchNorm,
    Flatten,
    Sequential,
)
from tests.cases.finite_differences import assert_gradient

NORMALIZING = {
    "BatchNorm": (lambda **o: BatchNorm(3, **o), (5, 3, 2)),
    "Conv2dBatchNorm": (lambda **o: Conv2dBatchNorm(2, 3, 2, rng=0, **o), (2, 2, 4, 4)),
    "DenseBatchNorm": (lambda **o: DenseBatchNorm(2, 3, rng=0, **o), (5, 2)),
}


def trained(rng, name, **options):
    """A layer that has seen a batch, no array of which is as it began."""
    make, shape = NORMALIZING[name]
    layer = make(dtype=np.float64, **options)
    for parameter in layer.parameters().values():
        parameter[...] = rng.standard_normal(parameter.shape)
    layer(rng.standard_normal(shape))
    return layer, rng.standard_normal(shape)


def network(seed=0):
    return Sequential(
        Conv2d(2, 3, 3, padding=1, dtype=np.float64, rng=seed),
        BatchNorm(3, activation="silu", dtype=np.float64),
        Sequential(Conv2dBatchNorm(3, 2, 2, dtype=np.float64, rng=seed), Flatten()),
        Dense(18, 4, dtype=np.float64, rng=seed),
        Activation("mish"),
    )


# --- statistics -----------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NORMALIZING)
def test_frozen_statistics_stay_and_normalize(rng, name, training):
    layer, x = trained(rng, name)
    buffers = {key: array.copy() for key, array in layer.buffers().items()}
    expected = layer.eval()(x)
    assert layer.freeze() is layer
    layer.train(training)
    np.testing.assert_array_equal(layer(x), expected)
    for key, array in layer.buffers().items():
        np.testing.assert_array_equal(array, buffers[key])
    assert layer.unfreeze() is layer
    layer.train()
    assert not np.allclose(layer(x), expected)
    assert layer.num_batches_tracked == buffers["num_batches_tracked"] + 1


@pytest.mark.parametrize("name", NORMALIZING)
def test_the_gradients_of_a_frozen_layer(rng, name):
    """Against finite differences: the statistics are constants, and all parameters learn."""
    layer, x = trained(rng, name, activation="silu")
    layer.freeze()
    state = layer.state_dict()
    y = layer(x)
    dy = rng.standard_normal(y.shape)
    dx = layer.backward(dy)

    def loss(array, key):
        other = NORMALIZING[name][0](dtype=np.float64, activation="silu").freeze()
        other.load_state_dict(state if key == "x" else state | {key: array})
        return np.sum(dy * other(array if key == "x" else x))

    assert_gradient(dx, lambda value: loss(value, "x"), x)
    gradients = layer.gradients()
    assert list(gradients) == list(layer.parameters())
    for key, gradient in gradients.items():
        assert_gradient(gradient, lambda value, key=key: loss(value, key), state[key])


def test_freezing_reaches_every_layer_of_a_network(rng):
    net = network()
    x = rng.standard_normal((3, 2, 4, 4))
    net(x)
    before = {name: array.copy() for name, array in net.buffers().items()}
    net.freeze().train()
    net(x)
    for name, array in net.buffers().items():
        np.testing.assert_array_equal(array, before[name])
    net.unfreeze()(x)
    assert net.buffers()["1.num_batches_tracked"] == net[2][0].num_batches_tracked == 2


def test_a_layer_without_running_statistics_cannot_be_frozen():
    net = Sequential(BatchNorm(3), Sequential(BatchNorm(3, track_running_stats=False)))
    with pytest.raises(ValueError, match=r"BatchNorm\.freeze: running_mean is None; expected"):
        net.freeze()
    assert not net.frozen
    assert not net[0].frozen
    net.unfreeze()


# --- parameters -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NORMALIZING)
def test_only_what_learns_has_gradients(rng, name):
    layer, x = trained(rng, name)
    dy = rng.standard_normal(layer(x).shape)
    dx = layer.backward(dy)
    expected = {key: gradient.copy() for key, gradient in layer.gradients().items()}
    assert layer.trainable == tuple(expected)

    layer.zero_grad()
    layer.trainable = ["beta"]
    assert layer.trainable == ("beta",)
    layer(x)
    np.testing.assert_array_equal(layer.backward(dy), dx)
    assert list(layer.gradients()) == ["beta"]
    np.testing.assert_array_equal(layer.gradients()["beta"], expected["beta"])
    layer.trainable = True
    assert layer.trainable == tuple(expected)
    assert not layer.gradients()["gamma"].any()  # nothing was added meanwhile


def test_what_does_not_learn_is_not_worked_out(rng, monkeypatch):
    asked = []

    def spy(dy, x, weight, *, needs):
        asked.append(needs)
        return real(dy, x, weight, needs=needs)

    from nbnorm.layers import dense as module

    real = module.dense_backward
    monkeypatch.setattr(module, "dense_backward", spy)
    layer = Dense(3, 2, dtype=np.float64, rng=0)
    layer.trainable = False
    y = layer(rng.standard_normal((4, 3)))
    assert layer.backward(y).shape == (4, 3)
    assert asked == [("dx",)]
    assert layer.gradients() == {}


def test_training_only_the_batch_norms_of_a_network(rng):
    net = network()
    net.trainable = "gamma", "beta"
    names = ("1.gamma", "1.beta", "2.0.gamma", "2.0.beta")
    assert net.trainable == tuple(net.gradients()) == names
    before = net.state_dict()
    optimizer = SGD(net, lr=0.1, momentum=0.9)
    for _ in range(2):
        y = net(rng.standard_normal((3, 2, 4, 4)))
        optimizer.zero_grad()
        net.backward(rng.standard_normal(y.shape))
        optimizer.step()
    for name, parameter in net.parameters().items():
        assert np.array_equal(parameter, before[name]) == (name not in names), name

    net.trainable = True
    assert net.trainable == tuple(net.parameters())
    net.trainable = False
    assert net.trainable == ()
    assert net[2][0].trainable == ()
    net.trainable = "weight", "gamma"
    assert net.trainable == ("0.weight", "1.gamma", "2.0.weight", "2.0.gamma", "3.weight")


def test_zeroing_reaches_what_does_not_learn_just_now(rng):
    net = network()
    y = net(rng.standard_normal((3, 2, 4, 4)))
    net.backward(rng.standard_normal(y.shape))
    net.trainable = False
    net.zero_grad()
    net.trainable = True
    assert not any(gradient.any() for gradient in net.gradients().values())


def test_a_velocity_waits_until_its_parameter_learns_again():
    layer = Dense(1, 1, bias=False, dtype=np.float64)
    layer.weight[...] = 1
    layer.gradients()["weight"][...] = 2
    optimizer = SGD(layer, lr=0.25, momentum=0.5)
    optimizer.step()  # v = 2
    layer.trainable = False
    optimizer.step()
    np.testing.assert_allclose(layer.weight, 0.5)
    layer.trainable = True
    optimizer.step()  # v = 0.5 * 2 + 2 = 3
    np.testing.assert_allclose(layer.weight, -0.25)


@pytest.mark.parametrize(
    ("trained", "error", "message"),
    [
        (["gama"], ValueError, r"trainable is \['gama'\]; expected True, False or names out of "),
        ("gamma", TypeError, "trainable is 'gamma'; expected"),
        (1, TypeError, "trainable is 1; expected"),
    ],
)
@pytest.mark.parametrize("make", [lambda: BatchNorm(3), lambda: Sequential(BatchNorm(3))])
def test_refuses_what_is_no_parameter(make, trained, error, message):
    layer = make()
    with pytest.raises(error, match=rf"{type(layer).__name__}: {message}.*\['beta', 'gamma'\]"):
        layer.trainable = trained
    assert len(layer.trainable) == 2
