"""Dense + batch norm whose product is not stored: the same results, and when it gives way."""

from __future__ import annotations

import numpy as np
import pytest
from numba.core import config

from nbnorm import (
    DenseBatchNormGradients,
    batch_norm_backward,
    dense_batch_norm_backward,
    dense_batch_norm_forward,
    reference,
)
from nbnorm.launch import dense_batch_norm, dense_by_covariance
from tests.cases.dense_batch_norm import (
    BOUND,
    DENSE,
    allocated,
    assert_is_the_reference,
    draw_dense,
    run,
)
from tests.cases.finite_differences import assert_gradient
from tests.cases.product_batch_norm import (
    VARIANTS,
    Variant,
    arrays_in,
    assert_within,
    poisoned,
    scales,
    strided,
)

OF_THE_BATCH = [variant for variant in VARIANTS if variant.statistics == "of the batch"]
LINEAR = Variant("float32", None, residual=True)


@pytest.fixture
def forced(monkeypatch):
    """Every size takes this way."""
    monkeypatch.setattr(dense_by_covariance, "use_covariance", lambda *_: True)


def took_it(context):
    return context.standardized is not None


# --- against the reference ------------------------------------------------------------------


@pytest.mark.parametrize("variant", [*OF_THE_BATCH, LINEAR], ids=str)
@pytest.mark.parametrize(("leading", "c", "k"), [
    ((40,), 1, 4), ((41,), 3, 17), ((7, 9), 5, 33), ((2, 5, 13), 16, 64), ((1001,), 17, 70),
])  # fmt: skip
def test_equals_the_reference(forced, rng, leading, c, k, variant):
    batch = draw_dense(rng, variant, leading, c, k)
    context = dense_batch_norm_forward(batch.x, batch.weight, **batch.options)[1]
    assert took_it(context)
    assert_is_the_reference(run(batch), batch)
    assert_is_the_reference(allocated(batch), batch)


@pytest.mark.skipif(config.DISABLE_JIT, reason="large arrays, for compiled code only")
@pytest.mark.parametrize("variant", [OF_THE_BATCH[0], LINEAR], ids=str)
def test_large_sizes_take_it_by_themselves(rng, variant):
    """Many rows, so many blocks of the depth and slices of every product."""
    batch = draw_dense(rng, variant, (70_001,), 7, 61)
    assert took_it(dense_batch_norm_forward(batch.x, batch.weight, **batch.options)[1])
    assert_is_the_reference(run(batch), batch)


@pytest.mark.parametrize(("n", "c", "k", "expected"), [
    (1 << 16, 32, 256, True), (1 << 16, 33, 256, False), (8191, 32, 1024, False),
    (1 << 16, 7, 63, False), (1 << 17, 0, 256, False),
])  # fmt: skip
def test_where_it_pays(n, c, k, expected):
    assert dense_by_covariance.use_covariance(n, k, c) is expected


@pytest.mark.variant
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("activation", ["silu", None])
def test_backward_is_the_derivative_of_forward(forced, rng, activation, ddof):
    variant = Variant("float64", activation, True, ddof=ddof)
    x, weight, dy, options = draw_dense(rng, variant, (9,), 2, 4)
    options["eps"] = 1.0  # little curvature, which finite differences ask for
    _, context = dense_batch_norm_forward(x, weight, **options)
    gradients = dense_batch_norm_backward(dy, context)
    assert took_it(context)
    arguments = {"x": x, "weight": weight, **options}

    def loss(name, value):
        return np.sum(dy * dense_batch_norm_forward(**arguments | {name: value})[0])

    for name in ("x", "weight", "gamma", "beta", "residual"):
        assert_gradient(
            getattr(gradients, f"d{name}"),
            lambda value, name=name: loss(name, value),
            arguments[name],
        )
    np.testing.assert_array_equal(gradients.dbias, 0)


