"""What layers hold: in inference nothing, in training each context until its backward is done."""

from __future__ import annotations

import sys
import weakref
from dataclasses import dataclass

import numpy as np
import pytest

from nbnorm.layers import (
    Compensated,
    Conv2d,
    CrossIterationBatchNorm,
    DenseBatchNorm,
    Layer,
    Sequential,
)
from tests.cases.layers import LAYERS

DEPTH = 6


@dataclass
class CopyContext:
    x: np.ndarray


class Copy(Layer):
    """Copies, and counts the arrays and contexts of all that are alive when it is done."""

    _context_type = CopyContext

    def __init__(self, arrays, contexts):
        super().__init__()
        self.arrays, self.contexts = arrays, contexts
        self.alive = 0

    def forward(self, x, residual=None):
        y, context = x.copy(), CopyContext(x)
        self.arrays.append(weakref.ref(y))
        self.contexts.append(weakref.ref(context))
        self.alive = sum(array() is not None for array in self.arrays)
        return y, context

    def _backward(self, dy, context):
        self.alive = sum(one() is not None for one in self.contexts)
        return dy.copy()


def nested(copies):
    first, second, third, *others = copies
    return Sequential(Sequential(first, Sequential(second, third)), Sequential(*others))


@pytest.fixture
def copies():
    arrays, contexts = [], []
    return [Copy(arrays, contexts) for _ in range(DEPTH)]


each_depth = pytest.mark.parametrize("arranged", [lambda copies: Sequential(*copies), nested])


@each_depth
def test_inference_holds_two_arrays_at_any_depth(copies, arranged):
    net = arranged(copies).eval()
    y = net(np.ones(3))
    assert [copy.alive for copy in copies] == [1, *[2] * (DEPTH - 1)]
    assert [array() is not None for array in copies[0].arrays] == [False] * (DEPTH - 1) + [True]
    np.testing.assert_array_equal(y, 1)


@each_depth
def test_what_is_folded_holds_two_arrays_at_any_depth(copies, arranged):
    arranged(copies).fold()(np.ones(3))
    arrays = copies[0].arrays  # of the folded copies too
    assert [array() is not None for array in arrays] == [False] * DEPTH


@each_depth
def test_backward_frees_each_context_when_its_layer_is_done(copies, arranged):
    net = arranged(copies)
    dy = net(np.ones(3))
    assert [copy.alive for copy in copies] == list(range(1, DEPTH + 1))
    net.backward(dy)
    assert [copy.alive for copy in copies] == list(range(1, DEPTH + 1))
    assert not any(context() for context in copies[0].contexts)


@each_depth
def test_a_context_of_ones_own_stays_whole(copies, arranged):
    net = arranged(copies)
    y, context = net.forward(np.ones(3))
    for _ in range(2):
        net.backward(y, context)
        assert [copy.alive for copy in copies] == [DEPTH] * DEPTH


def test_a_backward_that_fails_half_way_leaves_no_context_to_go_on_with(copies):
    net = nested(copies)
    dy = net(np.ones(3))

    def fail(dy, context):
        raise ArithmeticError

    copies[2]._backward = fail
    with pytest.raises(ArithmeticError):
        net.backward(dy)
    with pytest.raises(ValueError, match=r"Sequential\.backward: context is"):
        net.backward(dy)
    del copies[2]._backward
    net.backward(net(np.ones(3)))


# --- each layer -----------------------------------------------------------------------------


def layer_and_input(rng, name):
    make, shape = LAYERS[name]
    return make(), rng.standard_normal(shape)


@pytest.mark.parametrize("name", LAYERS)
def test_a_call_in_inference_keeps_nothing(rng, name):
    layer, x = layer_and_input(rng, name)
    layer(x)  # in training, not followed by a backward
    y = layer.eval()(x)
    expected, context = layer.forward(x)
    np.testing.assert_allclose(y, expected, rtol=1e-13, atol=1e-13)
    del context
    given = weakref.ref(x)
    del x, expected
    dy = y.copy()
    del y  # which may be x itself
    assert given() is None
    with pytest.raises(ValueError, match=r"context is None; .* in inference a call keeps none"):
        layer.backward(dy)


@pytest.mark.parametrize("name", LAYERS)
def test_a_context_of_inference_is_what_forward_is_for(rng, name):
    layer, x = layer_and_input(rng, name)
    y, context = layer.eval().forward(x)
    assert layer.backward(y, context).shape == x.shape


@pytest.mark.parametrize("name", LAYERS)
def test_a_call_in_training_keeps_its_input_until_the_backward(rng, name):
    layer, x = layer_and_input(rng, name)
    dy = layer(x).copy()
    given = weakref.ref(x)
    del x
    held = given() is not None
    assert held == (name != "Flatten")
    layer.backward(dy)
    assert given() is None


@pytest.mark.parametrize("name", ["Conv2dBatchNorm", "DenseBatchNorm"])
def test_inference_makes_no_product_to_be_normalized(rng, name, monkeypatch):
    """Only y: the batch norm is done in the product's own epilogue."""
    layer, x = layer_and_input(rng, name)
    layer.eval()
    module = sys.modules[type(layer).__module__]
    function = next(key for key in vars(module) if key.endswith("_batch_norm_forward"))
    expected, _ = layer.forward(x)
    monkeypatch.delattr(module, function)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-13, atol=1e-13)


def test_inference_by_the_batchs_own_statistics(rng):
    layer = DenseBatchNorm(3, 4, track_running_stats=False, dtype=np.float64, rng=0)
    x = rng.standard_normal((5, 3))
    y = layer(x)
    np.testing.assert_array_equal(layer.eval()(x), y)


def test_a_frozen_layer_in_training_keeps_its_context(rng):
    layer, x = layer_and_input(rng, "BatchNorm")
    dy = layer.freeze()(x)
    assert layer.backward(dy).shape == x.shape


# --- layers of one's own --------------------------------------------------------------------


class Residual(Sequential):
    """x is added to the last layer's y."""

    def forward(self, x, residual=None):
        y, context = super().forward(x)
        return x + y, context

    def _backward(self, dy, context):
        return dy + super()._backward(dy, context)


@pytest.mark.parametrize("wrap", [lambda block: block, Sequential], ids=["alone", "within"])
def test_a_forward_and_a_backward_of_ones_own_are_not_passed_by(rng, wrap):
    make, shape = LAYERS["BatchNorm"]
    net = wrap(Residual(make(), make()))
    x, dy = rng.standard_normal((2, *shape))
    y, context = net.forward(x)
    dx = net.backward(dy, context)
    np.testing.assert_array_equal(net(x), y)
    np.testing.assert_array_equal(net.backward(dy), dx)
    y, _ = net.eval().forward(x)
    np.testing.assert_array_equal(net(x), y)


def test_a_pair_over_several_batches_in_inference(rng):
    pair = Compensated(
        Conv2d(2, 3, 1, dtype=np.float64, rng=0),
        CrossIterationBatchNorm(3, window=2, dtype=np.float64),
    )
    x = rng.standard_normal((2, 2, 3, 3))
    pair(x)
    expected, _ = pair.eval().forward(x)
    np.testing.assert_array_equal(pair(x), expected)
    # A Sequential around it that alone is in inference leaves it in training.
    net = Sequential(pair.train())
    net.training = False
    net(x)
    assert pair[1].num_batches_tracked == 2
