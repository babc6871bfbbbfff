"""What docs/lineage.md calls an error is one: finite differences reject it, and take what is right.

The two slips of the thesis itself are in tests/reference/test_batch_norm.py.
"""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm import reference
from nbnorm.functional.moments import Moments
from tests.cases.finite_differences import assert_gradient

PIXELS = 5


@pytest.fixture
def per_pixel(rng):
    """x, dy (n, pixels) and gamma, beta of every pixel: NumPyNet's batch norm."""
    x, dy = rng.normal(size=(2, 7, PIXELS))
    return x, dy, *rng.uniform(0.5, 1.5, (2, PIXELS))


def numpynet_dx(x, dy, gamma, eps=1e-8):
    """The gradient of NumPyNet's batchnorm_layer.py, in this library's words."""
    s = np.sqrt(x.var(axis=0) + eps)
    g = dy * gamma
    dmean = np.mean(-g / s, axis=0)  # the sum belongs here
    dvar = -0.5 * np.sum(g * (x - x.mean(axis=0)), axis=0) / s**3
    pixels = x.shape[1]  # and the size of the batch there
    return g / s + (2 * dvar * (x - x.mean(axis=0)) + dmean) / pixels


def rejects(claimed, loss, at):
    with pytest.raises(AssertionError):
        assert_gradient(claimed, loss, at)
    return True


def test_numpynet_divides_by_the_pixels(per_pixel):
    x, dy, gamma, beta = per_pixel

    def loss(x):
        return np.sum(dy * reference.batch_norm_forward(x, gamma, beta, eps=1e-8))

    right = reference.batch_norm_backward(dy, x, gamma, beta, eps=1e-8).dx
    assert_gradient(right, loss, x)
    assert rejects(numpynet_dx(x, dy, gamma), loss, x)


def test_why_its_own_test_passes(rng):
    """With dy = 1, images of many pixels and a peer in inference: gamma / s either way."""
    x = rng.uniform(1, 10, (8, 2500))
    gamma = rng.uniform(0, 1, 2500)
    dx = numpynet_dx(x, np.ones_like(x), gamma)
    given = reference.batch_statistics(x)
    frozen = reference.batch_norm_backward(np.ones_like(x), x, gamma, statistics=given).dx
    np.testing.assert_allclose(dx, frozen, rtol=1e-3)
    batch = reference.batch_norm_backward(np.ones_like(x), x, gamma).dx
    np.testing.assert_allclose(batch, 0, atol=1e-12)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_gradients_of_normalizing_rows(rng, norm):
    """NumPyNet and darknet add a constant that does not depend on dy, or hand dy on as it is."""
    x, dy = rng.normal(size=(2, 3, 4))
    eps = 1e-8

    def normalize(x):
        if norm == "l1":
            return x / (np.abs(x).sum(axis=1, keepdims=True) + eps)
        return x / np.sqrt((x * x).sum(axis=1, keepdims=True) + eps)

    def loss(x):
        return np.sum(dy * normalize(x))

    y = normalize(x)
    size = x / y
    along = (dy * y).sum(axis=1, keepdims=True)
    assert_gradient((dy - (np.sign(x) if norm == "l1" else y) * along) / size, loss, x)
    constant = -np.sign(y) if norm == "l1" else (1 - y) / size
    for wrong in (constant, dy + constant, dy):
        assert rejects(wrong, loss, x)


def test_darknet_pairs_m_minus_1_with_m(rng):
    x, dy = rng.normal(size=(2, 5, 3))

    def loss(x):
        return np.sum(dy * reference.batch_norm_forward(x, ddof=1))

    mean, var = reference.batch_statistics(x, ddof=1)
    s = np.sqrt(var + 1e-5)
    dvar = -0.5 * np.sum(dy * (x - mean), axis=0) / s**3
    dmean = np.sum(-dy / s, axis=0)
    assert rejects(dy / s + 2 * dvar * (x - mean) / 5 + dmean / 5, loss, x)
    assert_gradient(dy / s + 2 * dvar * (x - mean) / 4 + dmean / 5, loss, x)


def test_darknet_in_inference_takes_rolling_statistics_for_the_batchs(rng):
    x, dy = rng.normal(size=(2, 5, 3))
    mean, var = rng.normal(size=3), rng.uniform(1, 2, 3)
    s = np.sqrt(var + 1e-5)

    def loss(x):
        return np.sum(dy * reference.batch_norm_inference(x, mean, var))

    dvar = -0.5 * np.sum(dy * (x - mean), axis=0) / s**3
    assert rejects(dy / s + (2 * dvar * (x - mean) - np.sum(dy / s, axis=0)) / 5, loss, x)
    assert_gradient(dy / s, loss, x)


def test_darknet_has_one_eps_forward_and_another_backward(rng):
    """Seen where the variance is as small as eps: forward 1e-6 beside the root, backward 1e-5."""
    x = 1e-4 * rng.normal(size=(50, 1))
    forward = 1 / (np.sqrt(x.var()) + 1e-6)
    backward = 1 / np.sqrt(x.var() + 1e-5)
    assert forward / backward > 20


@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_the_forks_variance_over_batches_grows_with_the_mean(rng, mean):
    """The mean of squares over m - 1 minus the square of the mean: mean^2 / (m - 1) too much."""
    m = 50
    batches = rng.normal(mean, 1, (4, m))
    squares = np.mean(np.sum(batches**2, axis=1) / (m - 1))
    theirs = max(0.0, squares - batches.mean() ** 2)
    ours = float(sum(Moments.of(batch[:, np.newaxis]) for batch in batches).var()[0])
    np.testing.assert_allclose(ours, batches.var(), rtol=1e-12)
    np.testing.assert_allclose(theirs, (ours * m + batches.mean() ** 2) / (m - 1), rtol=1e-9)
    assert (theirs / ours > 15) == (mean == 30)
