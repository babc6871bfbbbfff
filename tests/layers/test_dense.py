"""Dense: the reference with parameters of its own."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nbnorm import reference
from nbnorm.layers import Dense


@pytest.mark.parametrize("bias", [True, False])
def test_is_the_reference(rng, bias):
    layer = Dense(3, 4, bias=bias, dtype=np.float64, rng=rng)
    x, dy = rng.standard_normal((5, 2, 3)), rng.standard_normal((5, 2, 4))
    np.testing.assert_allclose(layer(x), reference.dense_forward(x, layer.weight, layer.bias))
    dx = layer.backward(dy)
    expected = reference.dense_backward(dy, x, layer.weight)
    np.testing.assert_allclose(dx, expected.dx)
    np.testing.assert_allclose(layer.gradients()["weight"], expected.dweight)
    assert list(layer.gradients()) == (["weight", "bias"] if bias else ["weight"])
    if bias:
        np.testing.assert_allclose(layer.gradients()["bias"], expected.dbias)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_starts_uniform_within_one_over_the_root_of_its_inputs(dtype):
    layer = Dense(400, 300, dtype=dtype, rng=0)
    bound = 1 / math.sqrt(400)
    for parameter in (layer.weight, layer.bias):
        assert parameter.dtype == dtype
        assert np.abs(parameter).max() <= bound
    np.testing.assert_allclose(layer.weight.std(), bound / math.sqrt(3), rtol=0.01)
    np.testing.assert_allclose(layer.weight.mean(), 0, atol=bound / 100)


def test_a_seed_or_a_generator_fixes_the_start():
    from_seed, again, other = Dense(3, 4, rng=1), Dense(3, 4, rng=1), Dense(3, 4, rng=2)
    np.testing.assert_array_equal(from_seed.weight, again.weight)
    assert not np.array_equal(from_seed.weight, other.weight)
    generator = np.random.default_rng(1)
    np.testing.assert_array_equal(Dense(3, 4, rng=generator).weight, from_seed.weight)
    assert not np.array_equal(Dense(3, 4, rng=generator).weight, from_seed.weight)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((0, 4), {}, ValueError, "in_features is 0; expected an int of 1 or more"),
        ((3, 4.0), {}, TypeError, "out_features is 4.0; expected an int"),
        ((3, 4), {"dtype": int}, TypeError, "dtype is .* expected float32 or float64"),
    ],
)
def test_refuses(arguments, options, error, message):
    with pytest.raises(error, match=f"Dense: {message}"):
        Dense(*arguments, **options)


def test_says_what_it_is():
    assert repr(Dense(3, 4, bias=False)) == "Dense(3, 4, bias=False)"
