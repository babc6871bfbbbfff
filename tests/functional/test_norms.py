"""L1 and L2 normalization against the reference: kinds, layouts, axes, values at the ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core import config

from nbnorm import l1_normalize_backward, l1_normalize_forward, l2_normalize_forward
from nbnorm.launch import norms
from nbnorm.launch.scratch import Scratch
from tests.cases.batch_norm import LAYOUTS, assert_same_bits, poisoned, surrounded
from tests.cases.finite_differences import assert_gradient
from tests.cases.norms import (
    FUNCTIONS,
    KINDS,
    assert_within_bounds,
    draw,
    results,
    summed_axes,
)
from tests.cases.strategies import arranged, arrangements

each_order = pytest.mark.parametrize("order", FUNCTIONS)
each_type = pytest.mark.parametrize("dtype", ["float32", "float64"])
each_kind = pytest.mark.parametrize("kind", KINDS)

AXES = [1, -1, 0, None, "sample", (1, 2), (1, 3), (0, 2), (2, 3), (0, 1, 2, 3), (3, -3, 2)]


@pytest.fixture
def in_slices(monkeypatch):
    """Plans that cut each strip into slices, as those of large arrays of few strips do."""
    planned = norms.norm_plan

    def sliced(*arguments):
        one = planned(*arguments)
        if one.tiling.step == 0:
            return one
        strips = arguments[0][0] * one.tiling.sample_strips
        return one._replace(tiling=one.tiling._replace(strips=1, slices=3), tiles=3 * strips)

    monkeypatch.setattr(norms, "norm_plan", sliced)


# --- values ---------------------------------------------------------------------------------


@each_type
@each_kind
@each_order
def test_each_kind_is_the_reference(order, kind, dtype):
    for shape in KINDS[kind]:
        x, dy = draw(shape, dtype)
        found = results(order, x, dy, eps=1e-3)
        assert_within_bounds(*(found[k] for k in ("y", "dx", "norm")), x, dy, order, 1, 1e-3)


@pytest.mark.usefixtures("in_slices")
@each_type
@each_kind
@each_order
def test_slices_are_the_reference(order, kind, dtype):
    for shape in KINDS[kind]:
        x, dy = draw(shape, dtype)
        found = results(order, x, dy, eps=1e-3)
        assert_within_bounds(*(found[k] for k in ("y", "dx", "norm")), x, dy, order, 1, 1e-3)


@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@each_order
def test_any_layout_and_axis(order, layout, axis):
    x, dy = draw((3, 5, 2, 4), "float32")
    functions = FUNCTIONS[order]
    arranged_x, arranged_dy = LAYOUTS[layout](x), LAYOUTS[layout](dy)
    y = poisoned(x.shape, x.dtype, layout)
    returned, context = functions.forward(arranged_x, axis=axis, eps=1e-3, out=y)
    dx = poisoned(x.shape, x.dtype, layout)
    assert returned is y
    assert functions.backward(arranged_dy, context, out=dx) is dx
    assert_within_bounds(y, dx, context.norm, x, dy, order, axis, 1e-3)
    found = results(order, arranged_x, arranged_dy, axis, eps=1e-3)
    assert_same_bits(found, {"y": y, "norm": context.norm, "dx": dx})


@settings(max_examples=40)
@given(st.data())
def test_any_shape_strides_and_axis(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=5)))
    ndim = len(shape)
    axes = data.draw(
        st.lists(
            st.integers(-ndim, ndim - 1), min_size=1, max_size=ndim, unique_by=lambda a: a % ndim
        )
    )
    order = data.draw(st.sampled_from(sorted(FUNCTIONS)))
    values = draw(shape, "float32")
    x, dy = (arranged(v, *data.draw(arrangements(ndim))) for v in values)
    found = results(order, x, dy, tuple(axes), eps=0.1)
    assert_within_bounds(*(found[k] for k in ("y", "dx", "norm")), *values, order, tuple(axes), 0.1)


@pytest.mark.variant
@pytest.mark.parametrize("axis", [1, None, "sample", (0, 2)], ids=str)
@each_order
def test_gradients_by_finite_differences(order, axis, rng):
    shape = (3, 4, 2)
    x = rng.uniform(0.5, 2.0, shape) * rng.choice([-1.0, 1.0], shape)  # away from |x|'s kink
    dy = rng.standard_normal(shape)
    functions = FUNCTIONS[order]

    def loss(at):
        return float(np.sum(dy * functions.forward(at, axis=axis, eps=0.1)[0]))

    _, context = functions.forward(x, axis=axis, eps=0.1)
    assert_gradient(functions.backward(dy, context), loss, x)


@each_order
def test_nothing_to_sum(order):
    functions = FUNCTIONS[order]
    for shape, axis in (((0, 3), 1), ((2, 0), 1), ((2, 3, 0), 1), ((0,), 0)):
        y, context = functions.forward(np.zeros(shape), axis=axis, eps=0.25)
        assert y.shape == functions.backward(y, context).shape == shape
        d = 0.25 if order == "l1" else 0.5
        kept = tuple(np.delete(shape, summed_axes(len(shape), axis)))
        np.testing.assert_array_equal(context.norm, np.full(kept, d))


@each_order
def test_none_is_the_whole_array_as_in_numpy(order, rng):
    x = rng.standard_normal((2, 3, 3, 1))
    y, context = FUNCTIONS[order].forward(x, axis=None, eps=0.0)
    norm = np.linalg.norm(x.ravel(), 1 if order == "l1" else 2)
    assert context.norm.shape == ()
    np.testing.assert_allclose(context.norm, norm, rtol=1e-14)
    np.testing.assert_allclose(y, x / norm, rtol=1e-14)
    row = x.ravel()
    np.testing.assert_allclose(
        FUNCTIONS[order].forward(row, axis=None, eps=0.0)[0], row / norm, rtol=1e-14
    )


@each_order
def test_a_sample_is_all_axes_but_the_first(order, rng):
    x, dy = rng.standard_normal((2, 4, 3, 5))
    found, right = (results(order, x, dy, axis, eps=0.1) for axis in ("sample", (1, 2)))
    assert found["norm"].shape == (4,)
    assert_same_bits(found, right)


# --- values at the ends -----------------------------------------------------------------------


@each_type
@each_kind
@each_order
def test_zeros_stay_zeros_without_eps(order, kind, dtype):
    """With zeros in one sample, and zeros at the same place of all its channels."""
    for shape in KINDS[kind]:
        x, dy = draw(shape, dtype)
        x[0], x[..., -1] = 0.0, 0.0
        found = results(order, x, dy, eps=0.0)
        for name in ("y", "dx", "norm"):
            assert not found[name][0].any()
            assert not found[name][..., -1].any()
            assert np.isfinite(found[name]).all()


@pytest.mark.parametrize("exponent", [-40, -30, -22, 22, 30, 37])
@each_kind
@each_order
def test_float32_of_any_size(order, kind, exponent):
    """Their squares are beyond float32, and so is 1 / d of the smallest."""
    for shape in KINDS[kind]:
        x, _ = draw(shape, "float32")
        x = (x.astype(np.float64) * 10.0**exponent).astype(np.float32)
        y, _ = FUNCTIONS[order].forward(x, eps=0.0)
        wanted = FUNCTIONS[order].expected_forward(x, eps=0.0)
        np.testing.assert_allclose(y, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@each_kind
@each_order
def test_what_is_not_finite_spoils_its_own_norm_alone(order, kind, value):
    for shape in KINDS[kind]:
        x, dy = draw(shape, "float32")
        wanted = results(order, x, dy, eps=0.0)
        spoiled = x.copy()
        spoiled[-1, 0, -1] = value
        found = results(order, spoiled, dy, eps=0.0)
        own = np.zeros(shape, bool)
        own[-1, :, -1] = True
        for name in ("y", "dx"):
            np.testing.assert_array_equal(found[name][~own], wanted[name][~own])
        assert np.isnan(found["y"][-1, 0, -1])
        with np.errstate(invalid="ignore"):
            y = FUNCTIONS[order].expected_forward(spoiled, eps=0.0)
        np.testing.assert_allclose(found["y"], y, rtol=1e-6, atol=1e-6)


def test_signs_of_zeros_have_no_gradient():
    x = np.array([[0.0, -0.0, 2.0]])
    _, context = l1_normalize_forward(x, eps=0.0)
    dx = l1_normalize_backward(np.array([[1.0, 1.0, 1.0]]), context)
    np.testing.assert_array_equal(dx, [[0.5, 0.5, 0.0]])


def test_a_unit_vector_of_a_million_values():
    x = np.ones((1, 1_000_000), np.float32)
    y, context = l2_normalize_forward(x)
    assert context.norm[0] == pytest.approx(1000, rel=1e-12)
    assert math.fsum(np.square(y[0], dtype=np.float64)) == pytest.approx(1, rel=1e-6)


# --- memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [False, True], ids=["", "streaming"])
@pytest.mark.parametrize("offset", [0, 1, 13])
@each_kind
@each_order
def test_only_results_are_written_and_the_surroundings_not_read(
    order, kind, offset, streams, monkeypatch
):
    functions = FUNCTIONS[order]
    if_aligned = norms._streams

    def streaming(out, plan, shape):  # as arrays do that outgrow the last cache
        return if_aligned(out, plan._replace(streamed=True), shape)

    for shape in [*KINDS[kind], (2, 3, 256), (3, 512, 1)]:
        x, dy = draw(shape, "float32")
        wanted = results(order, x, dy)
        if streams:
            monkeypatch.setattr(norms, "_streams", streaming)
        x, _ = surrounded(x, offset)
        y, y_buffer = surrounded(np.full_like(x, np.nan), offset)
        dx, dx_buffer = surrounded(dy, offset)
        _, context = functions.forward(x, out=y)
        functions.backward(dx, context, out=dx)  # over dy
        monkeypatch.undo()
        assert_same_bits({"y": y, "norm": context.norm, "dx": dx}, wanted)
        for buffer in (y_buffer, dx_buffer):
            assert np.isnan(buffer).sum() == buffer.size - x.size


@each_kind
@each_order
def test_what_new_memory_holds_does_not_matter(order, kind, monkeypatch):
    given = [draw(shape, "float32") for shape in KINDS[kind]]
    wanted = [results(order, *one) for one in given]
    uninitialized = np.empty

    def empty(*arguments, **options):
        array = uninitialized(*arguments, **options)
        if array.dtype.kind == "f":
            array.fill(np.nan)
        return array

    monkeypatch.setattr(Scratch, "take", lambda *key: empty(*key[2:]))
    monkeypatch.setattr(np, "empty", empty)
    found = [results(order, *one) for one in given]
    monkeypatch.undo()
    for one, right in zip(found, wanted, strict=True):
        assert_same_bits(one, right)


def test_a_context_serves_any_number_of_times(rng):
    x, dy = rng.standard_normal((2, 4, 6))
    _, context = l1_normalize_forward(x)
    l1_normalize_forward(x + 1)
    first = l1_normalize_backward(dy, context)
    np.testing.assert_array_equal(l1_normalize_backward(dy, context), first)


# --- plans ------------------------------------------------------------------------------------


@pytest.mark.skipif(config.DISABLE_JIT, reason="large arrays, for compiled code only")
@pytest.mark.parametrize(
    ("shape", "slices"),
    [((2, 200_000, 1), 12), ((1, 5000, 70), 10), ((3, 9000, 9), 4), ((20, 200, 100), 1)],
)
def test_few_strips_are_cut_into_slices(shape, slices):
    chosen = norms.norm_plan(shape, 4, 2)
    assert chosen.parallel
    assert (chosen.tiling.slices > 1) == (slices > 1)
    for order in FUNCTIONS:
        x, dy = draw(shape, "float32")
        found = results(order, x, dy, eps=1e-3)
        assert_within_bounds(*(found[k] for k in ("y", "dx", "norm")), x, dy, order, 1, 1e-3)
