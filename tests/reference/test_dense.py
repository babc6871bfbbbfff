"""The reference of dense layers."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm import reference
from tests.cases.finite_differences import assert_gradient
from tests.cases.reference import loss_of


@pytest.mark.parametrize("leading", [(), (4,), (2, 3)])
def test_dense_gradients(rng, leading):
    dy = rng.normal(size=(*leading, 2))
    arguments = {
        "x": rng.normal(size=(*leading, 3)),
        "weight": rng.normal(size=(2, 3)),
        "bias": rng.normal(size=2),
    }
    gradients = reference.dense_backward(dy, arguments["x"], arguments["weight"])
    for name, value in arguments.items():
        loss = loss_of(reference.dense_forward, dy, arguments, name)
        assert_gradient(getattr(gradients, f"d{name}"), loss, value)


def test_by_hand_dense():
    x = [[1.0, 2.0], [3.0, 4.0]]
    weight = [[1.0, 0.0], [0.0, 10.0], [1.0, 1.0]]
    y = reference.dense_forward(x, weight, bias=[0.0, 0.0, 100.0])
    np.testing.assert_array_equal(y, [[1.0, 20.0, 103.0], [3.0, 40.0, 107.0]])
