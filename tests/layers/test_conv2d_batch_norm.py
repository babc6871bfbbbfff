"""Conv2dBatchNorm: a Conv2d and a BatchNorm in one, and folded into one Conv2d."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm.layers import Activation, BatchNorm, Conv2d, Conv2dBatchNorm, Sequential
from tests.cases.finite_differences import assert_gradient

GEOMETRIES = [
    {},
    {"stride": 2, "padding": (1, 0), "groups": 2},
    {"padding": "same", "dilation": 2, "stride": (1, 2), "axis": -1},
]
OPTIONS = [
    {"bias": True, "momentum": 0.3, "running_var": "biased"},
    {"momentum": None, "ddof": 1, "eps": 0.1},
    {"affine": False, "track_running_stats": False},
]
TOLERANCE = {"rtol": 1e-11, "atol": 1e-11}


def image(rng, axis=1):
    return np.moveaxis(rng.standard_normal((2, 4, 7, 6)), 1, axis)


def assert_same_arrays(ours, theirs):
    """`theirs` are a Sequential's, whose names count its layers."""
    theirs = {name.split(".")[-1]: array for name, array in theirs.items()}
    assert list(ours) == list(theirs)
    for name, array in ours.items():
        np.testing.assert_allclose(array, theirs[name], **TOLERANCE, err_msg=name)


@pytest.mark.parametrize(
    ("geometry", "options"), list(zip(GEOMETRIES, OPTIONS, strict=True)), ids=str
)
def test_is_a_convolution_and_then_batch_norm(rng, geometry, options):
    layer = Conv2dBatchNorm(4, 6, (3, 2), **geometry, **options, dtype=np.float64, rng=0)
    others = {name: value for name, value in options.items() if name != "bias"}
    bias, axis = options.get("bias", False), geometry.get("axis", 1)
    parts = Sequential(
        Conv2d(4, 6, (3, 2), **geometry, bias=bias, dtype=np.float64, rng=0),
        BatchNorm(6, axis=axis, **others, dtype=np.float64),
    )
    assert_same_arrays(layer.parameters(), parts.parameters())
    for training in (True, True, False):
        layer.train(training)
        parts.train(training)
        x = image(rng, axis)
        y, context = layer.forward(x)
        z, contexts = parts.forward(x)
        dy = rng.standard_normal(y.shape)
        np.testing.assert_allclose(y, z, **TOLERANCE)
        dx = layer.backward(dy, context)
        np.testing.assert_allclose(dx, parts.backward(dy, contexts), **TOLERANCE)
        assert_same_arrays(layer.gradients(), parts.gradients())
        assert_same_arrays(layer.buffers(), parts.buffers())


@pytest.mark.parametrize("training", [True, False])
def test_backward_is_the_derivative_of_forward(rng, training):
    """In inference the statistics are constants, and the two gradients differ."""
    options = {"padding": 1, "stride": 2, "momentum": 0, "eps": 1, "dtype": np.float64}
    layer = Conv2dBatchNorm(2, 3, 3, **options, rng=0)
    layer.running_mean[:] = rng.standard_normal(3)
    layer.running_var[:] = rng.uniform(0.5, 2, 3)
    layer.train(training)
    x = rng.standard_normal((2, 2, 5, 4))
    dy, residual = rng.standard_normal((2, 2, 3, 3, 2))
    _, context = layer.forward(x, residual)
    dx, dresidual = layer.backward(dy, context)

    def loss(x=x, residual=residual, **changed):
        fresh = Conv2dBatchNorm(2, 3, 3, **options)
        fresh.load_state_dict(layer.state_dict() | changed)
        return np.sum(dy * fresh.train(training)(x, residual))

    assert_gradient(dx, lambda x: loss(x=x), x)
    assert_gradient(dresidual, lambda residual: loss(residual=residual), residual)
    for name, parameter in layer.parameters().items():
        assert_gradient(
            layer.gradients()[name], lambda value, name=name: loss(**{name: value}), parameter
        )


