"""BatchNorm: running statistics by hand, training and inference, gradients, arguments."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm import reference
from nbnorm.functional.batch_norm import batch_norm_backward, batch_norm_forward
from nbnorm.layers import BatchNorm
from tests.cases.finite_differences import assert_gradient

# Two channels of m = 4 values: mean 5 and -1; squared deviations add up to 20 and 4.
BATCH = np.array([[2.0, -2.0], [4.0, 0.0], [6.0, -2.0], [8.0, 0.0]])
MEAN = np.array([5.0, -1.0])
SQUARES = np.array([20.0, 4.0])


def test_starts_as_the_identity_of_a_normalized_batch():
    layer = BatchNorm(2)
    np.testing.assert_array_equal(layer.gamma, 1)
    np.testing.assert_array_equal(layer.beta, 0)
    np.testing.assert_array_equal(layer.running_mean, 0)
    np.testing.assert_array_equal(layer.running_var, 1)
    assert layer.num_batches_tracked == 0
    assert layer.gamma.dtype == layer.beta.dtype == np.float32
    assert layer.running_mean.dtype == layer.running_var.dtype == np.float64


# --- running statistics ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("running_var", "divisor"), [("unbiased", 3), ("biased", 4)], ids=["unbiased", "biased"]
)
@pytest.mark.parametrize("ddof", [0, 1])
def test_running_statistics_by_hand(running_var, divisor, ddof):
    layer = BatchNorm(2, momentum=0.25, running_var=running_var, ddof=ddof)
    layer(BATCH)
    np.testing.assert_allclose(layer.running_mean, 0.25 * MEAN, rtol=1e-15)
    np.testing.assert_allclose(layer.running_var, 0.75 + 0.25 * SQUARES / divisor, rtol=1e-15)
    layer(BATCH + 1)
    np.testing.assert_allclose(
        layer.running_mean, 0.75 * (0.25 * MEAN) + 0.25 * (MEAN + 1), rtol=1e-15
    )
    np.testing.assert_allclose(
        layer.running_var,
        0.75 * (0.75 + 0.25 * SQUARES / divisor) + 0.25 * SQUARES / divisor,
        rtol=1e-15,
    )
    assert layer.num_batches_tracked == 2


def test_without_momentum_they_are_the_mean_over_batches():
    layer = BatchNorm(2, momentum=None)
    for shift, scale in [(0, 1), (3, 2), (-9, 3)]:
        layer(scale * BATCH + shift)
    np.testing.assert_allclose(layer.running_mean, 2 * MEAN - 2, rtol=1e-14)
    np.testing.assert_allclose(layer.running_var, SQUARES / 3 * (1 + 4 + 9) / 3, rtol=1e-14)


def test_momentum_one_keeps_the_last_batch_alone():
    layer = BatchNorm(2, momentum=1)
    layer(100 * BATCH)
    layer(BATCH)
    np.testing.assert_array_equal(layer.running_mean, MEAN)
    np.testing.assert_allclose(layer.running_var, SQUARES / 3, rtol=1e-15)


def test_forward_with_a_context_of_ones_own_tracks_too():
    layer = BatchNorm(2)
    layer.forward(BATCH)
    assert layer.num_batches_tracked == 1


def test_inference_leaves_them_alone():
    layer = BatchNorm(2).eval()
    before = layer.state_dict()
    layer(BATCH)
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_batch_that_is_refused_leaves_them_alone():
    layer = BatchNorm(2)
    for bad in (BATCH[:1], BATCH[:0], BATCH.astype(int), np.ones((4, 3))):
        with pytest.raises((ValueError, TypeError), match=r"batch_norm_forward|BatchNorm\.forward"):
            layer(bad)
    assert layer.num_batches_tracked == 0
    np.testing.assert_array_equal(layer.running_mean, 0)


# --- training and inference -----------------------------------------------------------------


def test_training_is_the_function(rng):
    layer = BatchNorm(3, eps=1e-3, ddof=1, activation="silu", dtype=np.float64)
    layer.gamma[:], layer.beta[:] = rng.standard_normal((2, 3))
    x, residual, dy = rng.standard_normal((3, 5, 3, 4))
    options = {"eps": 1e-3, "ddof": 1, "activation": "silu", "residual": residual}
    y, context = batch_norm_forward(x, layer.gamma, layer.beta, **options)
    np.testing.assert_array_equal(layer(x, residual), y)

    expected = batch_norm_backward(dy, context)
    dx, dresidual = layer.backward(dy)
    np.testing.assert_array_equal(dx, expected.dx)
    np.testing.assert_array_equal(dresidual, expected.dresidual)
    np.testing.assert_array_equal(layer.gradients()["gamma"], expected.dgamma)
    np.testing.assert_array_equal(layer.gradients()["beta"], expected.dbeta)


def test_inference_normalizes_by_the_running_statistics(rng):
    layer = BatchNorm(3, activation="relu", dtype=np.float64)
    layer(rng.standard_normal((5, 3, 4)))
    x = rng.standard_normal((2, 3, 4))
    np.testing.assert_allclose(
        layer.eval()(x),
        reference.batch_norm_inference(
            x, layer.running_mean, layer.running_var, layer.gamma, layer.beta, activation="relu"
        ),
        rtol=1e-13,
        atol=1e-14,
    )


def test_inference_takes_one_value_a_channel_and_none():
    layer = BatchNorm(2).eval()
    assert layer(BATCH[:1]).shape == (1, 2)
    assert layer(BATCH[:0]).shape == (0, 2)


@pytest.mark.parametrize("training", [True, False])
def test_backward_is_the_derivative_of_forward(rng, training):
    """In inference the statistics are constants, and the two gradients differ."""
    layer = BatchNorm(3, momentum=0, dtype=np.float64).train(training)
    layer.running_mean[:] = rng.standard_normal(3)
    layer.running_var[:] = rng.uniform(0.5, 2, 3)
    layer.gamma[:] = rng.standard_normal(3)
    x, dy = rng.standard_normal((2, 5, 3, 2))
    _, context = layer.forward(x)
    dx = layer.backward(dy, context)

    def loss(array, name):
        changed = BatchNorm(3, momentum=0, dtype=np.float64).train(training)
        changed.load_state_dict(layer.state_dict() | ({} if name == "x" else {name: array}))
        return np.sum(dy * changed(array if name == "x" else x))

    assert_gradient(dx, lambda x: loss(x, "x"), x)
    assert_gradient(layer.gradients()["gamma"], lambda g: loss(g, "gamma"), layer.gamma)
    assert_gradient(layer.gradients()["beta"], lambda b: loss(b, "beta"), layer.beta)


def test_the_gradients_of_training_and_inference_differ(rng):
    layer = BatchNorm(3, dtype=np.float64)
    x, dy = rng.standard_normal((2, 5, 3))
    layer(x)
    dx = layer.backward(dy)
    _, context = layer.eval().forward(x)
    frozen = layer.backward(dy, context)
    np.testing.assert_allclose(frozen, dy * layer.gamma / np.sqrt(layer.running_var + layer.eps))
    assert np.abs(dx - frozen).max() > 0.1


def test_a_context_of_inference_outlives_later_training(rng):
    layer = BatchNorm(3, dtype=np.float64).eval()
    x, dy = rng.standard_normal((2, 5, 3))
    _, context = layer.forward(x)
    expected = layer.backward(dy, context)
    dgamma = layer.gradients()["gamma"].copy()
    layer.train()(100 * x + 100)
    layer.zero_grad()
    np.testing.assert_array_equal(layer.backward(dy, context), expected)
    np.testing.assert_array_equal(layer.gradients()["gamma"], dgamma)


# --- what can be left out -------------------------------------------------------------------


def test_without_affine_there_are_no_parameters(rng):
    layer = BatchNorm(3, affine=False)
    x, dy = rng.standard_normal((2, 5, 3))
    y, context = batch_norm_forward(x)
    np.testing.assert_array_equal(layer(x), y)
    np.testing.assert_array_equal(layer.backward(dy), batch_norm_backward(dy, context).dx)
    assert layer.gamma is None
    assert layer.beta is None
    assert layer.parameters() == layer.gradients() == {}
    assert list(layer.state_dict()) == ["running_mean", "running_var", "num_batches_tracked"]


def test_without_running_statistics_inference_takes_the_batchs(rng):
    layer = BatchNorm(3, track_running_stats=False)
    x = rng.standard_normal((5, 3))
    np.testing.assert_array_equal(layer.train()(x), layer.eval()(x))
    assert layer.running_mean is None
    assert layer.buffers() == {}
    assert list(layer.state_dict()) == ["gamma", "beta"]


# --- axes and types -------------------------------------------------------------------------


def test_channels_last(rng):
    x = rng.standard_normal((2, 4, 5, 3))
    last, first = BatchNorm(3, axis=-1), BatchNorm(3)
    y = np.moveaxis(first(np.ascontiguousarray(np.moveaxis(x, -1, 1))), 1, -1)
    np.testing.assert_allclose(last(x), y, rtol=0, atol=1e-14)
    np.testing.assert_allclose(last.running_var, first.running_var, rtol=1e-14)


def test_statistics_of_every_pixel(rng):
    layer = BatchNorm((3, 4, 5), axis=(1, 2, 3), momentum=1)
    x = rng.standard_normal((6, 3, 4, 5))
    layer(x)
    assert layer.gamma.shape == layer.running_mean.shape == (3, 4, 5)
    np.testing.assert_allclose(layer.running_mean, x.mean(axis=0), rtol=0, atol=1e-15)
    np.testing.assert_allclose(layer.running_var, x.var(axis=0, ddof=1), rtol=1e-13)


@pytest.mark.parametrize("parameters", [np.float32, np.float64])
@pytest.mark.parametrize("data", [np.float32, np.float64])
def test_every_pair_of_types(rng, parameters, data):
    layer = BatchNorm(3, dtype=parameters)
    x = rng.standard_normal((5, 3)).astype(data)
    y = layer(x)
    assert y.dtype == layer.backward(y).dtype == data
    assert layer.gamma.dtype == layer.gradients()["gamma"].dtype == parameters


# --- arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_features": 0}, ValueError, "num_features is 0; expected an int of 1 or more"),
        ({"num_features": 2.0}, TypeError, "num_features is 2.0; expected an int"),
        ({"num_features": (2, 3)}, ValueError, r"num_features is \(2, 3\); expected as many"),
        ({"axis": (1, 2)}, ValueError, r"num_features is 2; expected as many .* axis \(1, 2\)"),
        ({"eps": -1e-5}, ValueError, "eps is -1e-05; expected a finite number, 0 or more"),
        ({"eps": float("nan")}, ValueError, "eps is nan; expected"),
        ({"momentum": 1.5}, ValueError, "momentum is 1.5; expected None or a number from 0 to 1"),
        ({"momentum": "0.1"}, TypeError, "momentum is '0.1'; expected"),
        (
            {"running_var": "sample"},
            ValueError,
            "running_var is 'sample'; expected one of .'unbiased'",
        ),
        ({"ddof": 2}, ValueError, "ddof is 2; expected 0 or 1"),
        ({"activation": "softmax"}, ValueError, "activation is 'softmax'; expected"),
        ({"dtype": np.float16}, TypeError, "dtype is .* expected float32 or float64"),
    ],
)
def test_refuses(arguments, error, message):
    with pytest.raises(error, match=f"BatchNorm: {message}"):
        BatchNorm(**({"num_features": 2} | arguments))


@pytest.mark.parametrize("affine", [True, False])
def test_refuses_another_number_of_features(affine):
    layer = BatchNorm(2, affine=affine)
    with pytest.raises(ValueError, match=r"BatchNorm\.forward: x is .* \(2,\) along axis 1"):
        layer(np.ones((4, 3)))


def test_says_what_it_is():
    assert repr(BatchNorm(2, activation="relu")) == "BatchNorm(2, axis=1, activation='relu')"
    assert repr(BatchNorm((2, 3), axis=(1, 2))).startswith("BatchNorm((2, 3), axis=(1, 2)")


# --- weights of places ----------------------------------------------------------------------


def test_weights_move_the_running_statistics(rng):
    """Those of the values that count, over their number less one."""
    x = rng.normal(2, 3, (8, 3, 5))
    mask = rng.random((8, 1, 5)) < 0.6
    layer = BatchNorm(3, momentum=1.0, dtype=np.float64)
    y = layer(x, sample_weight=mask)
    kept = x.transpose(1, 0, 2)[:, mask[:, 0]]
    np.testing.assert_allclose(layer.running_mean, kept.mean(axis=1), rtol=0, atol=1e-13)
    np.testing.assert_allclose(layer.running_var, kept.var(axis=1, ddof=1), rtol=1e-13)
    dy = rng.normal(size=x.shape)
    specified = reference.batch_norm_backward(dy, x, layer.gamma, layer.beta, sample_weight=mask)
    np.testing.assert_allclose(layer.backward(dy), specified.dx, rtol=0, atol=1e-13)
    np.testing.assert_allclose(layer.gradients()["gamma"], specified.dgamma, rtol=1e-12)
    expected = reference.batch_norm_forward(x, sample_weight=mask)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("total", "above"), [(0.0, 0), (1.0, 1)])
def test_too_little_weight_leaves_the_running_statistics(rng, total, above):
    layer = BatchNorm(3, dtype=np.float64)
    layer(rng.normal(size=(4, 3)))
    before = layer.state_dict()
    with pytest.raises(ValueError, match=rf"sample_weight is .*; expected .* above {above}"):
        layer(rng.normal(size=(4, 3)), sample_weight=np.full((4, 1), total / 4))
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_weights_are_of_no_effect_after_eval(rng):
    layer = BatchNorm(3, dtype=np.float64).eval()
    x = rng.normal(size=(4, 3))
    np.testing.assert_array_equal(layer(x, sample_weight=np.zeros((4, 1))), layer(x))
