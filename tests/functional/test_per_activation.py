"""Batch norm per activation: a mean for every pixel over the batch, unbiased variance."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm import batch_norm_backward, batch_norm_forward
from tests.cases.finite_differences import assert_gradient


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("axis", [(1, 2, 3), (1, 3)])
def test_gradients_by_finite_differences(axis, ddof, rng):
    x, dy = rng.standard_normal((2, 5, 2, 3, 2))
    kept = tuple(x.shape[a] for a in axis)
    arguments = {"x": x, "gamma": rng.uniform(0.5, 1.5, kept), "beta": rng.standard_normal(kept)}
    options = {"axis": axis, "ddof": ddof, "eps": 0.1}
    _, context = batch_norm_forward(**arguments, **options)
    gradients = batch_norm_backward(dy, context)
    for name, value in arguments.items():

        def loss(at, name=name):
            return float(np.sum(dy * batch_norm_forward(**arguments | {name: at}, **options)[0]))

        assert_gradient(getattr(gradients, f"d{name}"), loss, value)


def test_every_pixel_has_mean_0_and_unbiased_variance_1(rng):
    x = 5 + 2 * rng.standard_normal((9, 3, 4, 5))
    y, context = batch_norm_forward(x, axis=(1, 2, 3), ddof=1, eps=0.0)
    np.testing.assert_allclose(y.mean(axis=0), np.zeros((3, 4, 5)), atol=1e-14)
    np.testing.assert_allclose(y.var(axis=0, ddof=1), np.ones((3, 4, 5)), rtol=1e-14)
    np.testing.assert_allclose(context.mean, x.mean(axis=0), rtol=1e-14)
