"""GroupNorm and InstanceNorm: the functions as layers."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm import reference
from nbnorm.layers import Dense, GroupNorm, InstanceNorm, Sequential

LAYERS = {
    "group_norm": lambda **options: GroupNorm(4, num_groups=2, **options),
    "instance_norm": lambda **options: InstanceNorm(4, **options),
}
each = pytest.mark.parametrize("name", LAYERS)


def options_of(name, axis):
    return {"axis": axis, "activation": "silu"} | ({"num_groups": 2} if "group" in name else {})


@each
@pytest.mark.parametrize("axis", [1, -1])
def test_training_is_the_reference_and_gradients_add_up(name, axis, rng):
    layer = LAYERS[name](axis=axis, activation="silu", dtype=np.float64)
    layer.gamma[:], layer.beta[:] = rng.uniform(0.5, 1.5, 4), rng.standard_normal(4)
    x, dy, residual = rng.standard_normal((3, 3, 4, 5, 4))
    given = {"x": x, "gamma": layer.gamma, "beta": layer.beta, "residual": residual}
    options = options_of(name, axis)
    wanted = getattr(reference, f"{name}_backward")(dy, **given, **options)
    for times in (1, 2):
        y = layer(x, residual)
        np.testing.assert_allclose(y, getattr(reference, f"{name}_forward")(**given, **options))
        dx, dresidual = layer.backward(dy)
        np.testing.assert_allclose(dx, wanted.dx, atol=1e-13)
        np.testing.assert_allclose(dresidual, wanted.dresidual, atol=1e-13)
        for own in ("gamma", "beta"):
            total = times * getattr(wanted, f"d{own}")
            np.testing.assert_allclose(layer.gradients()[own], total, rtol=1e-12)


@each
def test_inference_is_training(name, rng):
    layer = LAYERS[name](dtype=np.float64)
    x = rng.standard_normal((3, 4, 5))
    trained = layer(x)
    np.testing.assert_array_equal(layer.eval()(x), trained)


@each
def test_without_affine_nothing_is_learned(name, rng):
    layer = LAYERS[name](affine=False, dtype=np.float64)
    x = rng.standard_normal((3, 4, 5))
    layer(x)
    layer.backward(x)
    assert layer.parameters() == layer.gradients() == layer.state_dict() == {}
    with pytest.raises(ValueError, match="expected 4 channels along axis 1"):
        layer(x[:, :2])


def test_in_a_sequential(rng):
    net = Sequential(Dense(3, 8, rng=0), GroupNorm(8, num_groups=2, activation="relu"))
    y = net(rng.standard_normal((5, 3)).astype(np.float32))
    assert net.backward(y).shape == (5, 3)
    assert (net.gradients()["1.gamma"] != 0).any()
    folded = net.fold()
    x = rng.standard_normal((5, 3)).astype(np.float32)
    np.testing.assert_array_equal(folded(x), net.eval()(x))


def test_repr():
    assert repr(GroupNorm(4, num_groups=2)) == (
        "GroupNorm(4, num_groups=2, axis=1, activation=None)"
    )
    assert repr(InstanceNorm(4, axis=-1)) == "InstanceNorm(4, axis=-1, activation=None)"


def test_groups_divide_the_features():
    with pytest.raises(ValueError, match=r"num_groups is 3; expected a divisor of num_features"):
        GroupNorm(4, num_groups=3)
