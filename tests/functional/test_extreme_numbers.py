"""Numbers at both ends of their type's range, and means far beyond deviations."""

from __future__ import annotations

import numpy as np
import pytest
from numba.core import config

from nbnorm import (
    BatchNormGradients,
    Moments,
    batch_norm_backward,
    batch_norm_forward,
    batch_norm_gradient_sums,
    batch_norm_inference,
    dense_batch_norm_forward,
    l1_normalize_backward,
    l1_normalize_forward,
    l2_normalize_backward,
    l2_normalize_forward,
)
from nbnorm.layers import BatchNorm, CrossIterationBatchNorm, DenseBatchNorm

pytestmark = pytest.mark.skipif(
    config.DISABLE_JIT, reason="NumPy, in the place of compiled code, warns"
)

# Every plan: tiles, planes and columns, with a rest; the last ones in slices.
SHAPES = [(8, 2), (5, 3, 7), (4, 2, 300), (3000, 3), (40, 2, 900)]
SCALES = [2.0**k for k in (-996, -530, -480, 0, 500, 511, 520, 996)]


def along(values, shape):
    """A number a channel, laid along an array of a shape."""
    return np.reshape(values, (-1,) + (1,) * (len(shape) - 2))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("scale", SCALES)
def test_float64_of_any_scale_is_as_exact_as_at_1(rng, scale, weighted, shape):
    z, dy = rng.normal(3.0, 1.0, shape), rng.standard_normal(shape)
    gamma, beta = rng.uniform(0.5, 2.0, (2, shape[1]))
    options = {"eps": 0.0}
    if weighted:
        options["sample_weight"] = rng.uniform(0.5, 2.0, (shape[0], 1, *shape[2:]))
    y, context = batch_norm_forward(z, gamma, beta, **options)
    dx, dgamma, dbeta, _ = batch_norm_backward(dy, context)
    # Other channels are as they were: each has a scale of its own.
    scales = along(np.where(np.arange(shape[1]) == 1, scale, 1.0), shape)
    scaled, context = batch_norm_forward(z * scales, gamma, beta, **options)
    gradients = batch_norm_backward(dy, context)
    bound = {"rtol": 0, "atol": 1e-13}
    np.testing.assert_allclose(scaled, y, **bound)
    np.testing.assert_allclose(gradients.dx * scales, dx, **bound)
    np.testing.assert_allclose(gradients.dgamma, dgamma, rtol=1e-12, atol=1e-11)
    np.testing.assert_allclose(gradients.dbeta, dbeta, rtol=1e-12)


@pytest.mark.parametrize("eps", [1e-300, 1e-5])
def test_eps_beside_tiny_deviations(rng, eps):
    z = rng.standard_normal((50, 3))
    y, _ = batch_norm_forward(z * 1e-200, eps=eps)
    wide = (z * 1e-200).astype(np.longdouble)
    right = (wide - wide.mean(0)) / np.sqrt(wide.var(0) + np.longdouble(eps))
    np.testing.assert_allclose(y, right.astype(float), rtol=1e-11)


