"""Statistics over several batches, and the gradient of the last batch's part."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm import reference
from nbnorm.functional.batch_norm import batch_norm_backward, batch_norm_forward
from nbnorm.functional.cross_iteration_batch_norm import cross_iteration_batch_norm_forward
from nbnorm.functional.moments import Moments
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
    """Draw dy, the arguments with gradients, and mean, var and count of earlier batches."""
    kept = kept_shape(shape, axis)
    arguments = {
        "x": rng.normal(1.0, 2.0, shape),
        "gamma": rng.uniform(0.5, 1.5, kept) * rng.choice([-1, 1], kept),
        "beta": rng.normal(size=kept),
        "residual": rng.normal(size=shape),
    }
    earlier = [
        (rng.normal(size=kept), rng.uniform(0.5, 3, kept), int(rng.integers(1, 20)))
        for _ in range(batches)
    ]
    return rng.normal(size=shape), arguments, earlier


def moments_of(earlier):
    return [Moments.from_statistics(*part) for part in earlier]


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
    merged = reference.merge_statistics([(*reference.batch_statistics(x), len(x)), *earlier])
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
    earlier = [Moments.of(x[:3]), Moments.of(x[3:8])]
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
        **arguments, earlier=moments_of(earlier), **options, out=out
    )
    assert y is out
    np.testing.assert_array_equal(own.mean, Moments.of(arguments["x"], axis=axis).mean)
    assert context.count == own.count + sum(count for _, _, count in earlier)
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
    earlier = [Moments.of(part) for part in x[:3]]
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
    y, context, _ = cross_iteration_batch_norm_forward(x, moments_of(earlier))
    expected = reference.cross_iteration_batch_norm_forward(x, earlier)
    np.testing.assert_allclose(y, expected, rtol=0, atol=ROUNDING)
    dx = batch_norm_backward(dy, context, needs=("dx",)).dx
    over = batch_norm_backward(dy, context, out=type(batch_norm_backward(dy, context))(dx=dy)).dx
    assert over is dy
    np.testing.assert_array_equal(over, dx)


def test_counts_of_batches_may_go_beyond_an_int32(rng):
    x = rng.standard_normal((4, 2))
    huge = Moments.from_statistics(np.zeros(2), np.ones(2), 2**53 - 1)
    _, context, _ = cross_iteration_batch_norm_forward(x, [huge] * 3, eps=0.0)
    assert context.count == pytest.approx(3 * (2**53 - 1) + 4, rel=4e-16)  # a float64
    # x has next to no part in the statistics of so many: they are constants, to some roundings.
    np.testing.assert_allclose(batch_norm_backward(x, context).dx, x, rtol=1e-14)
    np.testing.assert_allclose(context.var, 1.0, rtol=1e-14)


# --- arguments ------------------------------------------------------------------------------

GOOD = Moments.from_statistics(np.zeros(3), np.ones(3), 4)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": np.ones((0, 3))}, ValueError, "x is .* expected one value or more in each channel"),
        ({"x": np.ones((1, 3)), "earlier": []}, ValueError, "x is .* expected two values or more"),
        ({"earlier": GOOD}, TypeError, "earlier is .* expected a sequence of Moments"),
        ({"earlier": [(GOOD.mean, GOOD.var(), 4)]}, TypeError, "earlier is .* expected Moments of"),
        (
            {"earlier": [GOOD, Moments(2)]},
            ValueError,
            r"earlier is .* expected Moments of .*\(3,\)",
        ),
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