def test_any_strides(forced, rng):
    batch = draw_dense(rng, OF_THE_BATCH[0], (50,), 5, 24)
    x, weight, dy, options = batch
    plain = run(batch)
    options = options | {"residual": strided(options["residual"])}
    y = strided(poisoned(dy.shape, dy.dtype))
    _, context = dense_batch_norm_forward(np.asfortranarray(x), strided(weight), **options, out=y)
    out = DenseBatchNormGradients(
        dx=strided(poisoned(x.shape, x.dtype)), dweight=np.asfortranarray(plain["dweight"] * 0),
        dresidual=strided(poisoned(dy.shape, dy.dtype)),
    )  # fmt: skip
    gradients = dense_batch_norm_backward(strided(dy), context, out=out)
    results = {"y": y, "mean": context.mean, "var": context.var, **gradients._asdict()}
    assert_within(results, plain, scales(DENSE, batch), BOUND["float32"])


def test_only_what_is_asked_for(forced, rng):
    x, weight, dy, options = draw_dense(rng, OF_THE_BATCH[0], (50,), 5, 24)
    _, context = dense_batch_norm_forward(x, weight, **options)
    every = dense_batch_norm_backward(dy, context)._asdict()
    for name, gradient in every.items():
        found = dense_batch_norm_backward(dy, context, needs=[name])._asdict()
        np.testing.assert_array_equal(found.pop(name), gradient)
        assert set(found.values()) == {None}


def test_inputs_are_not_written(forced, rng):
    batch = draw_dense(rng, LINEAR, (50,), 5, 24)
    for array in arrays_in(batch):
        array.flags.writeable = False
    gradients = allocated(batch)
    gradients["dresidual"][...] = 0  # a copy: dy is the caller's
    assert batch.dy.any()


def test_the_context_cannot_be_written_over(forced, rng):
    x, weight, dy, options = draw_dense(rng, LINEAR, (50,), 5, 24)
    _, context = dense_batch_norm_forward(x, weight, **options)
    with pytest.raises(ValueError, match=r"out\.dx"):
        dense_batch_norm_backward(
            dy, context, out=DenseBatchNormGradients(dx=context.standardized.rows)
        )
    with pytest.raises(ValueError, match="dy"):
        batch_norm_backward(dy, context.normalization)


# --- digits -----------------------------------------------------------------------------------


def test_a_large_mean_costs_nothing(forced, rng):
    """The columns of x are standardized first: var does not depend on their means or scales."""
    batch = draw_dense(rng, Variant("float32", "relu", residual=True), (200,), 4, 16)
    x = batch.x * np.array([1, 1e-3, 1e3, 1], np.float32) + np.array([1e4, 1, 0, -300], np.float32)
    moved = batch._replace(x=x, weight=batch.weight / np.array([1, 1e-3, 1e3, 1], np.float32))
    _, context = dense_batch_norm_forward(moved.x, moved.weight, **moved.options)
    assert took_it(context)
    z = reference.dense_forward(moved.x, moved.weight, moved.options["bias"])
    np.testing.assert_allclose(context.var, z.var(axis=0), rtol=1e-6)
    y = dense_batch_norm_forward(moved.x, moved.weight, **moved.options)[0]
    right = reference.dense_batch_norm_forward(moved.x, moved.weight, **moved.options)
    np.testing.assert_allclose(y, right, rtol=0, atol=5e-6)


def test_features_and_columns_that_do_not_vary(forced, rng):
    x = rng.standard_normal((50, 3))
    x[:, 1] = 7.0
    weight = np.array([[1.0, 2.0, 3.0], [0.0, 5.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, -1.0]])
    beta = np.array([0.1, 0.3, 0.7, 0.9])
    y, context = dense_batch_norm_forward(x, weight, beta=beta, eps=0.0)
    assert took_it(context)
    np.testing.assert_array_equal(y[:, 1:3], np.broadcast_to(beta[1:3], (50, 2)))
    gradients = dense_batch_norm_backward(rng.standard_normal((50, 4)), context)
    np.testing.assert_array_equal(gradients.dweight[1:3], 0)
    np.testing.assert_array_equal(gradients.dweight[:, 1], 0)
    assert np.isfinite(gradients.dx).all()


