"""A batch in parts, `moments=` and `sums=`, against the reference on the whole; and weights."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import nbnorm
from nbnorm import Moments, reference
from nbnorm.reference.batch_norm import reduced_axes
from tests.cases.finite_differences import assert_gradient
from tests.functional.test_moments import ROUNDING, weights_for

FLOAT32 = 2e-5
SHAPES_AND_AXES = [
    ((7, 3), 1),
    ((5, 3, 4, 5), 1),
    ((4, 9, 5), -1),
    ((6, 2, 3, 2), (1, 2, 3)),
    ((5, 3, 41, 67), 1),  # planes
    ((300, 17), 1),  # sliced columns
    ((9, 3, 2), 1),  # short planes
]
EDGES = [1, 1, 3]  # one sample, none, two, the rest


class Machines:
    """Calls on threads that wait for one another wherever one asks for the sum of all."""

    def __init__(self, count):
        self.barrier = threading.Barrier(count, timeout=60)
        self.given = [None] * count

    def total(self, rank):
        """What adds up what all of them give, in the order of their ranks."""

        def total(part):
            self.given[rank] = part
            self.barrier.wait()
            whole = sum(self.given[1:], self.given[0])
            self.barrier.wait()
            return whole

        return total

    def run(self, work):
        """work(rank, total) on each; what they return."""
        results = [None] * len(self.given)

        def one(rank):
            results[rank] = work(rank, self.total(rank))

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(len(results))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert None not in results
        return results


def draw(rng, shape, axis, dtype):
    kept = Moments.of(np.empty((0, *shape[1:])), axis=axis).shape
    signs = rng.choice([-1, 1], kept)
    arguments = {
        "x": rng.normal(1, 2, shape), "gamma": rng.uniform(0.5, 1.5, kept) * signs,
        "beta": rng.normal(size=kept), "residual": rng.normal(size=shape),
    }  # fmt: skip
    return rng.normal(size=shape).astype(dtype), {k: v.astype(dtype) for k, v in arguments.items()}


def part_of(arguments, i, per_sample=("x", "residual", "sample_weight")):
    return {
        name: np.split(value, EDGES)[i] if name in per_sample else value
        for name, value in arguments.items()
    }


def assert_close(actual, expected, dtype):
    tolerance = ROUNDING if dtype == np.float64 else FLOAT32
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def assert_is_the_whole(results, expected, specified, dtype):
    """Per sample what the whole has; of parameters, parts that add up to it."""
    assert_close(np.concatenate([y for y, _ in results]), expected, dtype)
    for name, whole in specified._asdict().items():
        ours = [getattr(gradients, name) for _, gradients in results]
        add_up = np.concatenate if name in ("dx", "dresidual") else sum
        assert_close(add_up(ours), whole, dtype)


# --- batch norm -----------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "axis"), SHAPES_AND_AXES)
def test_parts_are_the_whole(rng, shape, axis, dtype, ddof, weighted):
    """By Moments and sums that were added up; and by callables, with the same bits."""
    dy, arguments = draw(rng, shape, axis, dtype)
    options = {"axis": axis, "eps": 1e-3, "ddof": ddof, "activation": "silu"}
    if weighted:
        arguments["sample_weight"] = weights_for(rng, shape, axis, dtype)
    expected = reference.batch_norm_forward(**arguments, **options)
    specified = reference.batch_norm_backward(dy, **arguments, **options)

    parts, dys = [part_of(arguments, i) for i in range(4)], np.split(dy, EDGES)
    own = [
        Moments.of(part["x"], axis=axis, sample_weight=part.get("sample_weight")) for part in parts
    ]
    whole = sum(own)
    forward = [nbnorm.batch_norm_forward(**part, moments=whole, **options) for part in parts]
    contexts = [context for _, context in forward]
    total = sum(map(nbnorm.batch_norm_gradient_sums, dys, contexts))
    assert total.dtype == np.float64
    sums = reference.batch_norm_gradient_sums(dy, **arguments, **options)
    assert_close(total, sums, dtype)
    by_arrays = [
        (y, nbnorm.batch_norm_backward(d, context, sums=total))
        for (y, context), d in zip(forward, dys, strict=True)
    ]
    assert_is_the_whole(by_arrays, expected, specified, dtype)

    def work(rank, total):
        y, context = nbnorm.batch_norm_forward(**parts[rank], moments=total, **options)
        return y, nbnorm.batch_norm_backward(dys[rank], context, sums=total)

    for one, other in zip(by_arrays, Machines(4).run(work), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        for ours, theirs in zip(one[1], other[1], strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_without_sums_the_other_parts_are_constants(rng):
    """As cross-iteration batch norm has it."""
    dy, arguments = draw(rng, (5, 3, 4), 1, np.float64)
    earlier = Moments.of(rng.normal(size=(6, 3)))
    whole = Moments.of(arguments["x"]) + earlier
    _, context = nbnorm.batch_norm_forward(**arguments, moments=whole)
    specified = reference.cross_iteration_batch_norm_backward(
        dy, earlier=[(earlier.mean, earlier.var(), 6)], **arguments
    )
    for ours, theirs in zip(nbnorm.batch_norm_backward(dy, context), specified, strict=True):
        assert_close(ours, theirs, np.float64)


def test_only_what_is_needed_is_worked_out(rng):
    dy, arguments = draw(rng, (5, 3, 4), 1, np.float64)
    whole = Moments.of(rng.normal(size=(6, 3))) + Moments.of(arguments["x"])
    _, context = nbnorm.batch_norm_forward(**arguments, moments=whole)
    total = nbnorm.batch_norm_gradient_sums(dy, context) + 1.0
    every = nbnorm.batch_norm_backward(dy, context, sums=total)
    for name in every._fields:
        few = nbnorm.batch_norm_backward(dy, context, sums=total, needs=[name])
        np.testing.assert_array_equal(getattr(few, name), getattr(every, name))
        assert sum(gradient is not None for gradient in few) == 1
    called = []
    nbnorm.batch_norm_backward(dy, context, sums=lambda own: called.append(1) or own, needs=[])
    assert called == [1]  # the other machines wait for it


# --- products -------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("operation", ["dense", "conv2d"])
def test_parts_of_products_are_the_whole(rng, operation, dtype, weighted):
    if operation == "dense":
        shape, weight, y, options = (7, 4), (3, 4), (7, 3), {}
    else:
        shape, weight, y, options = (7, 4, 6, 5), (3, 4, 3, 3), (7, 3, 6, 5), {"padding": 1}
    arguments = {
        "x": rng.normal(1, 2, shape), "weight": rng.normal(size=weight), "bias": rng.normal(size=3),
        "gamma": rng.uniform(0.5, 1.5, 3), "beta": rng.normal(size=3),
        "residual": rng.normal(size=y),
    }  # fmt: skip
    arguments = {name: value.astype(dtype) for name, value in arguments.items()}
    dy = rng.normal(size=y).astype(dtype)
    options |= {"eps": 1e-3, "activation": "silu"}
    if weighted:
        arguments["sample_weight"] = weights_for(rng, y, 1, dtype)
    forward, backward = (
        getattr(nbnorm, f"{operation}_batch_norm_{direction}")
        for direction in ("forward", "backward")
    )
    expected = getattr(reference, forward.__name__)(**arguments, **options)
    specified = getattr(reference, backward.__name__)(dy, **arguments, **options)
    dys = np.split(dy, EDGES)

    def work(rank, total):
        y, context = forward(**part_of(arguments, rank), moments=total, **options)
        by_callable = backward(dys[rank], context, sums=total)
        sums = total(nbnorm.batch_norm_gradient_sums(np.asarray(dys[rank]), context.normalization))
        for one, other in zip(by_callable, backward(dys[rank], context, sums=sums), strict=True):
            np.testing.assert_array_equal(one, other)
        return y, by_callable

    results = Machines(4).run(work)
    scale = np.abs(specified.dweight).max()
    dbias = sum(gradients.dbias for _, gradients in results)
    assert np.abs(dbias).max() < scale * (1e-11 if dtype == np.float64 else 1e-4)  # 0, if exact
    specified = specified._replace(dbias=dbias)
    assert_is_the_whole(results, expected, specified, dtype)


# --- weights --------------------------------------------------------------------------------


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize(("shape", "axis"), [((5, 3), 1), ((3, 2, 4), 1), ((3, 2, 2), -1)])
def test_weighted_gradients_of_the_reference(rng, shape, axis, ddof):
    dy, arguments = draw(rng, shape, axis, np.float64)
    options = {
        "axis": axis, "eps": 0.1, "ddof": ddof, "activation": "silu",
        "sample_weight": weights_for(rng, shape, axis),
    }  # fmt: skip
    gradients = reference.batch_norm_backward(dy, **arguments, **options)
    for name, value in arguments.items():

        def loss(value, name=name):
            y = reference.batch_norm_forward(**arguments | {name: value}, **options)
            return float(np.sum(dy * y))

        assert_gradient(getattr(gradients, f"d{name}"), loss, value)


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "axis"), SHAPES_AND_AXES)
def test_weights(rng, shape, axis, dtype, ddof):
    dy, arguments = draw(rng, shape, axis, dtype)
    options = {
        "axis": axis, "eps": 1e-3, "ddof": ddof, "activation": "silu",
        "sample_weight": weights_for(rng, shape, axis, dtype),
    }  # fmt: skip
    y, context = nbnorm.batch_norm_forward(**arguments, **options)
    assert_close(y, reference.batch_norm_forward(**arguments, **options), dtype)
    specified = reference.batch_norm_backward(dy, **arguments, **options)
    for ours, theirs in zip(nbnorm.batch_norm_backward(dy, context), specified, strict=True):
        assert_close(ours, theirs, dtype)


def test_weights_of_one_are_no_weights(rng):
    dy, arguments = draw(rng, (6, 3, 70), 1, np.float64)
    plain, context = nbnorm.batch_norm_forward(**arguments)
    y, weighted = nbnorm.batch_norm_forward(**arguments, sample_weight=np.ones((1, 1, 1), bool))
    assert_close(y, plain, np.float64)
    assert weighted.count == context.count
    for ours, theirs in zip(
        nbnorm.batch_norm_backward(dy, weighted), nbnorm.batch_norm_backward(dy, context),
        strict=True,
    ):  # fmt: skip
        assert_close(ours, theirs, np.float64)


def test_frequencies_are_values_that_often(rng):
    """With ddof 1 as with 0."""
    x, counts = rng.normal(size=(5, 3)), np.array([1, 3, 0, 2, 1])
    for ddof in (0, 1):
        _, context = nbnorm.batch_norm_forward(
            x, sample_weight=counts[:, np.newaxis].astype(float), ddof=ddof
        )
        repeated = np.repeat(x, counts, axis=0)
        np.testing.assert_allclose(context.mean, repeated.mean(axis=0), rtol=0, atol=ROUNDING)
        np.testing.assert_allclose(context.var, repeated.var(axis=0, ddof=ddof), rtol=ROUNDING)


# --- refused --------------------------------------------------------------------------------

X = np.arange(12.0).reshape(4, 3)
FEW = Moments.from_statistics(np.zeros(3), np.ones(3), 1)
GOOD = Moments.of(X)
PAIR = (np.zeros(3), np.ones(3))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"moments": PAIR}, TypeError, r"moments is .* expected Moments of shape \(3,\)"),
        ({"moments": Moments(2)}, ValueError, r"moments is .* expected Moments of shape \(3,\)"),
        ({"moments": FEW}, ValueError, "moments is .* a count above 1"),
        ({"moments": lambda own: FEW}, ValueError, "moments is .* a count above 1"),
        ({"moments": lambda own: None}, TypeError, "moments is None; expected Moments"),
        ({"moments": GOOD, "statistics": PAIR}, ValueError, "moments is .* None beside statistics"),
        (
            {"sample_weight": np.ones((4, 1)), "statistics": PAIR},
            ValueError,
            "sample_weight is .* None beside statistics",
        ),
        (
            {"sample_weight": np.zeros((4, 1))},
            ValueError,
            ".* sum of 0; expected .* sum is above 0",
        ),
        (
            {"sample_weight": np.full((4, 1), 0.25), "ddof": 1},
            ValueError,
            ".* sum of 1; expected .* sum is above 1",
        ),
    ],
)
def test_forward_refuses(options, error, message):
    out = np.full(X.shape, 7.0)
    with pytest.raises(error, match=f"batch_norm_forward: {message}"):
        nbnorm.batch_norm_forward(X, out=out, **options)
    assert (out == 7.0).all()


def test_a_product_takes_a_callable_alone():
    with pytest.raises(TypeError, match=r"dense_batch_norm_forward: moments is .* a callable"):
        nbnorm.dense_batch_norm_forward(X, np.ones((3, 3)), moments=GOOD)


@pytest.mark.parametrize(
    ("sums", "error", "message"),
    [
        (np.zeros((2, 2)), ValueError, r"sums is .* shape \(2, 3\)"),
        (np.zeros((2, 3), np.float32), TypeError, "sums is .* an array of float64"),
        (lambda own: own[0], ValueError, r"sums is .* shape \(2, 3\)"),
        (lambda own: None, TypeError, "sums is None; expected a NumPy array"),
    ],
)
def test_backward_refuses(sums, error, message):
    _, context = nbnorm.batch_norm_forward(X, moments=GOOD)
    out = nbnorm.BatchNormGradients(dx=np.full(X.shape, 7.0))
    with pytest.raises(error, match=f"batch_norm_backward: {message}"):
        nbnorm.batch_norm_backward(X, context, sums=sums, out=out)
    assert (out.dx == 7.0).all()


@pytest.mark.parametrize("statistics", [None, PAIR])
def test_sums_need_the_context_of_moments(statistics):
    _, context = nbnorm.batch_norm_forward(X, statistics=statistics)
    message = "sums is .* None: this context is of a batch_norm_forward without moments"
    with pytest.raises(ValueError, match=message):
        nbnorm.batch_norm_backward(X, context, sums=np.zeros((2, 3)))


def test_weights_that_were_replaced_are_refused():
    _, context = nbnorm.batch_norm_forward(X, sample_weight=np.ones((4, 1)))
    for weights in (np.ones(3), np.ones(4, np.float32)):
        with pytest.raises(ValueError, match=r"context is .* no longer match"):
            nbnorm.batch_norm_backward(X, context._replace(weights=weights))


def test_reduced_axes_have_the_weights(rng):
    """Weights for each place of a picture, whatever the sample, and the other way round."""
    x = rng.normal(size=(4, 3, 5, 6))
    assert reduced_axes(4, 1) == (0, 2, 3)
    for shape in [(1, 1, 5, 6), (4, 1, 1, 1), (5, 6), (6,), (4, 1, 1, 6)]:
        weights = rng.uniform(0.5, 2, shape)
        y, _ = nbnorm.batch_norm_forward(x, sample_weight=weights)
        assert_close(y, reference.batch_norm_forward(x, sample_weight=weights), np.float64)
