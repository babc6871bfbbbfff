"""Statistics over several batches: merged safely, and the gradient of the last batch's part."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm import reference
from nbnorm.functional.batch_norm import batch_norm_backward, batch_norm_forward
from nbnorm.functional.cross_iteration_batch_norm import (
    BatchStatistics,
    batch_statistics,
    cross_iteration_batch_norm_forward,
    merge_statistics,
)
from tests.cases.finite_differences import assert_gradient

SHAPES_AND_AXES = [
    ((7, 3), 1),
    ((5, 3, 4, 5), 1),
    ((3, 9, 5), -1),
    ((6, 2, 3, 2), (1, 2, 3)),
    ((1, 3), 1),  # one value in a channel: the earlier batches make it possible
    ((2, 3, 65, 67), 1),  # planes
    ((300, 17), 1),  # sliced columns
]
# Between float64 computations that round to 1.1e-16, in sums of some thousands of terms.
ROUNDING = 1e-12
# float32 rounds to 6e-8, some ten times between x and a gradient of about 1.
FLOAT32 = 2e-6


def kept_shape(shape, axis):
    kept = sorted(a % len(shape) for a in np.atleast_1d(axis))
    return tuple(shape[a] for a in kept)


def draw(rng, shape, axis, batches=3):
    """Draw dy, the arguments with gradients, and what is known of earlier batches."""
    kept = kept_shape(shape, axis)
    arguments = {
        "x": rng.normal(1.0, 2.0, shape),
        "gamma": rng.uniform(0.5, 1.5, kept) * rng.choice([-1, 1], kept),
        "beta": rng.normal(size=kept),
        "residual": rng.normal(size=shape),
    }
    earlier = [
        BatchStatistics(rng.normal(size=kept), rng.uniform(0.5, 3, kept), int(rng.integers(1, 20)))
        for _ in range(batches)
    ]
    return rng.normal(size=shape), arguments, earlier


# --- merging --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "axis"), SHAPES_AND_AXES)
def test_statistics_of_a_batch(rng, shape, axis, dtype):
    x = rng.normal(30, 2, shape).astype(dtype)
    mean, var, count = batch_statistics(x, axis=axis)
    expected = reference.batch_statistics(x, axis=axis)
    tolerance = ROUNDING if dtype == np.float64 else FLOAT32
    np.testing.assert_allclose(mean, expected[0], rtol=tolerance)
    np.testing.assert_allclose(var, expected[1], rtol=tolerance, atol=tolerance)
    assert mean.dtype == var.dtype == np.float64
    assert count * np.prod(kept_shape(shape, axis), dtype=int) == x.size


@pytest.mark.parametrize("mean", [0.0, 1e8])
def test_merged_statistics_are_those_of_all_values(rng, mean):
    """With a mean of 1e8 standard deviations too, where the mean of squares has no digit left."""
    x = rng.normal(mean, 1.0, (30, 4)) + np.linspace(0, 3, 30)[:, np.newaxis]
    parts = [batch_statistics(part) for part in (x[:1], x[1:12], x[12:14], x[14:])]
    merged = merge_statistics(parts)
    np.testing.assert_allclose(merged.mean, x.mean(axis=0), rtol=1e-15, atol=1e-14)
    # Next to 1e8 a value, and so a deviation from the mean, has a last digit of 1.5e-8.
    np.testing.assert_allclose(merged.var, x.var(axis=0), rtol=1e-13 if mean == 0 else 1e-7)
    assert merged.count == 30
    squares = np.mean(x * x, axis=0) - x.mean(axis=0) ** 2
    assert (mean == 0) == np.allclose(squares, x.var(axis=0), rtol=1e-7)


def test_equal_constant_batches_merge_to_no_variance():
    parts = [batch_statistics(np.full((count, 1), 0.1)) for count in (3, 7, 11)]
    mean, var, _ = merge_statistics(parts)
    assert mean == 0.1
    assert var == 0


def test_merging_is_the_references(rng):
    _, _, parts = draw(rng, (3, 4), 1, batches=5)
    merged, expected = merge_statistics(parts), reference.merge_statistics(parts)
    for one, other in zip(merged, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-14)
    assert merge_statistics(parts[:1]).count == parts[0].count
    np.testing.assert_array_equal(merge_statistics(parts[:1]).var, parts[0].var)


def test_float32_statistics_merge_in_float64():
    third = np.float32(1 / 3)
    parts = [
        BatchStatistics(np.full(1, mean), np.ones(1, np.float32), 1) for mean in (third, -third)
    ]
    for merged in (merge_statistics(parts), merge_statistics(parts[:1])):
        assert merged.mean.dtype == merged.var.dtype == np.float64
    # 1 + third^2, which float32 would have rounded: two roundings of float64 at most.
    expected = 1 + float(third) ** 2
    np.testing.assert_allclose(merge_statistics(parts).var, expected, rtol=5e-16)


def test_an_infinite_mean_stays_one_whichever_batch_has_it():
    one, other = (BatchStatistics(np.array([m, 1.0]), np.ones(2), 2) for m in (np.inf, 3.0))
    for parts in ([one, other], [other, one]):
        np.testing.assert_array_equal(merge_statistics(parts).mean, [np.inf, 1.0])


def test_counts_of_batches_may_go_beyond_an_int32(rng):
    x = rng.standard_normal((4, 2))
    huge = BatchStatistics(np.zeros(2), np.ones(2), 2**53 - 1)
    _, context, _ = cross_iteration_batch_norm_forward(x, [huge] * 3, eps=0.0)
    assert context.count == 3 * (2**53 - 1) + 4
    # x has next to no part in the statistics of so many: they are constants, to some roundings.
    np.testing.assert_allclose(batch_norm_backward(x, context).dx, x, rtol=1e-14)
    np.testing.assert_allclose(context.var, 1.0, rtol=1e-14)


# --- the specification ----------------------------------------------------------------------


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize(("shape", "axis"), [((5, 3), 1), ((3, 2, 2), -1), ((1, 3), 1)])
def test_gradients_of_the_reference(rng, shape, axis, ddof):
    dy, arguments, earlier = draw(rng, shape, axis)
    options = {"earlier": earlier, "axis": axis, "eps": 0.1, "ddof": ddof, "activation": "silu"}
    gradients = reference.cross_iteration_batch_norm_backward(dy, **arguments, **options)
    for name, value in arguments.items():

        def loss(value, name=name):
            changed = arguments | {name: value}
            y = reference.cross_iteration_batch_norm_forward(**changed, **options)
            return float(np.sum(dy * y))

        assert_gradient(getattr(gradients, f"d{name}"), loss, value)


def test_finite_differences_reject_constant_statistics(rng):
    dy, arguments, earlier = draw(rng, (5, 3), 1)
    x = arguments["x"]
    merged = merge_statistics([batch_statistics(x), *earlier])
    frozen = reference.batch_norm_backward(dy, x, statistics=merged[:2]).dx

    def loss(x):
        return float(np.sum(dy * reference.cross_iteration_batch_norm_forward(x, earlier)))

    with pytest.raises(AssertionError):
        assert_gradient(frozen, loss, x)


def test_the_gradient_is_that_of_all_the_values_together(rng):
    """As if the earlier batches were there and their y led to no loss."""
    x, dy = rng.normal(size=(2, 12, 3))
    dy[:8] = 0
    whole = reference.batch_norm_backward(dy, x).dx[8:]
    earlier = [batch_statistics(x[:3]), batch_statistics(x[3:8])]
    _, context, _ = cross_iteration_batch_norm_forward(x[8:], earlier)
    np.testing.assert_allclose(batch_norm_backward(dy[8:], context).dx, whole, atol=1e-14)


# --- kernels --------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "axis"), SHAPES_AND_AXES)
def test_forward_and_backward(rng, shape, axis, dtype, ddof, activation):
    dy, arguments, earlier = draw(rng, shape, axis)
    dy = dy.astype(dtype)
    arguments = {name: value.astype(dtype) for name, value in arguments.items()}
    options = {"axis": axis, "eps": 1e-3, "ddof": ddof, "activation": activation}
    out = np.full(shape, np.nan, dtype)
    y, context, own = cross_iteration_batch_norm_forward(
        **arguments, earlier=earlier, **options, out=out
    )
    assert y is out
    np.testing.assert_array_equal(own.mean, batch_statistics(arguments["x"], axis=axis).mean)
    assert context.count == own.count + sum(part.count for part in earlier)
    expected = reference.cross_iteration_batch_norm_forward(**arguments, earlier=earlier, **options)
    tolerance = ROUNDING if dtype == np.float64 else FLOAT32
    np.testing.assert_allclose(y, expected, rtol=0, atol=tolerance * np.abs(expected).max())

    gradients = batch_norm_backward(dy, context)
    specified = reference.cross_iteration_batch_norm_backward(
        dy, **arguments, earlier=earlier, **options
    )
    for name in gradients._fields:
        ours, theirs = getattr(gradients, name), getattr(specified, name)
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


def test_without_earlier_batches_it_is_batch_norm(rng):
    dy, arguments, _ = draw(rng, (5, 3, 4), 1)
    y, context, _ = cross_iteration_batch_norm_forward(**arguments, earlier=[], ddof=1)
    expected, plain = batch_norm_forward(**arguments, ddof=1)
    np.testing.assert_allclose(y, expected, rtol=1e-13, atol=1e-13)
    assert context.count == plain.count
    ours, theirs = batch_norm_backward(dy, context), batch_norm_backward(dy, plain)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)


def test_a_large_mean_costs_no_digits(rng):
    """Batches of float32 at a mean of 1e4 standard deviations, against float64."""
    x = (1e4 + rng.normal(size=(4, 40, 3))).astype(np.float32)
    dy = rng.normal(size=(40, 3)).astype(np.float32)
    earlier = [batch_statistics(part) for part in x[:3]]
    y, context, _ = cross_iteration_batch_norm_forward(x[3], earlier)
    exact = [(*reference.batch_statistics(part), 40) for part in x[:3]]
    expected = reference.cross_iteration_batch_norm_forward(x[3], exact)
    np.testing.assert_allclose(y, expected, rtol=0, atol=FLOAT32 * np.abs(expected).max())
    dx = batch_norm_backward(dy, context).dx
    specified = reference.cross_iteration_batch_norm_backward(dy, x[3], exact).dx
    np.testing.assert_allclose(dx, specified, rtol=0, atol=FLOAT32 * np.abs(specified).max())


def test_any_strides_and_a_gradient_over_dy(rng):
    dy, arguments, earlier = draw(rng, (6, 4, 5), 1)
    x = np.asfortranarray(arguments["x"])
    y, context, _ = cross_iteration_batch_norm_forward(x, earlier)
    expected = reference.cross_iteration_batch_norm_forward(x, earlier)
    np.testing.assert_allclose(y, expected, rtol=0, atol=ROUNDING)
    dx = batch_norm_backward(dy, context, needs=("dx",)).dx
    over = batch_norm_backward(dy, context, out=type(batch_norm_backward(dy, context))(dx=dy)).dx
    assert over is dy
    np.testing.assert_array_equal(over, dx)


# --- arguments ------------------------------------------------------------------------------

GOOD = BatchStatistics(np.zeros(3), np.ones(3), 4)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": np.ones((0, 3))}, ValueError, "x is .* expected one value or more in each channel"),
        ({"x": np.ones((1, 3)), "earlier": []}, ValueError, "x is .* expected two values or more"),
        ({"earlier": GOOD}, TypeError, "earlier is .* expected a sequence of BatchStatistics"),
        ({"earlier": [GOOD[:2]]}, TypeError, "earlier is .* expected a sequence"),
        (
            {"earlier": [GOOD._replace(mean=np.zeros(2), var=np.ones(2))]},
            ValueError,
            r"earlier is .*\(3,\)",
        ),
        ({"earlier": [GOOD, GOOD._replace(var=np.ones(4))]}, ValueError, r"var is .*\(3,\)"),
        ({"earlier": [GOOD._replace(var=-np.ones(3))]}, ValueError, "var is -1.0; expected no neg"),
        ({"earlier": [GOOD._replace(mean=[0.0] * 3)]}, TypeError, "mean is .* a NumPy array"),
        ({"earlier": [GOOD._replace(count=0)]}, ValueError, "count is 0; expected an int of 1"),
        ({"earlier": [GOOD._replace(count=1.5)]}, TypeError, "count is 1.5; expected an int"),
        ({"eps": -1.0}, ValueError, "eps is -1.0"),
        ({"ddof": 2}, ValueError, "ddof is 2"),
        ({"gamma": np.ones(4)}, ValueError, "gamma is"),
        ({"residual": np.ones((5, 4))}, ValueError, "residual is"),
        ({"out": np.ones((5, 4))}, ValueError, "out is"),
        ({"activation": "softmax"}, ValueError, "activation is 'softmax'"),
    ],
)
def test_refuses(change, error, message):
    arguments = {"x": np.ones((5, 3)), "earlier": [GOOD]} | change
    with pytest.raises(error, match=f"cross_iteration_batch_norm_forward: {message}"):
        cross_iteration_batch_norm_forward(**arguments)


def test_refuses_to_merge_nothing():
    with pytest.raises(ValueError, match=r"merge_statistics: parts is \[\]; expected one Batch"):
        merge_statistics([])
    with pytest.raises(TypeError, match="batch_statistics: x is 3; expected a NumPy array"):
        batch_statistics(3)
