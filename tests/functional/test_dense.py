"""dense_forward and dense_backward against the reference, finite differences and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm import reference
from nbnorm.functional.dense import DenseGradients, dense_backward, dense_forward
from tests.cases.finite_differences import assert_gradient

SHAPES = [(5, 3), (2, 4, 3), (3,), (1, 3), (0, 3)]
TOLERANCE = {np.float32: 1e-6, np.float64: 1e-14}


def operands(rng, shape, dtype, k=4):
    x = rng.standard_normal(shape).astype(dtype)
    weight = rng.standard_normal((k, shape[-1])).astype(dtype)
    bias = rng.standard_normal(k).astype(dtype)
    dy = rng.standard_normal((*shape[:-1], k)).astype(dtype)
    return x, weight, bias, dy


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("with_bias", [True, False])
def test_forward_is_the_reference(rng, shape, dtype, with_bias):
    x, weight, bias, _ = operands(rng, shape, dtype)
    bias = bias if with_bias else None
    y = dense_forward(x, weight, bias)
    assert y.dtype == dtype
    expected = reference.dense_forward(x, weight, bias)
    np.testing.assert_allclose(y, expected, rtol=0, atol=10 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_backward_is_the_reference(rng, shape, dtype):
    x, weight, _, dy = operands(rng, shape, dtype)
    gradients = dense_backward(dy, x, weight)
    for got, expected in zip(gradients, reference.dense_backward(dy, x, weight), strict=True):
        assert got.dtype == dtype
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=0, atol=10 * TOLERANCE[dtype])


@pytest.mark.variant
def test_backward_is_the_derivative_of_forward(rng):
    x, weight, bias, dy = operands(rng, (2, 4, 3), np.float64)
    gradients = dense_backward(dy, x, weight)
    assert_gradient(gradients.dx, lambda x: np.sum(dy * dense_forward(x, weight, bias)), x)
    assert_gradient(gradients.dweight, lambda w: np.sum(dy * dense_forward(x, w, bias)), weight)
    assert_gradient(gradients.dbias, lambda b: np.sum(dy * dense_forward(x, weight, b)), bias)


def test_any_strides(rng):
    x, weight, bias, dy = operands(rng, (6, 4), np.float64, k=3)
    expected = dense_forward(x, weight, bias)
    np.testing.assert_allclose(
        dense_forward(np.asfortranarray(x), np.asfortranarray(weight), bias), expected
    )
    wide = np.empty((6, 8))
    wide[:, ::2] = x
    np.testing.assert_allclose(dense_forward(wide[:, ::2], weight, bias), expected)
    gradients = dense_backward(np.asfortranarray(dy), wide[:, ::2], weight)
    np.testing.assert_allclose(gradients.dweight, dy.T @ x)


def test_out_is_written_and_returned(rng):
    x, weight, bias, dy = operands(rng, (5, 3), np.float32)
    out = np.empty((5, 4), np.float32)
    assert dense_forward(x, weight, bias, out=out) is out
    np.testing.assert_array_equal(out, dense_forward(x, weight, bias))

    given = DenseGradients(dx=np.empty_like(x), dbias=np.empty_like(bias))
    gradients = dense_backward(dy, x, weight, out=given)
    assert gradients.dx is given.dx
    assert gradients.dbias is given.dbias
    for got, expected in zip(gradients, dense_backward(dy, x, weight), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_needs_leaves_the_others_out(rng):
    x, weight, _, dy = operands(rng, (5, 3), np.float32)
    gradients = dense_backward(dy, x, weight, needs=["dweight"])
    assert gradients.dx is None
    assert gradients.dbias is None
    np.testing.assert_array_equal(gradients.dweight, dense_backward(dy, x, weight).dweight)


def test_dbias_of_many_rows_keeps_its_digits():
    dy = np.full((1_000_000, 1), 0.1, np.float32)
    gradient = dense_backward(dy, np.zeros_like(dy), np.zeros((1, 1), np.float32)).dbias
    np.testing.assert_allclose(gradient, 1_000_000 * np.float64(np.float32(0.1)), rtol=1e-7)


X, WEIGHT, BIAS, DY = np.ones((5, 3)), np.ones((4, 3)), np.ones(4), np.ones((5, 4))


def read_only(shape):
    array = np.ones(shape)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (([[1.0]], WEIGHT), {}, TypeError, "x is .* expected a NumPy array"),
        ((X.astype(int), WEIGHT), {}, TypeError, "x is .*int64.* expected .*float32 or float64"),
        ((X, WEIGHT.astype(np.float32)), {}, TypeError, "weight is .*float32.* expected .*float64"),
        ((X, WEIGHT[0]), {}, ValueError, "weight is .* expected an array of 2 dimensions"),
        ((X[:, :2], WEIGHT), {}, ValueError, r"x is .*\(5, 2\); expected shape \(\.\.\., 3\)"),
        ((np.ones(()), WEIGHT), {}, ValueError, r"x is .*\(\); expected"),
        ((X, WEIGHT, BIAS[:3]), {}, ValueError, r"bias is .*\(3,\); expected shape \(4,\)"),
        ((X, WEIGHT), {"out": np.ones((5, 3))}, ValueError, r"out is .* expected shape \(5, 4\)"),
        ((X, WEIGHT), {"out": read_only((5, 4))}, ValueError, "out is .* read-only"),
        ((X, np.ones((3, 3))), {"out": X}, ValueError, "out is .* does not overlap x"),
    ],
)
def test_forward_refuses(arguments, options, error, message):
    with pytest.raises(error, match=f"dense_forward: {message}"):
        dense_forward(*arguments, **options)


SHARED = np.zeros((5, 4))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((DY[:4], X, WEIGHT), {}, ValueError, r"dy is .* expected shape \(5, 4\)"),
        ((DY.astype(np.float32), X, WEIGHT), {}, TypeError, "dy is .* expected .*float64"),
        ((DY, X, WEIGHT), {"needs": ["dy"]}, ValueError, "needs is .* expected names out of"),
        ((DY, X, WEIGHT), {"needs": "dx"}, TypeError, "needs is .* expected names out of"),
        ((DY, X, WEIGHT), {"out": (None, None, None)}, TypeError, "out is .* a DenseGradients"),
        ((DY, X, WEIGHT), {"out": DenseGradients(dx=X)}, ValueError, "out.dx is .* overlap x"),
        (
            (DY, X, WEIGHT),
            {"out": DenseGradients(dx=SHARED[:, :3], dbias=SHARED[0])},
            ValueError,
            "out.dbias is .* overlap out.dx",
        ),
    ],
)
def test_backward_refuses(arguments, options, error, message):
    before = [np.array(argument) for argument in arguments]
    with pytest.raises(error, match=f"dense_backward: {message}"):
        dense_backward(*arguments, **options)
    for argument, old in zip(arguments, before, strict=True):
        np.testing.assert_array_equal(argument, old)
    assert not SHARED.any()
