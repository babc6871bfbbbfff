"""Sequential: layers in order, under one set of names."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm.layers import (
    Activation,
    BatchNorm,
    Compensated,
    Conv2d,
    Conv2dBatchNorm,
    CrossIterationBatchNorm,
    Dense,
    DenseBatchNorm,
    Flatten,
    Sequential,
)
from tests.cases.finite_differences import assert_gradient


def small_network(seed=0):
    return Sequential(
        Conv2d(2, 3, 3, padding=1, stride=2, bias=False, dtype=np.float64, rng=seed),
        BatchNorm(3, activation="silu", dtype=np.float64),
        Flatten(),
        Sequential(Dense(12, 4, dtype=np.float64, rng=seed), Activation("mish")),
    )


def test_is_one_layer_after_the_other(rng):
    net = small_network()
    x = rng.standard_normal((3, 2, 4, 4))
    y = x
    for layer in small_network():
        y = layer(y)
    np.testing.assert_array_equal(net(x), y)


def test_backward_is_the_derivative_of_forward(rng):
    net = small_network()
    for parameter in net.parameters().values():  # of about 1, which finite differences ask for
        parameter[...] = rng.standard_normal(parameter.shape)
    state = net.state_dict()
    x = rng.standard_normal((3, 2, 4, 4))
    dy = rng.standard_normal(net(x).shape)
    dx = net.backward(dy)

    def loss(x=x, **changed):
        fresh = small_network()
        fresh.load_state_dict(state | changed)
        return np.sum(dy * fresh(x))

    assert_gradient(dx, loss, x)
    for name, parameter in net.parameters().items():
        assert_gradient(
            net.gradients()[name], lambda value, name=name: loss(**{name: value}), parameter
        )


def test_names_count_the_layers():
    net = small_network()
    names = ["0.weight", "1.gamma", "1.beta", "3.0.weight", "3.0.bias"]
    assert list(net.parameters()) == list(net.gradients()) == names
    assert list(net.buffers()) == ["1.running_mean", "1.running_var", "1.num_batches_tracked"]
    assert net.parameters()["0.weight"] is net[0].weight


def test_train_and_eval_reach_every_layer():
    net = small_network()
    assert net.eval() is net
    assert not any(layer.training for layer in (*net, *net[3]))
    net.train()
    assert all(layer.training for layer in (*net, *net[3]))


def test_is_a_sequence_of_its_layers():
    net = small_network()
    assert len(net) == 4
    assert list(net) == [net[0], net[1], net[2], net[3]]
    assert isinstance(net[-1], Sequential)
    assert repr(Sequential(Flatten(), Activation("relu"))) == (
        "Sequential(Flatten(), Activation('relu'))"
    )


def test_a_residual_goes_to_the_last_layer(rng):
    block = Sequential(
        Dense(3, 3, bias=False, dtype=np.float64, rng=0),
        BatchNorm(3, activation="relu", dtype=np.float64),
    )
    x, dy = rng.standard_normal((2, 5, 3))
    y, context = block.forward(x, residual=x)
    dx, dresidual = block.backward(dy, context)
    assert_gradient(dx + dresidual, lambda x: np.sum(dy * block.forward(x, residual=x)[0]), x)
    plain, context = block.forward(x)
    assert not np.array_equal(plain, y)
    assert block.backward(dy, context).shape == x.shape


# --- weights of samples and places ------------------------------------------------------------


def residual_network():
    """Convolutions, a residual block, and dense layers; every kind of batch norm."""
    conv = {"padding": 1, "dtype": np.float64, "rng": 0}
    return Sequential(
        Conv2dBatchNorm(2, 3, 3, activation="silu", **conv),
        Sequential(Conv2d(3, 3, 3, **conv), BatchNorm(3, activation="silu", dtype=np.float64)),
        Conv2d(3, 2, 3, stride=2, **conv),
        Flatten(),
        Sequential(
            DenseBatchNorm(8, 4, activation="mish", dtype=np.float64, rng=0),
            Activation("silu"),
            Dense(4, 2, dtype=np.float64, rng=0),
        ),
    )


def test_samples_that_weigh_nothing_are_not_there(rng):
    net, alone = residual_network(), residual_network()
    x = rng.standard_normal((6, 2, 4, 4))
    counts = np.array([True, False, True, True, False, True])
    np.testing.assert_allclose(
        net(x, sample_weight=counts)[counts], alone(x[counts]), rtol=1e-10, atol=1e-12
    )
    dy = rng.standard_normal((6, 2)) * counts[:, np.newaxis]
    np.testing.assert_allclose(
        net.backward(dy)[counts], alone.backward(dy[counts]), rtol=1e-10, atol=1e-12
    )
    for name, gradient in alone.gradients().items():
        np.testing.assert_allclose(net.gradients()[name], gradient, rtol=1e-10, atol=1e-11)
    for name, array in alone.buffers().items():
        np.testing.assert_allclose(net.buffers()[name], array, rtol=1e-10, atol=1e-12)


def test_weights_of_samples_are_differentiated(rng):
    net = residual_network()
    x, weights = rng.standard_normal((4, 2, 4, 4)), rng.uniform(0.5, 2.0, 4)
    dy = rng.standard_normal(net(x, sample_weight=weights).shape)
    assert_gradient(
        net.backward(dy), lambda x: np.sum(dy * residual_network()(x, sample_weight=weights)), x
    )


def test_weights_of_places_go_to_every_batch_norm(rng):
    block = residual_network()[1]
    x, dy = rng.standard_normal((2, 4, 3, 5, 5))
    weights = rng.uniform(0.5, 2.0, (4, 1, 5, 5))
    y = block(x, residual=x, sample_weight=weights)
    dx, dresidual = block.backward(dy)
    conv, norm = residual_network()[1]
    z = conv(x)
    np.testing.assert_array_equal(y, norm(z, x, sample_weight=weights))
    dz, expected = norm.backward(dy)
    np.testing.assert_array_equal(dresidual, expected)
    np.testing.assert_array_equal(dx, conv.backward(dz))


def test_each_layer_can_have_weights_of_its_own(rng):
    net, x = residual_network(), rng.standard_normal((4, 2, 4, 4))
    pixels, samples = rng.uniform(0.5, 2.0, (4, 1, 4, 4)), rng.uniform(0.5, 2.0, 4)
    y = net(x, sample_weight=[pixels, [None, samples], None, None, [samples, None, None]])
    first, block, *front, last = residual_network()
    z = block[1](
        block[0](first(x, sample_weight=pixels)), sample_weight=samples.reshape(4, 1, 1, 1)
    )
    for layer in front:
        z = layer(z)
    z = last[0](z, sample_weight=samples.reshape(4, 1))
    np.testing.assert_array_equal(y, last[2](last[1](z)))


def test_in_inference_weights_have_no_effect_but_on_statistics_of_batches(rng):
    x, weights = rng.standard_normal((4, 3)), np.array([1.0, 0.0, 2.0, 1.0])
    net = Sequential(
        Sequential(BatchNorm(3, dtype=np.float64)),
        DenseBatchNorm(3, 2, track_running_stats=False, dtype=np.float64, rng=0),
    ).eval()
    (norm,), dense = net
    expected = dense.forward(norm(x), sample_weight=weights[:, np.newaxis])[0]
    np.testing.assert_array_equal(net(x, sample_weight=weights), expected)
    with pytest.raises(ValueError, match="in inference a call keeps none"):
        net.backward(x)


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (np.ones(3), ValueError, r"sample_weight is .* \(3, 1, 1, 1\); expected .* \(4, 1, 4, 4\)"),
        (
            np.ones((4, 1, 4, 4)),
            ValueError,
            r"dense_batch_norm_forward: sample_weight is .* \(4, 1\)",
        ),
        ([None], ValueError, r"Sequential\.forward: sample_weight is .*; expected .* 5 entries"),
        (
            [None, None, np.ones(4), None, None],
            TypeError,
            r"Sequential\.forward: sample_weight\[2\] is .*; expected None: Conv2d takes none",
        ),
        ("yes", TypeError, r"sample_weight is 'yes'"),
    ],
)
def test_weights_that_do_not_fit_are_refused(rng, weights, error, message):
    with pytest.raises(error, match=message):
        residual_network()(rng.standard_normal((4, 2, 4, 4)), sample_weight=weights)


def test_a_layer_that_cannot_weigh_says_so(rng):
    pair = Compensated(
        Dense(3, 4, dtype=np.float64), CrossIterationBatchNorm(4, window=2, dtype=np.float64)
    )
    x = rng.standard_normal((4, 3))
    for net in (pair, pair.eval()):
        with pytest.raises(TypeError, match=r"Compensated\.forward: sample_weight is .* None"):
            Sequential(net)(x, sample_weight=np.ones(4))


# --- state and kinds --------------------------------------------------------------------------


def test_a_load_that_fails_in_the_last_layer_changes_none():
    net, state = small_network(), small_network(seed=1).state_dict()
    before = net.state_dict()
    with pytest.raises(ValueError, match=r"Sequential\.load_state_dict: 3\.0\.bias is .*\(5,\)"):
        net.load_state_dict(state | {"3.0.bias": np.ones(5)})
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    net.load_state_dict(state)
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, state[name])


def test_refuses_what_is_no_layer():
    with pytest.raises(ValueError, match=r"Sequential: layers is \(\); expected one layer or more"):
        Sequential()
    with pytest.raises(TypeError, match=r"Sequential: layers\[1\] is .*; expected a Layer"):
        Sequential(Flatten(), np.maximum)


# --- folding --------------------------------------------------------------------------------


def trained(rng, shape, *layers):
    """Layers that have seen a batch, no array of which is as it began; in inference."""
    net = Sequential(*layers)
    for parameter in net.parameters().values():
        parameter[...] = rng.standard_normal(parameter.shape)
    net(rng.standard_normal(shape))
    return net.eval()


def kinds(net):
    return [kinds(layer) if isinstance(layer, Sequential) else type(layer) for layer in net]


def assert_same_inference(rng, shape, net, folded):
    x = rng.standard_normal(shape)
    assert not any(layer.training for layer in (folded, *folded))
    np.testing.assert_allclose(folded(x), net(x), rtol=1e-11, atol=1e-11)


def test_folds_every_batch_norm(rng):
    shape = 3, 2, 4, 4
    net = trained(
        rng,
        shape,
        Conv2d(2, 3, 3, padding=1, stride=2, dtype=np.float64, rng=0),
        BatchNorm(3, activation="silu", dtype=np.float64),
        Conv2dBatchNorm(3, 4, 1, activation="silu", dtype=np.float64, rng=0),
        Flatten(),
        Sequential(
            DenseBatchNorm(16, 6, dtype=np.float64, rng=0),
            Dense(6, 5, bias=False, dtype=np.float64, rng=0),
            BatchNorm(5, dtype=np.float64),
        ),
    )
    folded = net.fold()
    assert kinds(folded) == [
        Conv2d, Activation, [Conv2d, Activation], Flatten, [Dense, Dense],
    ]  # fmt: skip
    assert folded.buffers() == {}
    assert_same_inference(rng, shape, net, folded)


@pytest.mark.parametrize(
    ("shape", "axis", "normalization"),
    [
        ((3, 2, 4, 4), 1, BatchNorm(3, axis=-3, dtype=np.float64)),
        ((3, 2, 4, 4), 1, BatchNorm((3,), axis=(1,), dtype=np.float64)),
        ((3, 4, 4, 2), -1, BatchNorm(3, axis=3, dtype=np.float64)),
    ],
    ids=str,
)
def test_folds_along_the_axis_of_the_channels(rng, shape, axis, normalization):
    conv = Conv2d(2, 3, 3, axis=axis, dtype=np.float64, rng=0)
    net = trained(rng, shape, conv, normalization)
    folded = net.fold()
    assert kinds(folded) == [Conv2d]
    assert_same_inference(rng, shape, net, folded)


@pytest.mark.parametrize(
    ("shape", "layers"),
    [
        (
            (3, 2, 5, 5),
            (Conv2d(2, 3, 3, dtype=np.float64), BatchNorm(3, axis=-1, dtype=np.float64)),
        ),
        (
            (3, 2, 5, 5),
            (
                Conv2d(2, 3, 3, dtype=np.float64),
                BatchNorm((3, 3, 3), axis=(1, 2, 3), dtype=np.float64),
            ),
        ),
        ((3, 2, 4), (Dense(4, 3, dtype=np.float64), BatchNorm(2, axis=1, dtype=np.float64))),
        (
            (3, 4),
            (
                Dense(4, 3, dtype=np.float64),
                Activation("silu"),
                BatchNorm(3, dtype=np.float64),
            ),
        ),
        ((3, 4), (BatchNorm(4, dtype=np.float64), Dense(4, 3, dtype=np.float64))),
    ],
    ids=["another axis", "every pixel", "other features", "after an activation", "before"],
)
def test_leaves_a_batch_norm_of_something_else(rng, shape, layers):
    net = trained(rng, shape, *layers)
    folded = net.fold()
    assert kinds(folded) == kinds(net)
    assert_same_inference(rng, shape, net, folded)


def test_a_residual_still_goes_to_the_last_layer(rng):
    net = trained(
        rng,
        (5, 3),
        Dense(3, 3, dtype=np.float64, rng=0),
        BatchNorm(3, activation="silu", dtype=np.float64),
    )
    x, residual = rng.standard_normal((2, 5, 3))
    np.testing.assert_allclose(net.fold()(x, residual), net(x, residual), rtol=1e-12, atol=1e-12)


def test_a_batch_norm_without_running_statistics_cannot_be_folded():
    net = Sequential(Dense(3, 4), BatchNorm(4, track_running_stats=False))
    with pytest.raises(ValueError, match=r"BatchNorm\.fold: running_mean is None; expected"):
        net.fold()