@pytest.mark.parametrize(
    "layer",
    [
        BatchNorm(3, dtype=np.float64),
        CrossIterationBatchNorm(3, window=2, dtype=np.float64),
        DenseBatchNorm(3, 3, dtype=np.float64, rng=0),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_variance_beyond_float64_moves_no_running_statistics(rng, layer):
    before = {name: array.copy() for name, array in layer.state_dict().items()}
    with pytest.raises(ValueError, match="variances that float64 can hold"):
        layer.forward(rng.standard_normal((8, 3)) * 1e200)
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_moments_of_a_variance_beyond_float64_are_refused(rng):
    x = rng.standard_normal((8, 3)) * 1e200
    with pytest.raises(ValueError, match=r"batch_norm_forward: moments is .* float64 can hold"):
        batch_norm_forward(x, moments=Moments.of(x))


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_a_dense_layer_whose_columns_have_no_squares(rng, scale):
    x, weight = rng.standard_normal((4096, 8)), rng.standard_normal((1024, 8))
    options = {"eps": 0.0}
    y, _ = dense_batch_norm_forward(x, weight, **options)
    scaled, _ = dense_batch_norm_forward(x * scale, weight, **options)
    np.testing.assert_allclose(scaled, y, rtol=0, atol=1e-11)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("mean", [1e4, 1e8, 1e12])
def test_a_large_mean_costs_no_digits(rng, mean, shape):
    x, dy = mean + rng.standard_normal(shape), rng.standard_normal(shape)
    near = x - mean  # exact
    right, near_context = batch_norm_forward(near)
    expected = batch_norm_backward(dy, near_context).dx
    y, context = batch_norm_forward(x)
    np.testing.assert_allclose(y, right, rtol=0, atol=1e-14)
    np.testing.assert_allclose(batch_norm_backward(dy, context).dx, expected, rtol=0, atol=2e-14)
    whole, whole_context = batch_norm_forward(x, moments=Moments.of(x))
    np.testing.assert_allclose(whole, right, rtol=0, atol=1e-14)
    dx = batch_norm_backward(dy, whole_context, sums=lambda part: part).dx
    np.testing.assert_allclose(dx, expected, rtol=0, atol=2e-14)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("scale", [1e-37, 1e-40, 1e-43])
def test_denormal_deviations_of_float32(rng, scale, shape):
    x = rng.standard_normal(shape).astype(np.float32)
    x[:, 1] *= scale
    residual = rng.standard_normal(shape).astype(np.float32)
    gamma = np.array([2.0, -3.0, 1.0][: shape[1]])
    options = {"eps": 0.0, "activation": "relu"}
    y, context = batch_norm_forward(x, gamma, residual=residual, **options)
    right, _ = batch_norm_forward(
        x.astype(float), gamma, residual=residual.astype(float), **options
    )
    np.testing.assert_allclose(y, right, rtol=0, atol=1e-5)
    inferred = batch_norm_inference(
        x, context.mean, context.var, gamma, residual=residual, **options
    )
    np.testing.assert_allclose(inferred, right, rtol=0, atol=1e-5)
    # Neighbours have the bits that they have beside ordinary ones.
    x[:, 1] = 1.0
    neighbours, _ = batch_norm_forward(x, gamma, residual=residual, **options)
    np.testing.assert_array_equal(np.delete(y, 1, 1), np.delete(neighbours, 1, 1))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("scale", [1e-37, 1e-40, 1e-43])
@pytest.mark.parametrize("how", ["whole", "weighted", "in parts", "frozen"])
def test_gradients_of_denormal_deviations_of_float32(rng, how, scale, shape):
    x = rng.standard_normal(shape).astype(np.float32)
    x[:, 1] *= scale
    residual = rng.standard_normal(shape).astype(np.float32)
    dy = rng.standard_normal(shape).astype(np.float32)
    dy[:, 1] *= 1e-6  # or float32 could not hold dx
    given = {
        "x": x, "residual": residual,
        "gamma": np.array([2.0, -3.0, 1.0][: shape[1]]), "beta": np.full(shape[1], 0.5),
    }  # fmt: skip
    options, sums = {"eps": 0.0, "activation": "silu"}, None
    if how == "weighted":
        given["sample_weight"] = rng.uniform(0.5, 2.0, (shape[0], *(1,) * (len(shape) - 1)))
    elif how == "in parts":
        moments = Moments.of(x.astype(float)) + Moments.of(x[:3].astype(float))
        options["moments"] = moments
        sums = lambda part: 1.25 * part  # noqa: E731  of this part and others
    elif how == "frozen":
        moments = Moments.of(x.astype(float))
        options["statistics"] = moments.mean, moments.var()
    _, context = batch_norm_forward(**given, **options)
    _, exact = batch_norm_forward(
        **{name: array.astype(float) for name, array in given.items()}, **options
    )
    expected = batch_norm_backward(dy.astype(float), exact, sums=sums)
    found = batch_norm_backward(dy, context, sums=sums)
    size = np.abs(expected.dx).max(axis=tuple(a for a in range(len(shape)) if a != 1))
    np.testing.assert_allclose(
        found.dx / along(size, shape), expected.dx / along(size, shape), rtol=0, atol=2e-6
    )
    for name in ("dgamma", "dbeta", "dresidual"):
        right = getattr(expected, name)
        np.testing.assert_allclose(
            getattr(found, name), right, rtol=1e-5, atol=2e-6 * np.abs(right).max()
        )
    np.testing.assert_allclose(
        batch_norm_gradient_sums(dy, context), batch_norm_gradient_sums(dy.astype(float), exact),
        rtol=1e-5, atol=1e-5,
    )  # fmt: skip
    # Over dy, which is read once more for the channels of float64.
    place = BatchNormGradients(dy, None, None, None)
    np.testing.assert_array_equal(
        batch_norm_backward(dy, context, sums=sums, out=place, needs=["dx"]).dx, found.dx
    )


NORMS = [
    (l1_normalize_forward, l1_normalize_backward),
    (l2_normalize_forward, l2_normalize_backward),
]


# Fibres of neighbours, short ones, some in a vector, a lane each; in slices.
@pytest.mark.parametrize(("forward", "backward"), NORMS, ids=["L1", "L2"])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((3, 70), 1),
        ((40, 5), 1),
        ((6, 33, 3), 1),
        ((4, 9, 50), 1),
        ((200_000,), 0),
        ((90_000, 3), 0),
    ],
    ids=str,
)
@pytest.mark.parametrize("scale", SCALES)
def test_norms_of_any_scale(rng, scale, shape, axis, forward, backward):
    z, dy = rng.standard_normal(shape), rng.standard_normal(shape)
    first = (0,) * len(shape) if axis else (slice(None),) * (len(shape) - 1) + (0,)
    scales = np.ones([1 if a == axis else size for a, size in enumerate(shape)])
    scales[first] = scale
    y, context = forward(z, axis=axis, eps=0.0)
    dx = backward(dy, context)
    scaled, context = forward(z * scales, axis=axis, eps=0.0)
    np.testing.assert_allclose(scaled, y, rtol=1e-11, atol=1e-300)
    np.testing.assert_allclose(backward(dy, context) * scales, dx, rtol=1e-9, atol=1e-18)


@pytest.mark.parametrize(("forward", "backward"), NORMS, ids=["L1", "L2"])
@pytest.mark.parametrize("shape", [(2, 70), (40, 5), (2, 33, 3), (2, 9, 50)], ids=str)
def test_norms_beyond_float64(rng, shape, forward, backward):
    x, dy = np.full(shape, 1.2e308), rng.standard_normal(shape)
    y, context = forward(x)
    assert (context.norm == np.inf).all()
    np.testing.assert_allclose(y, forward(np.ones(shape))[0], rtol=1e-12)
    expected = backward(dy, forward(np.full(shape, 2.0**1000), eps=0.0)[1])
    expected *= 2.0**1000 / 1.2e308
    np.testing.assert_allclose(backward(dy, context), expected, rtol=0, atol=1e-310)


def test_norms_that_are_not_finite(rng):
    x = rng.standard_normal((4, 9, 50))
    x[1, 2, 3], x[2, 4, 7] = np.inf, np.nan
    y, _ = l2_normalize_forward(x)
    spoilt = ~np.isfinite(y).all(axis=1)
    assert spoilt[1, 3]
    assert spoilt[2, 7]
    assert spoilt.sum() == 2
