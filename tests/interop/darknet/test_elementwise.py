"""Sections that work on numbers where they stand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.interop.darknet import naive
from tests.interop.darknet.cases import CLOSE, image


def test_dropout_passes_everything_on(run, rng):
    x = image(rng, 2, 3, 4, 4)
    np.testing.assert_array_equal(run(x, "dropout probability=.5"), x)


def test_softmax(run, rng):
    x = 10 * image(rng, 3, 2, 3, 2)
    y = run(x, "softmax groups=3 temperature=2.5")
    np.testing.assert_allclose(y, naive.softmax(x.reshape(3, 12), 3, 2.5), **CLOSE)
    np.testing.assert_allclose(y.sum(axis=1), 3, rtol=1e-6)
    large = run(np.float32([[1e4, 1e4, -1e4]]), "softmax")
    np.testing.assert_array_equal(large, np.float32([[0.5, 0.5, 0]]))


def test_l2norm(run, rng):
    x = image(rng, 2, 3, 4, 5)
    x[1, :, 2, 3] = 0  # darknet: NaN
    y = run(x, "l2norm")
    norm = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(y, x / np.where(norm == 0, 1, norm), **CLOSE)


@pytest.mark.parametrize("section", ["cost type=sse", "dropout", "empty", "silence"])
def test_what_passes_everything_on(run, rng, section):
    x = image(rng, 2, 3, 4, 4)
    np.testing.assert_array_equal(run(x, section), x)


def test_activation_and_logistic(run, rng):
    x = image(rng, 2, 3, 4, 4)
    y = run(x, "activation activation=leaky")
    np.testing.assert_allclose(y, naive.ACTIVATIONS["leaky"](x), **CLOSE)
    np.testing.assert_array_equal(run(x, "activation"), x)
    np.testing.assert_allclose(run(x, "logistic"), naive.logistic(x.astype(np.float64)), **CLOSE)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9, 14])
@pytest.mark.parametrize("channels", [7, 8])
def test_normalization(run, rng, size, channels):
    x = image(rng, 2, channels, 2, 3)
    y = run(x, f"normalization size={size} alpha=.01 beta=.6 kappa=2")
    np.testing.assert_allclose(y, naive.normalization(x, size, 0.01, 0.6, 2), **CLOSE)


def test_normalization_is_darknet_s_by_default(run, rng):
    x = 30 * image(rng, 2, 8, 2, 3)
    np.testing.assert_allclose(run(x, "lrn"), naive.normalization(x, 5, 1e-4, 0.75, 1), **CLOSE)


def test_normalization_by_negative_norms(run):
    """A channel that was not added and is taken away: darknet gives NaN."""
    x = np.zeros((1, 8, 1, 1), np.float32)
    x[0, 2] = 200
    y = run(x, "lrn")
    assert np.isnan(y[0, 5:]).all()
    assert not np.isnan(y[0, :5]).any()
