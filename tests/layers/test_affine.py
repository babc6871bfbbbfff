"""Batch norms with gamma and beta, with one of them and with neither."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm.layers import (
    SGD,
    BatchNorm,
    Conv2d,
    Conv2dBatchNorm,
    CrossIterationBatchNorm,
    DenseBatchNorm,
    Sequential,
)

MAKE = {
    "BatchNorm": (lambda **o: BatchNorm(3, **o), (5, 3, 2)),
    "CrossIterationBatchNorm": (
        lambda **o: CrossIterationBatchNorm(3, window=2, **o),
        (5, 3, 2),
    ),
    "Conv2dBatchNorm": (lambda **o: Conv2dBatchNorm(2, 3, 2, rng=0, **o), (2, 2, 4, 4)),
    "DenseBatchNorm": (lambda **o: DenseBatchNorm(2, 3, rng=0, **o), (5, 2)),
}
LEARNED = {True: ["gamma", "beta"], "gamma": ["gamma"], "beta": ["beta"], False: []}

each_layer = pytest.mark.parametrize("name", MAKE)
each_form = pytest.mark.parametrize("affine", LEARNED)


def pair(rng, name, affine):
    """A layer, and one with gamma and beta that does the same: 1 and 0 are its constants."""
    make, shape = MAKE[name]
    layer, whole = (
        make(affine=form, activation="silu", dtype=np.float64) for form in (affine, True)
    )
    for key in LEARNED[affine]:
        getattr(layer, key)[:] = getattr(whole, key)[:] = rng.uniform(0.5, 2, 3)
    return layer, whole, rng.standard_normal(shape)


@each_form
@each_layer
def test_what_there_is(name, affine):
    layer = MAKE[name][0](affine=affine)
    assert layer.affine == affine
    learned = LEARNED[affine]
    assert [key for key in layer.parameters() if key != "weight"] == learned
    assert [key for key in layer.state_dict() if key in ("gamma", "beta")] == learned
    assert layer.fold().training is False


@each_form
@each_layer
def test_what_is_left_out_is_a_constant(rng, name, affine):
    layer, whole, x = pair(rng, name, affine)
    for _ in range(2):
        y = layer(x)
        np.testing.assert_allclose(y, whole(x), rtol=1e-14, atol=1e-14)
        dy = rng.standard_normal(y.shape)
        np.testing.assert_allclose(layer.backward(dy), whole.backward(dy), rtol=1e-13, atol=1e-13)
    gradients = layer.gradients()
    assert list(gradients) == list(layer.parameters())
    for key, gradient in gradients.items():
        np.testing.assert_allclose(gradient, whole.gradients()[key], rtol=1e-13, atol=1e-13)
    layer.eval()
    whole.eval()
    np.testing.assert_allclose(layer(x), whole(x), rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(layer.fold()(x), whole(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("affine", ["gamma", "beta"])
def test_a_network_is_folded_and_trained(rng, affine):
    net = Sequential(
        Conv2d(2, 3, 2, dtype=np.float64, rng=0), BatchNorm(3, affine=affine, dtype=np.float64)
    )
    net.trainable = [affine]
    x = rng.standard_normal((2, 2, 4, 4))
    before = net.state_dict()
    y = net(x)
    net.backward(rng.standard_normal(y.shape))
    SGD(net, lr=0.1).step()
    changed = [key for key, array in net.parameters().items() if (array != before[key]).any()]
    assert changed == [f"1.{affine}"]
    np.testing.assert_allclose(net.fold()(x), net.eval()(x), rtol=1e-12, atol=1e-12)


def test_a_state_of_the_other_form_is_refused():
    layer = BatchNorm(3, affine="beta")
    with pytest.raises(ValueError, match=r"lacks \['beta'\] and has unknown \['gamma'\]"):
        layer.load_state_dict(BatchNorm(3, affine="gamma").state_dict())