def test_a_batch_that_is_refused_leaves_the_running_statistics_alone(rng):
    layer = Conv2dBatchNorm(4, 6, 3, dtype=np.float64, rng=0)
    x = image(rng)
    for bad in (x[:1, :, :3, :3], x[:0], x.astype(np.float32), x[:, :2], x[:, :, :2]):
        with pytest.raises((ValueError, TypeError), match=r"conv2d_batch_norm_forward: \w+ is"):
            layer(bad)
    assert layer.num_batches_tracked == 0
    np.testing.assert_array_equal(layer.running_mean, 0)


def test_inference_takes_one_value_a_channel_and_none(rng):
    layer = Conv2dBatchNorm(4, 6, 3, dtype=np.float64, rng=0).eval()
    x = image(rng)
    assert layer(x[:1, :, :3, :3]).shape == (1, 6, 1, 1)
    assert layer(x[:0]).shape == (0, 6, 5, 4)


def test_starts_as_the_convolution_does():
    layer, conv = (
        Conv2dBatchNorm(4, 6, 3, groups=2, bias=True, rng=1),
        Conv2d(4, 6, 3, groups=2, rng=1),
    )
    np.testing.assert_array_equal(layer.weight, conv.weight)
    np.testing.assert_array_equal(layer.bias, conv.bias)
    assert list(Conv2dBatchNorm(4, 6, 3).parameters()) == ["weight", "gamma", "beta"]


# --- folding --------------------------------------------------------------------------------


def trained(rng, **options):
    """A layer that no array of which is as it began, in inference."""
    layer = Conv2dBatchNorm(4, 6, (3, 2), **options, dtype=np.float64, rng=0)
    for parameter in layer.parameters().values():
        parameter[...] = rng.standard_normal(parameter.shape)
    layer(image(rng, options.get("axis", 1)))
    return layer.eval()


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_folds_into_a_convolution(rng, geometry, bias):
    layer = trained(rng, **geometry, bias=bias)
    x = image(rng, geometry.get("axis", 1))
    folded = layer.fold()
    assert isinstance(folded, Conv2d)
    assert not folded.training
    assert folded.options == layer.options
    np.testing.assert_allclose(folded(x), layer(x), **TOLERANCE)


def test_folds_into_a_convolution_and_its_activation(rng):
    layer = trained(rng, activation="relu", padding="same")
    x, residual = image(rng), rng.standard_normal((2, 6, 7, 6))
    folded = layer.fold()
    assert [type(part) for part in folded] == [Conv2d, Activation]
    np.testing.assert_allclose(folded(x), layer(x), **TOLERANCE)
    np.testing.assert_allclose(folded(x, residual), layer(x, residual), **TOLERANCE)


def test_without_running_statistics_there_is_nothing_to_fold():
    layer = Conv2dBatchNorm(4, 6, 3, track_running_stats=False)
    message = r"Conv2dBatchNorm\.fold: running_mean is None; expected .*track_running_stats=True"
    with pytest.raises(ValueError, match=message):
        layer.fold()


# --- arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"in_channels": 0}, ValueError, "in_channels is 0; expected an int of 1 or more"),
        ({"kernel_size": (3, 0)}, ValueError, "kernel_size is 0; expected an int of 1 or more"),
        ({"groups": 4}, ValueError, "groups is 4; expected a divisor of .*out_channels"),
        ({"eps": -1e-5}, ValueError, "eps is -1e-05; expected a finite number, 0 or more"),
        ({"momentum": "0.1"}, TypeError, "momentum is '0.1'; expected None or a number"),
        ({"activation": "softmax"}, ValueError, "activation is 'softmax'; expected"),
        ({"dtype": "int32"}, TypeError, "dtype is .* expected float32 or float64"),
    ],
)
def test_refuses(arguments, error, message):
    plain = {"in_channels": 4, "out_channels": 6, "kernel_size": 3}
    with pytest.raises(error, match=f"Conv2dBatchNorm: {message}"):
        Conv2dBatchNorm(**plain | arguments)


def test_says_what_it_is():
    assert repr(Conv2dBatchNorm(4, 6, 3, groups=2, activation="relu")) == (
        "Conv2dBatchNorm(4, 6, (3, 3), bias=False, stride=1, padding=0, dilation=1, groups=2, "
        "axis=1, activation='relu')"
    )
