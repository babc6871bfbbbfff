"""What every layer does: contexts, gradients that add up, training and inference, saved state."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from nbnorm.layers import (
    Activation,
    BatchNorm,
    Conv2dBatchNorm,
    Dense,
    DenseBatchNorm,
    Flatten,
    GroupNorm,
    InstanceNorm,
    Sequential,
)
from tests.cases.layers import LAYERS


@pytest.fixture(params=LAYERS)
def layer(request):
    return LAYERS[request.param][0]()


@pytest.fixture
def x(request, rng, layer):
    return rng.standard_normal(LAYERS[type(layer).__name__][1])


def test_a_call_is_forward_with_its_context_kept(rng, layer, x):
    y, context = layer.forward(x)
    dy = rng.standard_normal(y.shape)
    dx = layer.backward(dy, context)
    gradients = {name: gradient.copy() for name, gradient in layer.gradients().items()}
    assert dx.shape == x.shape

    layer.zero_grad()
    np.testing.assert_array_equal(layer(x), y)
    np.testing.assert_array_equal(layer.backward(dy), dx)
    for name, gradient in layer.gradients().items():
        np.testing.assert_array_equal(gradient, gradients[name])


def test_a_kept_context_serves_once(layer, x):
    message = rf"{type(layer).__name__}\.backward: context is None; expected a context: call the"
    with pytest.raises(ValueError, match=message):
        layer.backward(x)
    dy = layer(x)
    layer.backward(dy)
    with pytest.raises(ValueError, match=message):
        layer.backward(dy)


def test_a_backward_that_fails_keeps_the_context_and_the_gradients(layer, x):
    dy = layer(x)
    with pytest.raises(ValueError, match=r"dy is .* expected shape"):
        layer.backward(dy[:-1])
    assert not any(gradient.any() for gradient in layer.gradients().values())
    layer.backward(dy)


def test_a_context_of_ones_own_serves_any_number_of_times(rng, layer, x):
    _, first = layer.forward(x)
    y, _ = layer.forward(x + 1)
    dy = rng.standard_normal(y.shape)
    dx = layer.backward(dy, first)
    np.testing.assert_array_equal(layer.backward(dy, first), dx)


def test_a_context_of_another_layer_is_refused(layer, x):
    dy = layer(x)
    other = Flatten() if not isinstance(layer, Flatten) else Dense(3, 4)
    _, context = other.forward(np.ones((5, 3), np.float32))
    with pytest.raises(TypeError, match=r"backward: context is .* expected a \w+Context"):
        layer.backward(dy, context)


@pytest.mark.parametrize(
    "name", ["BatchNorm", "Conv2d", "Conv2dBatchNorm", "Dense", "DenseBatchNorm", "Sequential"]
)
def test_a_context_of_its_twin_is_refused(rng, name):
    make, shape = LAYERS[name]
    layer, twin = make(), make()
    dy, context = twin.forward(rng.standard_normal(shape))
    with pytest.raises(ValueError, match="context is another layer's; expected one of this layer"):
        layer.backward(dy, context)
    assert not any(gradient.any() for gradient in layer.gradients().values())


def test_gradients_are_live_and_add_up(rng, layer, x):
    dy = rng.standard_normal(layer(x).shape)
    layer.backward(dy)
    gradients = layer.gradients()
    once = {name: gradient.copy() for name, gradient in gradients.items()}
    _, context = layer.forward(x)
    layer.backward(dy, context)
    for name, gradient in once.items():
        np.testing.assert_allclose(gradients[name], 2 * gradient)
    layer.zero_grad()
    assert not any(gradient.any() for gradient in gradients.values())


def test_parameters_and_gradients_have_the_same_names_shapes_and_types(layer):
    parameters, gradients = layer.parameters(), layer.gradients()
    assert list(parameters) == list(gradients)
    for name, parameter in parameters.items():
        assert gradients[name].shape == parameter.shape
        assert gradients[name].dtype == parameter.dtype


def test_parameters_are_live(layer, x):
    if not layer.parameters():
        return
    before = layer(x)
    for parameter in layer.parameters().values():
        parameter[...] += 1
    assert not np.array_equal(layer(x), before)


def test_train_and_eval_return_the_layer(layer):
    assert layer.training
    assert layer.eval() is layer
    assert not layer.training
    assert layer.train() is layer
    assert layer.training


def test_state_dict_holds_copies(layer, x):
    layer(x)
    state = layer.state_dict()
    assert list(state) == [*layer.parameters(), *layer.buffers()]
    for array in state.values():
        array[...] = 7
    for array in layer.state_dict().values():
        assert not np.any(array == 7)


def test_a_state_goes_through_a_file_into_another_layer(rng, layer, x, tmp_path):
    other = copy.deepcopy(layer)
    for array in layer.parameters().values():
        array[...] = rng.standard_normal(array.shape)
    layer(x)
    np.savez(tmp_path / "state.npz", **layer.state_dict())
    with np.load(tmp_path / "state.npz") as state:
        other.load_state_dict(state)
    np.testing.assert_array_equal(other.eval()(x), layer.eval()(x))
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[name], array)


def test_only_normalization_takes_a_residual(layer, x):
    normalizing = (BatchNorm, Conv2dBatchNorm, DenseBatchNorm, GroupNorm, InstanceNorm)
    takers = (Activation, *normalizing, Sequential)
    if isinstance(layer, takers):
        return
    with pytest.raises(TypeError, match=r"\w+\.forward: residual is .* expected None"):
        layer(x, residual=x)


def test_what_is_folded_equals_the_layer_after_eval(rng, layer, x):
    for parameter in layer.parameters().values():
        parameter[...] = rng.standard_normal(parameter.shape)
    layer(x)
    folded = layer.fold()
    assert layer.training
    assert not folded.training
    y = folded(x)
    np.testing.assert_allclose(y, layer.eval()(x), rtol=1e-12, atol=1e-12)
    for array in (*layer.parameters().values(), *layer.buffers().values()):
        array[...] += 1
    layer.train()
    np.testing.assert_array_equal(folded(x), y)
    assert not folded.training


def test_folding_takes_no_gradients_along(rng, layer, x):
    dy = rng.standard_normal(layer(x).shape)
    layer.backward(dy)
    layer(x)
    folded = layer.fold()
    assert not any(gradient.any() for gradient in folded.gradients().values())
    with pytest.raises(ValueError, match="context is None"):
        folded.backward(dy)


def loading():
    return BatchNorm(3), {
        "gamma": np.full(3, 2.0),
        "beta": np.full(3, 3.0),
        "running_mean": np.full(3, 4.0),
        "running_var": np.full(3, 5.0),
        "num_batches_tracked": 6,
    }


def test_loading_converts_what_converts():
    layer, state = loading()
    gamma = layer.gamma
    layer.load_state_dict(state)
    assert layer.gamma is gamma  # written in place: an optimizer's view stays valid
    assert gamma.dtype == np.float32
    np.testing.assert_array_equal(gamma, 2)
    np.testing.assert_array_equal(layer.running_var, 5)
    assert layer.num_batches_tracked == 6


def test_loading_ones_own_arrays_under_other_names():
    layer, state = loading()
    layer.load_state_dict(state)
    layer.load_state_dict(state | {"gamma": layer.beta, "beta": layer.gamma})
    np.testing.assert_array_equal(layer.gamma, 3)
    np.testing.assert_array_equal(layer.beta, 2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda s: s.pop("num_batches_tracked"), ValueError, r"lacks \['num_batches_tracked'\]"),
        (lambda s: s.update(weight=np.ones(3)), ValueError, r"unknown \['weight'\]"),
        (
            lambda s: s.update(running_var=np.ones(4)),
            ValueError,
            r"running_var is .*\(4,\)",
        ),
        (lambda s: s.update(running_var=np.ones((1, 3))), ValueError, r"running_var is .*\(1, 3\)"),
        (
            lambda s: s.update(running_var=np.ones(3, complex)),
            TypeError,
            "running_var is .*float64",
        ),
        (lambda s: s.update(running_var=["a"] * 3), TypeError, "running_var is .*float64"),
        (lambda s: s.update(num_batches_tracked=1.5), TypeError, "num_batches_tracked is .*int64"),
    ],
)
def test_a_load_that_fails_changes_nothing(change, error, message):
    layer, state = loading()
    before = layer.state_dict()
    change(state)
    with pytest.raises(error, match=rf"BatchNorm\.load_state_dict: .*{message}"):
        layer.load_state_dict(state)
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_state_that_is_no_mapping_is_refused():
    with pytest.raises(TypeError, match=r"state is .* expected a mapping"):
        Dense(1, 1).load_state_dict([1.0])
