"""Moments: those of an array, merged in any way, and what is refused."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from nbnorm import Moments, reference
from nbnorm.reference.batch_norm import reduced_axes

SHAPES_AND_AXES = [
    ((7, 3), 1),
    ((5, 3, 4, 5), 1),
    ((3, 9, 5), -1),
    ((6, 2, 3, 2), (1, 2, 3)),
    ((1, 3), 1),  # one value in a channel
    ((2, 3, 65, 67), 1),  # planes
    ((300, 17), 1),  # sliced columns
]
# Between float64 computations that round to 1.1e-16, in sums of some thousands of terms.
ROUNDING = 1e-12
# float32 rounds to 6e-8, some ten times between x and a sum of squares of about its size.
FLOAT32 = 2e-6
TOLERANCE = {np.float64: ROUNDING, np.float32: FLOAT32}

each_type = pytest.mark.parametrize("dtype", [np.float32, np.float64])
each_shape = pytest.mark.parametrize(("shape", "axis"), SHAPES_AND_AXES)


def weights_for(rng, shape, axis, dtype=np.float64):
    """Weights of all places; one in four is 0."""
    reduced = reduced_axes(len(shape), axis)
    sizes = [size if a in reduced else 1 for a, size in enumerate(shape)]
    weights = rng.uniform(0.5, 2.0, sizes) * (rng.random(sizes) < 0.75)
    weights.flat[0] = 1.0
    return weights.astype(dtype)


# --- of an array ----------------------------------------------------------------------------


@each_type
@each_shape
def test_they_are_the_references(rng, shape, axis, dtype):
    x = rng.normal(30, 2, shape).astype(dtype)
    moments = Moments.of(x, axis=axis)
    mean, var = reference.batch_statistics(x, axis=axis)
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(moments.mean, mean, rtol=tolerance)
    np.testing.assert_allclose(moments.var(), var, rtol=tolerance, atol=tolerance)
    assert moments.mean.dtype == moments.var().dtype == np.float64
    assert moments.shape == mean.shape
    assert moments.count * mean.size == x.size


@each_type
@each_shape
def test_weighted_ones_are_the_references(rng, shape, axis, dtype):
    x = rng.normal(30, 2, shape).astype(dtype)
    weights = weights_for(rng, shape, axis, dtype)
    moments = Moments.of(x, axis=axis, sample_weight=weights)
    mean, var = reference.batch_statistics(x, axis=axis, sample_weight=weights)
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(moments.mean, mean, rtol=tolerance)
    np.testing.assert_allclose(moments.var(), var, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(moments.count, weights.sum(dtype=float), rtol=1e-12)


def test_a_mask_is_weights_of_zero_and_one(rng):
    x = rng.normal(size=(6, 3, 5))
    mask = rng.random((6, 1, 5)) < 0.5
    moments = Moments.of(x, sample_weight=mask)
    kept = x.transpose(1, 0, 2)[:, mask[:, 0]]
    np.testing.assert_allclose(moments.mean, kept.mean(axis=1), rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(moments.std(ddof=1), kept.std(axis=1, ddof=1), rtol=ROUNDING)
    assert moments.count == mask.sum()


@each_type
@pytest.mark.parametrize("layout", ["planes", "columns"])
def test_weighted_ones_of_padded_sequences(rng, layout, dtype):
    """Zeros of no weight, a thousand deviations from the mean: first pivots are among them."""
    x = rng.normal(1e3, 1, (3, 2, 90)).astype(dtype)
    mask = np.zeros((3, 1, 90), bool)
    mask[:, :, :20] = True
    x[:, :, 20:] = 0
    axis = 1
    if layout == "columns":
        x, mask, axis = (np.ascontiguousarray(a.transpose(0, 2, 1)) for a in (x, mask)), None, -1
        x, mask = x
    moments = Moments.of(x, axis=axis, sample_weight=mask)
    mean, var = reference.batch_statistics(x, axis=axis, sample_weight=mask)
    np.testing.assert_allclose(moments.mean, mean, rtol=TOLERANCE[dtype])
    np.testing.assert_allclose(moments.var(), var, rtol=100 * TOLERANCE[dtype])


def test_squares_beyond_float32_are_summed_one_by_one(rng):
    x = rng.normal(0, 1e30, (40, 3)).astype(np.float32)
    weights = weights_for(rng, x.shape, 1)
    for given in (None, weights):
        moments = Moments.of(x, sample_weight=given)
        mean, var = reference.batch_statistics(
            x, sample_weight=None if given is None else given.astype(np.float32)
        )
        np.testing.assert_allclose(moments.mean, mean, rtol=1e-12)
        np.testing.assert_allclose(moments.var(), var, rtol=1e-12)


@pytest.mark.parametrize("shape", [(0, 3), (4, 3, 0)])
def test_an_empty_array_has_none(shape):
    moments = Moments.of(np.ones(shape))
    assert moments.count == 0
    assert moments.shape == (3,)
    np.testing.assert_array_equal(moments.to_array(), Moments(3).to_array())


# --- merged ---------------------------------------------------------------------------------


def parts_of(x, edges, **options):
    return [Moments.of(part, **options) for part in np.split(x, edges)]


@pytest.mark.parametrize("mean", [0.0, 1e8])
@pytest.mark.parametrize("weighted", [False, True])
def test_any_order_and_grouping_gives_those_of_the_whole(rng, weighted, mean):
    """With a mean of 1e8 standard deviations too, where the mean of squares has no digit left."""
    x = rng.normal(mean, 1.0, (60, 4)) + np.linspace(0, 3, 60)[:, np.newaxis]
    weights = weights_for(rng, x.shape, 1) if weighted else np.ones((60, 1))
    whole = Moments.of(x, sample_weight=weights if weighted else None)
    edges = [1, 12, 12, 14, 40]
    parts = [
        Moments.of(part, sample_weight=own if weighted else None)
        for part, own in zip(np.split(x, edges), np.split(weights, edges), strict=True)
    ]
    groupings = [sum(parts), sum(parts[::-1]), sum(parts[:2]) + (sum(parts[2:4]) + sum(parts[4:]))]
    groupings += [sum(parts[i] for i in rng.permutation(len(parts))) for _ in range(5)]
    for merged in groupings:
        np.testing.assert_allclose(merged.count, whole.count, rtol=ROUNDING)
        np.testing.assert_allclose(merged.mean, whole.mean, rtol=ROUNDING, atol=ROUNDING)
        np.testing.assert_allclose(merged.var(), whole.var(), rtol=ROUNDING)
    exact = reference.batch_statistics(x - mean, sample_weight=weights)[1]
    np.testing.assert_allclose(whole.var(), exact, rtol=ROUNDING)


def test_the_same_order_gives_the_same_bits(rng):
    x = rng.normal(size=(60, 4))
    first, second = (sum(parts_of(x, [7, 20])).to_array() for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_update_and_merge_change_these_and_plus_does_not(rng):
    x = rng.normal(size=(60, 4))
    one, other = parts_of(x, [20])
    before = one.to_array()
    both = one + other
    np.testing.assert_array_equal(one.to_array(), before)
    assert one.merge(other) is one
    np.testing.assert_array_equal(one.to_array(), both.to_array())
    updated = Moments(4)
    assert updated.update(x[:20]).update(x[20:]) is updated
    np.testing.assert_array_equal(updated.to_array(), both.to_array())
    copied = Moments(4).merge(other)
    copied.update(x)
    np.testing.assert_array_equal(other.to_array(), parts_of(x, [20])[1].to_array())


def test_a_constant_merges_to_no_variance():
    merged = sum(Moments.of(np.full((count, 1), 0.1)) for count in (3, 7, 11))
    assert merged.mean == 0.1
    assert merged.var() == 0


def test_a_mean_far_from_the_deviations_keeps_their_digits(rng):
    """1e15 and steps of an eighth: a float64 mean alone would be off by a third of a deviation."""
    x = 1e15 + rng.integers(0, 8, (90, 2)) / 8
    whole = sum(parts_of(x, [1, 40, 41]))
    exact = (x - 1e15).var(axis=0)
    np.testing.assert_allclose(whole.var(), exact, rtol=ROUNDING)


def test_an_infinite_mean_stays_one_whichever_part_has_it():
    one, other = (
        Moments.from_statistics(np.array([mean, 1.0]), np.ones(2), 2) for mean in (np.inf, 3.0)
    )
    for merged in (one + other, other + one):
        np.testing.assert_array_equal(merged.mean, [np.inf, 1.0])


def test_merging_is_the_references(rng):
    parts = [(rng.normal(size=4), rng.uniform(0.5, 3, 4), int(rng.integers(1, 20))) for _ in "abc"]
    merged = sum(Moments.from_statistics(*part) for part in parts)
    mean, var, count = reference.merge_statistics(parts)
    np.testing.assert_allclose(merged.mean, mean, rtol=1e-13)
    np.testing.assert_allclose(merged.var(), var, rtol=1e-13)
    assert merged.count == count


# --- transport ------------------------------------------------------------------------------


def test_arrays_and_pickles_carry_every_bit(rng):
    moments = Moments.of(rng.normal(1e3, 1, (6, 2, 3, 2)), axis=(1, 2))
    array = moments.to_array()
    assert array.shape == (3 * 6 + 1,)
    for copied in (
        Moments.from_array(array, shape=(2, 3)), pickle.loads(pickle.dumps(moments)),
        moments.copy(),
    ):  # fmt: skip
        assert copied.shape == (2, 3)
        np.testing.assert_array_equal(copied.to_array(), array)
        copied.merge(moments)
    np.testing.assert_array_equal(moments.to_array(), array)
    assert Moments.from_array(array).shape == (6,)


def test_variances_come_back_from_statistics(rng):
    mean, var = rng.normal(size=3), rng.uniform(1, 2, 3).astype(np.float32)
    for ddof in (0, 1):
        moments = Moments.from_statistics(mean, var, 5, ddof=ddof)
        np.testing.assert_allclose(moments.var(ddof), var, rtol=1e-15)
        assert moments.count == 5
    assert repr(moments) == "Moments(count=5, shape=(3,))"


# --- refused --------------------------------------------------------------------------------

X = np.ones((4, 3))
OWN = Moments.of(X)
ARRAY = OWN.to_array()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Moments(-1), ValueError, "Moments: shape is -1; expected sizes of 0 or more"),
        (lambda: Moments("3"), TypeError, "Moments: shape is '3'; expected an int or a tuple"),
        (lambda: Moments.of(3), TypeError, "Moments.of: x is 3; expected a NumPy array"),
        (lambda: Moments.of(X, axis=2), ValueError, "Moments.of: axis is 2"),
        (lambda: OWN.update(X[:, :2]), ValueError, r"Moments.update: other is .*\(3,\)"),
        (lambda: OWN.merge(Moments(2)), ValueError, r"Moments.merge: other is .*\(3,\)"),
        (lambda: OWN.merge(ARRAY), TypeError, r"Moments.merge: other is .* Moments of shape \(3,"),
        (lambda: OWN.var(2), ValueError, "Moments.var: ddof is 2"),
        (lambda: Moments(3).var(), ValueError, "Moments.var: count is 0.0; expected .* than 0"),
        (lambda: Moments.of(X[:1]).std(1), ValueError, "count is 1.0; expected .* more than 1"),
        (lambda: Moments.from_array([1.0]), TypeError, "from_array: array is .* a NumPy array"),
        (lambda: Moments.from_array(ARRAY[:-1]), ValueError, "array is .* 3 c \\+ 1 numbers"),
        (lambda: Moments.from_array(ARRAY, shape=2), ValueError, "array is .* 7 numbers"),
        (lambda: Moments.from_array(-ARRAY), ValueError, "count is -4.0"),
        (
            lambda: Moments.from_array(np.array([1.0, 0.0, 0.0, -1.0])),
            ValueError,
            "squares is -1.0; expected no negative",
        ),
        (
            lambda: Moments.from_statistics(X[0], -X[0], 2),
            ValueError,
            "var is -1.0; expected no negative variance",
        ),
        (lambda: Moments.from_statistics(X[0], X[0, :2], 2), ValueError, r"var is .*\(3,\)"),
        (lambda: Moments.from_statistics(X[0], X[0], -1), ValueError, "count is -1"),
        (lambda: Moments.from_statistics(X[0], X[0], 0, ddof=1), ValueError, "count is 0.0"),
    ],
)
def test_refuses(call, error, message):
    before = OWN.to_array()
    with pytest.raises(error, match=message):
        call()
    np.testing.assert_array_equal(OWN.to_array(), before)


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        (np.ones((4, 3)), ValueError, r"broadcasts to \(4, 1\)"),
        (np.ones(4), ValueError, r"broadcasts to \(4, 1\)"),
        (-np.ones((4, 1)), ValueError, "finite weights, 0 or more"),
        (np.full((4, 1), np.nan), ValueError, "finite weights, 0 or more"),
        (np.ones((4, 1), int), TypeError, "an array of float32 or float64"),
        ([[1.0]] * 4, TypeError, "a NumPy array"),
    ],
)
def test_refuses_weights(weight, error, message):
    with pytest.raises(error, match=f"Moments.of: sample_weight is .*{message}"):
        Moments.of(X, sample_weight=weight)


def test_is_not_added_to_numbers():
    with pytest.raises(TypeError):
        OWN + 1
    with pytest.raises(TypeError):
        1 + OWN
