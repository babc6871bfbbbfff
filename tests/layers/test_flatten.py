"""Flatten: one row of each sample."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm.layers import Flatten


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3), (2,), (0, 3, 4)])
def test_there_and_back(rng, shape):
    layer = Flatten()
    x = rng.standard_normal(shape)
    y = layer(x)
    assert y.shape == (shape[0], np.prod(shape[1:], dtype=int))
    np.testing.assert_array_equal(y.ravel(), x.ravel())
    np.testing.assert_array_equal(layer.backward(y), x)


@pytest.mark.parametrize("x", [[[1.0]], np.ones((2, 3), int), np.ones(())])
def test_refuses_what_is_no_batch_of_floats(x):
    with pytest.raises((TypeError, ValueError), match=r"Flatten\.forward: x is .* expected"):
        Flatten()(x)
