"""CrossIterationBatchNorm, and its pair with the layer in front, which follows the weights."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm import reference
from nbnorm.functional.moments import Moments
from nbnorm.layers import (
    SGD,
    Activation,
    BatchNorm,
    Compensated,
    Conv2d,
    CrossIterationBatchNorm,
    Dense,
    Sequential,
)
from nbnorm.layers.compensated import statistics_gradients
from tests.cases.finite_differences import assert_gradient


def batches(rng, count, shape=(2, 3)):
    return [rng.normal(step, 1 + step, shape) for step in range(count)]


# --- the layer ------------------------------------------------------------------------------


def test_the_window_makes_the_statistics(rng):
    layer = CrossIterationBatchNorm(3, window=3, eps=0, dtype=np.float64)
    seen = batches(rng, 5)
    for step, x in enumerate(seen):
        values = np.concatenate(seen[max(0, step - 2) : step + 1])
        expected = (x - values.mean(axis=0)) / values.std(axis=0)
        np.testing.assert_allclose(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_the_gradient_of_the_last_batch(rng):
    first, x = batches(rng, 2, (4, 3))
    dy = rng.normal(size=x.shape)

    def fed(**state):
        layer = CrossIterationBatchNorm(3, window=2, activation="silu", dtype=np.float64)
        layer(first)
        layer.load_state_dict(layer.state_dict() | state)
        return layer

    gamma, beta = rng.uniform(0.5, 1.5, (2, 3))
    layer = fed(gamma=gamma, beta=beta)
    layer(x)
    dx = layer.backward(dy)
    assert_gradient(dx, lambda x: np.sum(dy * fed(gamma=gamma, beta=beta)(x)), x)
    gradients = layer.gradients()
    assert_gradient(gradients["gamma"], lambda g: np.sum(dy * fed(gamma=g, beta=beta)(x)), gamma)
    assert_gradient(gradients["beta"], lambda b: np.sum(dy * fed(gamma=gamma, beta=b)(x)), beta)


def test_the_running_statistics_move_toward_the_merged_ones(rng):
    layer = CrossIterationBatchNorm(3, window=2, momentum=1.0, dtype=np.float64)
    seen = batches(rng, 3, (4, 3))
    for x in seen:
        layer(x)
    values = np.concatenate(seen[1:])
    np.testing.assert_allclose(layer.running_mean, values.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(layer.running_var, values.var(axis=0, ddof=1), rtol=1e-13)
    assert layer.num_batches_tracked == 3


def test_after_eval_or_frozen_it_is_batch_norm(rng):
    layer = CrossIterationBatchNorm(3, window=4, dtype=np.float64)
    plain = BatchNorm(3, dtype=np.float64).eval()
    for x in batches(rng, 3):
        layer(x)
    plain.load_state_dict(layer.state_dict())
    x, dy = rng.normal(size=(2, 5, 3))
    y, context = plain.forward(x)
    dx = plain.backward(dy, context)
    for other in (layer.eval(), layer.train().freeze()):
        np.testing.assert_array_equal(other(x), y)
        _, own = other.forward(x)
        np.testing.assert_array_equal(other.backward(dy, own), dx)
    layer.unfreeze()
    assert not np.allclose(layer(x), plain(x))


def test_forgetting_and_a_window_of_one(rng):
    first, second = batches(rng, 2, (4, 3))
    layer, plain = (CrossIterationBatchNorm(3, window=2), BatchNorm(3))
    layer(first.astype(np.float32))
    assert layer.forget() is layer
    x = second.astype(np.float32)
    np.testing.assert_allclose(layer(x), plain(x), rtol=1e-6, atol=1e-6)
    layer.window = 1  # the burn-in of the paper
    np.testing.assert_allclose(layer(x), plain(x), rtol=1e-6, atol=1e-6)


def test_a_single_sample_counts_and_a_refused_batch_does_not(rng):
    layer = CrossIterationBatchNorm(3, window=4, dtype=np.float64)
    with pytest.raises(ValueError, match=r"x is .* expected two values or more"):
        layer(rng.normal(size=(1, 3)))
    first, bad, last = rng.normal(size=(3, 2, 3))
    layer(first)
    with pytest.raises(ValueError, match=r"expected \(3,\) along axis 1"):
        layer(bad[:, :2])
    values = np.concatenate([first, last[:1]])
    expected = (last[:1] - values.mean(axis=0)) / np.sqrt(values.var(axis=0) + layer.eps)
    np.testing.assert_allclose(layer(last[:1]), expected, rtol=1e-12, atol=1e-12)
    assert layer.num_batches_tracked == 2


@pytest.mark.parametrize("window", [0, 1.5, True])
def test_refuses_a_window(window):
    with pytest.raises((ValueError, TypeError), match="CrossIterationBatchNorm: window is"):
        CrossIterationBatchNorm(3, window=window)


def test_says_what_it_is():
    layer = CrossIterationBatchNorm(2, window=3)
    assert repr(layer) == "CrossIterationBatchNorm(2, axis=1, activation=None, window=3)"
    pair = Compensated(Dense(3, 2), layer)
    assert repr(pair) == f"Compensated(Dense(3, 2, bias=True), {layer})"


# --- the pair -------------------------------------------------------------------------------

PRODUCTS = {
    "dense": (lambda: Dense(3, 4, dtype=np.float64, rng=0), 1, (6, 3)),
    "conv2d": (
        lambda: Conv2d(4, 6, (3, 2), stride=2, padding=1, groups=2, dtype=np.float64, rng=0),
        1,
        (3, 4, 6, 5),
    ),
    "conv2d, channels last": (
        lambda: Conv2d(3, 4, 2, bias=False, dilation=2, axis=-1, dtype=np.float64, rng=0),
        -1,
        (3, 6, 5, 3),
    ),
}


def pair(name, window=3, **options):
    make, axis, shape = PRODUCTS[name]
    product = make()
    channels = len(product.weight)
    options = {"axis": axis, "window": window, "dtype": np.float64} | options
    return Compensated(product, CrossIterationBatchNorm(channels, **options)), shape


def product_statistics(product, x, axis):
    moments = Moments.of(product(x), axis=axis)
    return moments.mean, moments.var()


@pytest.mark.parametrize("name", PRODUCTS)
def test_the_gradients_of_the_statistics(rng, name):
    """Of mean and variance by the weights, against finite differences and the reference."""
    make, axis, shape = PRODUCTS[name]
    product = make()
    product.weight[...] = rng.normal(size=product.weight.shape)
    x = rng.normal(size=shape)
    z = product(x)
    dmean, dvar = statistics_gradients(product, x, z, Moments.of(z, axis=axis))
    k, rows = len(product.weight), len(dmean)
    dmean = np.repeat(dmean, k // rows, axis=0)

    def loss(weight, which, factor):
        other = make()
        other.load_state_dict(product.state_dict() | {"weight": weight})
        return np.sum(factor * product_statistics(other, x, axis)[which])

    factor = rng.normal(size=k)
    per_channel = factor.reshape(k, *(1,) * (product.weight.ndim - 1))
    weight = product.weight.copy()
    assert_gradient(per_channel * dmean, lambda w: loss(w, 0, factor), weight)
    assert_gradient(per_channel * dvar, lambda w: loss(w, 1, factor), weight)
    if name == "dense":
        specified = reference.dense_statistics_gradients(x, weight)
    else:
        options = {key: value for key, value in product.options.items() if key != "axis"}
        first = x if axis == 1 else np.moveaxis(x, -1, 1)
        specified = reference.conv2d_statistics_gradients(first, weight, **options)
    np.testing.assert_allclose(dmean, specified[0], rtol=0, atol=1e-13)
    np.testing.assert_allclose(dvar, specified[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", PRODUCTS)
def test_statistics_follow_the_weights(rng, name):
    """The mean exactly and the variance to first order: halving the change quarters the error."""
    errors = []
    for size in (1e-2, 5e-3):
        layer, shape = pair(name, window=2, momentum=1.0, running_var="biased")
        product, normalization = layer
        rng = np.random.default_rng(1)
        first, x = rng.normal(size=(2, *shape))
        layer(first)
        for parameter in product.parameters().values():
            parameter[...] += size * rng.normal(size=parameter.shape)
        layer(x)  # momentum 1: the running statistics are those of this batch and the first
        axis = PRODUCTS[name][1]
        both = Moments.of(product(np.concatenate([first, x])), axis=axis)
        np.testing.assert_allclose(normalization.running_mean, both.mean, rtol=0, atol=1e-14)
        errors.append(np.abs(normalization.running_var - both.var()).max())
    # The next term, of third order, is there in neither: a variance is a square of the weights.
    assert errors[0] / errors[1] == pytest.approx(4, rel=1e-6)


def test_compensation_is_the_references(rng):
    layer, shape = pair("conv2d", window=2, momentum=1.0, running_var="biased")
    product, normalization = layer
    first, x = rng.normal(size=(2, *shape))
    layer(first)
    before = product.weight.copy()
    product.weight += 0.05 * rng.normal(size=before.shape)
    layer(x)
    options = {key: value for key, value in product.options.items() if key != "axis"}
    gradients = reference.conv2d_statistics_gradients(first, before, **options)
    z = reference.conv2d_forward(first, before, product.bias, **options)
    moved = reference.compensate_statistics(
        *reference.batch_statistics(z), *gradients, product.weight - before
    )
    now = reference.conv2d_forward(x, product.weight, product.bias, **options)
    count = now.size // now.shape[1]
    mean, var, _ = reference.merge_statistics(
        [(*moved, count), (*reference.batch_statistics(now), count)]
    )
    np.testing.assert_allclose(normalization.running_mean, mean, rtol=0, atol=1e-13)
    np.testing.assert_allclose(normalization.running_var, var, rtol=1e-12)


def test_a_variance_never_turns_negative(rng):
    layer, shape = pair("dense", window=2)
    product, _ = layer
    layer(rng.normal(size=shape))
    product.weight *= -2  # a Taylor expansion to below zero
    y = layer(rng.normal(size=shape))
    assert np.isfinite(y).all()


@pytest.mark.parametrize("name", PRODUCTS)
def test_the_gradients_of_the_pair(rng, name):
    """By finite differences, what is carried over held constant, as it is in the paper.

    The change of the weights between the batches is part of what is constant, so that the weights
    may not move it: they are set before the first batch, whose statistics then are those of both.
    """
    layer, shape = pair(name, window=2, eps=0.1)
    product, normalization = layer
    first, x = rng.normal(size=(2, *shape))
    layer(first)
    earlier = [Moments.of(product(first), axis=PRODUCTS[name][1])]
    y = layer(x)
    dy = rng.normal(size=y.shape)
    dx = layer.backward(dy)
    state = layer.state_dict()

    def loss(x, **changed):
        other, _ = pair(name, window=2, eps=0.1)
        other.load_state_dict(state | changed)
        y, _, _ = other[1].forward_after(earlier, other[0](x))
        return np.sum(dy * y)

    assert_gradient(dx, loss, x)
    weight = layer.gradients()["0.weight"]
    assert_gradient(weight, lambda w: loss(x, **{"0.weight": w}), product.weight)
    gamma = layer.gradients()["1.gamma"]
    assert_gradient(gamma, lambda g: loss(x, **{"1.gamma": g}), normalization.gamma)


def test_training_a_pair_with_a_residual(rng):
    layer, shape = pair("dense", window=3, activation="relu")
    optimizer = SGD(layer, lr=0.01)
    residual = rng.normal(size=(6, 4))
    for _ in range(5):
        layer(rng.normal(size=shape), residual)
        dx, dresidual = layer.backward(rng.normal(size=(6, 4)))
        optimizer.step()
        optimizer.zero_grad()
    assert dx.shape == shape
    assert dresidual.shape == (6, 4)
    assert list(layer.state_dict()) == list(Sequential(Dense(3, 4), BatchNorm(4)).state_dict())


def test_the_pair_folds_and_infers_as_sequential_does(rng):
    layer, shape = pair("conv2d", activation="silu")
    for _ in range(3):
        layer(rng.normal(size=shape))
    x = rng.normal(size=shape)
    folded = layer.fold()
    assert [type(part) for part in folded] == [Conv2d, Activation]
    np.testing.assert_allclose(folded(x), layer.eval()(x), rtol=1e-11, atol=1e-11)
    plain = Sequential(*layer).eval()
    np.testing.assert_array_equal(layer(x), plain(x))
    nested = Sequential(layer, Activation("relu")).fold()
    assert [type(part) for part in nested] == [Sequential, Activation]


def test_a_window_of_one_costs_no_gradient(rng, monkeypatch):
    from nbnorm.layers import compensated as module

    monkeypatch.setattr(module, "statistics_gradients", None)  # fails if called
    layer, shape = pair("dense", window=1)
    first, x = rng.normal(size=(2, *shape))
    layer(first)
    np.testing.assert_allclose(layer(x), Sequential(*layer)(x), rtol=1e-12, atol=1e-12)


def test_the_pair_forgets(rng):
    layer, shape = pair("dense", window=2)
    first, x = rng.normal(size=(2, *shape))
    layer(first)
    assert layer.forget() is layer
    np.testing.assert_allclose(layer(x), pair("dense", window=1)[0](x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ((BatchNorm(3), CrossIterationBatchNorm(3, window=2)), TypeError, "product is BatchNorm"),
        ((Dense(3, 4), BatchNorm(4)), TypeError, r"normalization is BatchNorm\(4"),
        ((Dense(3, 4), CrossIterationBatchNorm(3, window=2)), ValueError, "normalization is"),
        ((Conv2d(3, 4, 1, axis=-1), CrossIterationBatchNorm(4, window=2)), ValueError, "channels"),
    ],
)
def test_refuses_another_pair(layers, error, message):
    with pytest.raises(error, match=f"Compensated: .*{message}"):
        Compensated(*layers)
