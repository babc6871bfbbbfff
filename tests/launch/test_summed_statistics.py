"""Statistics that a product takes on its way: as accurate as those of batch norm of the same z.

Weights are an identity where a test has to say what z is.
"""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm import (
    batch_norm_forward,
    conv2d_batch_norm_forward,
    dense_batch_norm_forward,
    reference,
)
from nbnorm.launch import batch_norm as launch
from nbnorm.launch.gemm import gemm_plan

# As of tests/kernels/test_moments.py.
BOUND = {"float32": 1e-6, "float64": 1e-14}

C, K = 5, 7

# What is done, the axis of the channels, and the shapes of x and weight.
WAYS = {
    "dense": (dense_batch_norm_forward, -1, {}, (210, C), (K, C)),
    "direct, channels first": (
        conv2d_batch_norm_forward, 1, {"algorithm": "direct"}, (3, C, 9, 8), (K, C, 3, 2),
    ),
    "direct, channels last": (
        conv2d_batch_norm_forward, -1, {"algorithm": "direct"}, (3, 9, 8, C), (K, C, 3, 2),
    ),
    "winograd, channels first": (
        conv2d_batch_norm_forward, 1, {"algorithm": "winograd"}, (3, C, 10, 9), (K, C, 3, 3),
    ),
    "winograd, channels last": (
        conv2d_batch_norm_forward, -1, {"algorithm": "winograd"}, (3, 10, 9, C), (K, C, 3, 3),
    ),
}  # fmt: skip
each_way = pytest.mark.parametrize("way", WAYS)
both_types = pytest.mark.parametrize("dtype", BOUND)


def drawn(rng, way, dtype):
    _, _, _, x_shape, weight_shape = WAYS[way]
    x = rng.standard_normal(x_shape).astype(dtype)
    return x, rng.standard_normal(weight_shape).astype(dtype)


def fused(way, x, weight, **options):
    """y, the context, and z with its channels last: (m, k)."""
    function, axis, others, _, _ = WAYS[way]
    if function is conv2d_batch_norm_forward:
        others = others | {"axis": axis}
    y, context = function(x, weight, **others, **options)
    z = np.moveaxis(context.normalization.x, axis, -1).reshape(-1, len(weight))
    return np.moveaxis(y, axis, -1).reshape(z.shape), context, z


def assert_statistics(context, z, eps=1e-5, ddof=0, channels=slice(None)):
    mean, var = reference.batch_statistics(z, axis=-1, ddof=ddof)
    bound = BOUND[str(z.dtype)]
    allowed = bound * np.sqrt(var) + np.spacing(np.abs(mean))
    assert (np.abs(context.mean - mean) <= allowed)[channels].all()
    np.testing.assert_allclose(context.var[channels], var[channels], rtol=2 * bound)
    inv_std = reference.inverse_std(var, eps)[channels]
    np.testing.assert_allclose(context.inv_std[channels], inv_std, rtol=bound)


@each_way
@both_types
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("of", ["x", "bias"])
def test_a_large_mean_costs_no_digits(rng, of, ddof, dtype, way):
    """Ten thousand standard deviations from 0."""
    x, weight = drawn(rng, way, dtype)
    options = {}
    if of == "x":
        x += x.dtype.type(1e4)
    else:
        weight_rms = np.sqrt((weight.astype(np.float64) ** 2).reshape(K, -1).sum(axis=1))
        options["bias"] = (1e4 * weight_rms).astype(dtype)
    y, context, z = fused(way, x, weight, eps=0.0, ddof=ddof, **options)
    assert_statistics(context, z, 0.0, ddof)
    right = reference.batch_norm_forward(z, axis=-1, eps=0.0, ddof=ddof)
    np.testing.assert_allclose(y, right, rtol=0, atol=5 * BOUND[dtype])


@each_way
@both_types
@pytest.mark.parametrize("eps", [0.0, 1e-5])
@pytest.mark.parametrize("bias", [0.0, 0.1, -3.3, 1e30])
def test_a_channel_that_does_not_vary_is_beta(rng, bias, eps, dtype, way):
    x, weight = drawn(rng, way, dtype)
    weight[2] = 0
    biases = rng.standard_normal(K).astype(dtype)
    biases[2] = bias
    beta = rng.standard_normal(K).astype(dtype)
    y, context, z = fused(way, x, weight, beta=beta, bias=biases, eps=eps)
    np.testing.assert_array_equal(z[:, 2], biases[2])
    np.testing.assert_array_equal(y[:, 2], beta[2])
    assert context.mean[2] == biases[2]
    assert context.var[2] == 0.0
    assert_statistics(context, z, eps, channels=np.arange(K) != 2)


