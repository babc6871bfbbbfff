"""The specification of L1 and L2: against finite differences and cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm import reference
from tests.cases.finite_differences import assert_gradient

FUNCTIONS = {
    "l1": (reference.l1_normalize_forward, reference.l1_normalize_backward),
    "l2": (reference.l2_normalize_forward, reference.l2_normalize_backward),
}


@pytest.mark.parametrize("axis", [1, -1, 0, (1, 2), (0, 1, 2), None, "sample"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients(name, axis, rng):
    forward, backward = FUNCTIONS[name]
    x = rng.uniform(0.5, 2.0, (3, 4, 2)) * rng.choice([-1.0, 1.0], (3, 4, 2))
    dy = rng.standard_normal(x.shape)
    options = {"axis": axis, "eps": 0.1}
    assert_gradient(
        backward(dy, x, **options), lambda at: float(np.sum(dy * forward(at, **options))), x
    )


@pytest.mark.parametrize("name", ["l1_penalty", "l2_penalty"])
def test_gradients_of_penalties(name, rng):
    penalty = getattr(reference, name)
    x = rng.uniform(0.5, 2.0, (3, 4)) * rng.choice([-1.0, 1.0], (3, 4))
    assert_gradient(penalty(x, 0.7)[1], lambda at: penalty(at, 0.7)[0], x)


def test_by_hand():
    x = [[3.0, -4.0], [0.0, 0.0]]
    np.testing.assert_allclose(
        reference.l1_normalize_forward(x, eps=1.0), [[0.375, -0.5], [0.0, 0.0]], rtol=1e-15
    )
    np.testing.assert_allclose(
        reference.l2_normalize_forward(x, eps=11.0), [[0.5, -2 / 3], [0.0, 0.0]], rtol=1e-15
    )
    for forward, backward in FUNCTIONS.values():
        assert not forward(x, eps=0.0)[1].any()
        assert not backward(np.ones((2, 2)), x, eps=0.0)[1].any()
    assert reference.l1_penalty(x, 2.0)[0] == 14.0
    assert reference.l2_penalty(x, 2.0)[0] == 25.0


def test_the_whole_array_and_the_whole_sample():
    x = np.ones((2, 3, 4))
    np.testing.assert_array_equal(reference.l1_normalize_forward(x, axis=None, eps=0.0), x / 24)
    np.testing.assert_array_equal(reference.l1_normalize_forward(x, axis="sample", eps=0.0), x / 12)
