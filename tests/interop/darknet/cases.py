"""What the tests of several sections use."""

from __future__ import annotations

import numpy as np

# float32 rounds to 6e-8, sums here have at most some 30 terms of about 1.
CLOSE = {"rtol": 2e-6, "atol": 4e-6}


def image(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def parameters(rng, k):
    """Biases, scales, means and variances; one variance so small that the place of eps shows."""
    variance = rng.uniform(0.1, 4, k)
    variance[-1] = 1e-11
    rows = rng.standard_normal(k), rng.uniform(0.5, 2, k), rng.standard_normal(k), variance
    return np.float32(rows)


def assert_channels_close(y, truth):
    """Channels differ in size by that small variance: each is measured by its largest number."""
    assert y.shape == truth.shape
    assert y.dtype == np.float32
    scale = np.abs(truth).max(axis=tuple(i for i in range(truth.ndim) if i != 1), keepdims=True)
    scale[(scale == 0) | ~np.isfinite(scale)] = 1
    np.testing.assert_allclose(y / scale, truth / scale, **CLOSE)