@each_way
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-10, 1e10, 1e20, 1e30])
def test_any_scale(rng, scale, way):
    """Squares of z are beyond float32's range; z itself is not."""
    x, weight = drawn(rng, way, "float32")
    x *= np.float32(scale)
    y, context, z = fused(way, x, weight, eps=0.0)
    assert_statistics(context, z, 0.0)
    right = reference.batch_norm_forward(z, axis=-1, eps=0.0)
    np.testing.assert_allclose(y, right, rtol=0, atol=5e-6)


@each_way
@both_types
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, where nothing is compiled
def test_what_is_not_finite_comes_out_as_of_batch_norm(rng, bad, dtype, way):
    x, weight = drawn(rng, way, dtype)
    x.reshape(-1)[x.size // 2] = bad
    weight[2] = 0  # 0 times infinity is NaN too
    y, context, z = fused(way, x, weight)
    assert not np.isfinite(z).all(axis=0).any()
    right, _ = batch_norm_forward(np.ascontiguousarray(z), axis=-1)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(right))
    assert np.isnan(context.var).all()


# --- pivots -----------------------------------------------------------------------------------

IDENTITIES = {
    "dense": np.eye(K),
    "direct, channels first": np.eye(K)[:, :, np.newaxis, np.newaxis],
    "direct, channels last": np.eye(K)[:, :, np.newaxis, np.newaxis],
    "winograd, channels first": np.pad(
        np.eye(K)[:, :, np.newaxis, np.newaxis], ((0, 0), (0, 0), (1, 1), (1, 1))
    ),
}


@pytest.fixture
def starts_anew(monkeypatch):
    """Counts how often the sums of a product did not serve."""
    calls = []
    whole = launch._normalize_batch

    def noted(*arguments):
        calls.append(arguments)
        return whole(*arguments)

    monkeypatch.setattr(launch, "_normalize_batch", noted)
    return calls


def as_input(way, z):
    """X of which an identity makes z (m, k), and what else it takes."""
    axis = WAYS[way][1]
    if way == "dense":
        return z, {}
    x = np.moveaxis(z.reshape(1, 9, -1, K), -1, axis)
    return np.ascontiguousarray(x), {"padding": 1} if "winograd" in way else {}


PLACES = (0, 30, 60)  # of 90 values in a block: those whose median is the pivot


@both_types
@pytest.mark.parametrize("way", IDENTITIES)
@pytest.mark.parametrize("outliers", [1, 2])
def test_outliers_where_the_pivot_is_taken(rng, starts_anew, outliers, way, dtype):
    """One of three is outvoted; of two, one is the pivot, and the sums are taken again."""
    z = rng.standard_normal((90, K)).astype(dtype)
    z[PLACES[:outliers], 3] = 1e3
    weight = IDENTITIES[way].astype(dtype)
    x, options = as_input(way, z)
    y, context, z = fused(way, x, weight, **options)
    assert len(starts_anew) == (outliers == 2)
    assert_statistics(context, z)
    right = reference.batch_norm_forward(z, axis=-1)
    np.testing.assert_allclose(y, right, rtol=0, atol=20 * BOUND[dtype])


@both_types
@pytest.mark.parametrize("way", IDENTITIES)
def test_ordinary_data_is_summed_once(rng, starts_anew, way, dtype):
    z = (100 + rng.standard_normal((9 * 60, K))).astype(dtype)
    x, options = as_input(way, z)
    _, context, z = fused(way, x, IDENTITIES[way].astype(dtype), **options)
    assert not starts_anew
    assert_statistics(context, z)


def test_outliers_where_every_block_but_the_first_has_its_pivot(rng, starts_anew):
    """Merged, the sums of all look good; what they lost, they lost before."""
    n, k = 4096, 16
    x = rng.standard_normal((n, k)).astype(np.float32)
    height = gemm_plan((n, k, k), 4, False).blocks.rows
    for first in range(height, n, height):
        count = min(height, n - first)
        x[[first, first + count // 3], 3] = 1e6
    _, context = dense_batch_norm_forward(x, np.eye(k, dtype=np.float32))
    assert len(starts_anew) == 1
    assert_statistics(context, x)
