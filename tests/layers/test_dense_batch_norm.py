"""DenseBatchNorm: a Dense and a BatchNorm in one, and folded into one Dense."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm.layers import Activation, BatchNorm, Dense, DenseBatchNorm, Sequential
from tests.cases.finite_differences import assert_gradient

OPTIONS = [
    {"bias": True, "momentum": 0.3, "running_var": "biased"},
    {"momentum": None, "ddof": 1, "eps": 0.1},
    {"affine": False, "momentum": 1},
    {"track_running_stats": False},
]
TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}


def assert_same_arrays(ours, theirs):
    """`theirs` are a Sequential's, whose names count its layers."""
    theirs = {name.split(".")[-1]: array for name, array in theirs.items()}
    assert list(ours) == list(theirs)
    for name, array in ours.items():
        np.testing.assert_allclose(array, theirs[name], **TOLERANCE, err_msg=name)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_is_dense_and_then_batch_norm(rng, options):
    layer = DenseBatchNorm(3, 4, **options, dtype=np.float64, rng=0)
    others = {name: value for name, value in options.items() if name != "bias"}
    parts = Sequential(
        Dense(3, 4, bias=options.get("bias", False), dtype=np.float64, rng=0),
        BatchNorm(4, axis=-1, **others, dtype=np.float64),
    )
    assert_same_arrays(layer.parameters(), parts.parameters())
    for training in (True, True, False):
        layer.train(training)
        parts.train(training)
        x, dy = rng.standard_normal((5, 2, 3)), rng.standard_normal((5, 2, 4))
        (y, context), (z, contexts) = layer.forward(x), parts.forward(x)
        np.testing.assert_allclose(y, z, **TOLERANCE)
        dx = layer.backward(dy, context)
        np.testing.assert_allclose(dx, parts.backward(dy, contexts), **TOLERANCE)
        assert_same_arrays(layer.gradients(), parts.gradients())
        assert_same_arrays(layer.buffers(), parts.buffers())


@pytest.mark.parametrize("training", [True, False])
def test_backward_is_the_derivative_of_forward(rng, training):
    """In inference the statistics are constants, and the two gradients differ."""
    layer = DenseBatchNorm(3, 4, momentum=0, eps=1, activation="silu", dtype=np.float64, rng=0)
    layer.running_mean[:] = rng.standard_normal(4)
    layer.running_var[:] = rng.uniform(0.5, 2, 4)
    layer.train(training)
    x, (dy, residual) = rng.standard_normal((6, 3)), rng.standard_normal((2, 6, 4))
    _, context = layer.forward(x, residual)
    dx, dresidual = layer.backward(dy, context)

    def loss(x=x, residual=residual, **changed):
        fresh = DenseBatchNorm(3, 4, momentum=0, eps=1, activation="silu", dtype=np.float64)
        fresh.load_state_dict(layer.state_dict() | changed)
        return np.sum(dy * fresh.train(training)(x, residual))

    assert_gradient(dx, lambda x: loss(x=x), x)
    assert_gradient(dresidual, lambda residual: loss(residual=residual), residual)
    for name, parameter in layer.parameters().items():
        assert_gradient(
            layer.gradients()[name], lambda value, name=name: loss(**{name: value}), parameter
        )


def test_a_batch_that_is_refused_leaves_the_running_statistics_alone():
    layer = DenseBatchNorm(3, 4, dtype=np.float64, rng=0)
    x = np.ones((5, 3))
    for bad in (x[:1], x[:0], x.astype(np.float32), x[:, :2]):
        with pytest.raises((ValueError, TypeError), match=r"dense_batch_norm_forward: \w+ is"):
            layer(bad)
    assert layer.num_batches_tracked == 0
    np.testing.assert_array_equal(layer.running_mean, 0)


def test_inference_takes_one_row_and_none():
    layer = DenseBatchNorm(3, 4, dtype=np.float64, rng=0).eval()
    for shape in ((1, 3), (0, 3), (3,)):
        assert layer(np.ones(shape)).shape == (*shape[:-1], 4)


def test_starts_as_dense_and_batch_norm_do():
    layer = DenseBatchNorm(3, 4, bias=True, rng=1)
    dense = Dense(3, 4, rng=1)
    np.testing.assert_array_equal(layer.weight, dense.weight)
    np.testing.assert_array_equal(layer.bias, dense.bias)
    assert list(DenseBatchNorm(3, 4).parameters()) == ["weight", "gamma", "beta"]
    for name, value in BatchNorm(4).state_dict().items():
        np.testing.assert_array_equal(layer.state_dict()[name], value)
        assert layer.state_dict()[name].dtype == value.dtype


# --- folding --------------------------------------------------------------------------------


def trained(rng, **options):
    """A layer that no array of which is as it began, in inference."""
    layer = DenseBatchNorm(3, 4, **options, dtype=np.float64, rng=0)
    for parameter in layer.parameters().values():
        parameter[...] = rng.standard_normal(parameter.shape)
    layer(rng.standard_normal((9, 3)))
    return layer.eval()


@pytest.mark.parametrize("options", [{}, {"bias": True, "eps": 0.1}, {"affine": False}], ids=str)
def test_folds_into_a_dense_layer(rng, options):
    layer = trained(rng, **options)
    x = rng.standard_normal((5, 3))
    folded = layer.fold()
    assert isinstance(folded, Dense)
    assert not folded.training
    np.testing.assert_allclose(folded(x), layer(x), **TOLERANCE)


def test_folds_into_a_dense_layer_and_its_activation(rng):
    layer = trained(rng, activation="silu")
    x, residual = rng.standard_normal((5, 3)), rng.standard_normal((5, 4))
    folded = layer.fold()
    assert [type(part) for part in folded] == [Dense, Activation]
    assert not folded.training
    np.testing.assert_allclose(folded(x), layer(x), **TOLERANCE)
    np.testing.assert_allclose(folded(x, residual), layer(x, residual), **TOLERANCE)


def test_what_is_folded_is_a_layer_of_its_own(rng):
    layer = trained(rng).train()
    before = layer.state_dict()
    folded = layer.fold()
    assert layer.training
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    x = rng.standard_normal((5, 3))
    y = folded(x)
    for parameter in layer.parameters().values():
        parameter[...] += 1
    np.testing.assert_array_equal(folded(x), y)


def test_folding_keeps_the_type(rng):
    folded = DenseBatchNorm(3, 4, rng=0).fold()
    assert folded.weight.dtype == folded.bias.dtype == np.float32


def test_without_running_statistics_there_is_nothing_to_fold():
    layer = DenseBatchNorm(3, 4, track_running_stats=False)
    message = r"DenseBatchNorm\.fold: running_mean is None; expected .*track_running_stats=True"
    with pytest.raises(ValueError, match=message):
        layer.fold()


# --- arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"in_features": 0}, ValueError, "in_features is 0; expected an int of 1 or more"),
        ({"out_features": 4.0}, TypeError, "out_features is 4.0; expected an int"),
        ({"eps": -1e-5}, ValueError, "eps is -1e-05; expected a finite number, 0 or more"),
        ({"momentum": 1.5}, ValueError, "momentum is 1.5; expected None or a number from 0 to 1"),
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
    with pytest.raises(error, match=f"DenseBatchNorm: {message}"):
        DenseBatchNorm(**({"in_features": 3, "out_features": 4} | arguments))


def test_says_what_it_is():
    layer = DenseBatchNorm(3, 4, activation="relu")
    assert repr(layer) == "DenseBatchNorm(3, 4, bias=False, activation='relu')"