def test_columns_that_cancel_take_the_ordinary_way(forced, rng):
    batch = draw_dense(rng, Variant("float32", "relu"), (300,), 4, 16)
    x, weight = batch.x, batch.weight
    x[:, 1] = x[:, 0] + rng.standard_normal(300) * 1e-3
    weight[3] = [1.0, -1.0, 0.0, 0.0]  # z of feature 3 is a difference of nearly equal columns
    context = dense_batch_norm_forward(x, weight, **batch.options)[1]
    assert not took_it(context)


@pytest.mark.skipif(config.DISABLE_JIT, reason="NumPy warns of what the kernels look for")
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38])
def test_values_beyond_all_bounds_take_the_ordinary_way(forced, rng, monkeypatch, value):
    batch = draw_dense(rng, Variant("float32", None), (50,), 5, 24)
    batch.x[7, 2] = value
    y, context = dense_batch_norm_forward(batch.x, batch.weight, **batch.options)
    monkeypatch.setattr(dense_by_covariance, "use_covariance", lambda *_: False)
    ordinary = dense_batch_norm_forward(batch.x, batch.weight, **batch.options)[0]
    if took_it(context):  # finite, and so is the result
        right = reference.dense_batch_norm_forward(batch.x, batch.weight, **batch.options)
        np.testing.assert_allclose(y, right, rtol=0, atol=5e-6)
    else:
        np.testing.assert_array_equal(y, ordinary)


@pytest.mark.skipif(config.DISABLE_JIT, reason="NumPy warns of what the kernels look for")
def test_gradients_beyond_all_bounds_are_those_of_the_ordinary_way(forced, rng, monkeypatch):
    """Gamma / std is beyond float32, gamma is not."""
    x, weight = rng.standard_normal((50, 3)), rng.standard_normal((12, 3))
    x, weight = (x * 1e-10).astype(np.float32), weight.astype(np.float32)
    gamma, dy = np.full(12, 1e30, np.float32), rng.standard_normal((50, 12)).astype(np.float32)
    context = dense_batch_norm_forward(x, weight, gamma, eps=0.0)[1]
    assert took_it(context)
    found = dense_batch_norm_backward(dy, context)
    monkeypatch.setattr(dense_by_covariance, "use_covariance", lambda *_: False)
    ordinary = dense_batch_norm_backward(dy, dense_batch_norm_forward(x, weight, gamma, eps=0.0)[1])
    np.testing.assert_array_equal(np.isfinite(found.dx), np.isfinite(ordinary.dx))


@pytest.mark.parametrize("activation", [None, "relu"])
def test_a_large_mean_of_the_gradient_takes_the_ordinary_way(forced, rng, monkeypatch, activation):
    variant = Variant("float32", activation, residual=True)
    x, weight, dy, options = batch = draw_dense(rng, variant, (300,), 4, 16)
    dy += 1000.0
    if activation is not None:
        options["beta"] += 10.0  # nothing is cut off, so that the mean stays
        batch = batch._replace(dy=dy)
    _, context = dense_batch_norm_forward(x, weight, **options)
    assert took_it(context)
    found = dense_batch_norm_backward(dy, context)
    called = []
    ordinary = dense_batch_norm._product
    monkeypatch.setattr(
        dense_batch_norm, "_product", lambda *given: called.append(1) or ordinary(*given)
    )
    dense_batch_norm_backward(dy, context)
    assert called
    exact = reference.dense_batch_norm_backward(dy, x, weight, **options)
    spread = batch._replace(dy=(dy - 1000.0))
    bound = scales(DENSE, spread)["dx"] * 1000 * 2.0**-22  # dx is rounded beside the mean
    np.testing.assert_allclose(found.dx, exact.dx, rtol=0, atol=bound)
