"""Plans: whichever kernels serve a shape, every value is in one tile, and none twice."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbnorm.jit.simd import lane_count
from nbnorm.launch.plans import (
    MOST_ROWS,
    Columns,
    Fused,
    Planes,
    columns_plan,
    elementwise_plan,
    training_plan,
)

SIZES = st.one_of(st.integers(1, 70), st.integers(1, 5000))
SHAPES = st.tuples(SIZES, SIZES, st.one_of(st.just(1), SIZES))
ITEMSIZES = st.sampled_from([4, 8])
ARRAYS = st.sampled_from([2, 3])


def assert_tiled(whole: int, tile: int, tiles: int) -> None:
    """Tiles of a size share out a whole, the last one with what is left."""
    assert (tiles - 1) * tile < whole <= tiles * tile


def assert_whole(plan, shape, itemsize):
    """A plan whose tiles hold all of an array, once."""
    n, c, s = shape
    values = math.prod(shape)
    assert plan.shape == shape
    if isinstance(plan, Fused):
        assert_tiled(c, plan.width, plan.tiles)
        if plan.columns:
            assert s == 1
            assert plan.width % lane_count(itemsize) == 0
            assert c <= plan.ld < c + lane_count(itemsize)
        else:
            assert plan.ld == c
    elif isinstance(plan, Planes):
        assert_tiled(values, plan.size, plan.tiles)
        assert plan.size % lane_count(itemsize) == 0  # stores that are aligned stay so
        assert 1 <= plan.slices <= n * s
        assert 1 <= plan.width <= c
        assert plan.spans == (1, 1, 0)
    else:
        rows = values // plan.row_length
        span, copies, period = plan.spans
        assert (span, copies * period) == (s, plan.row_length)
        assert period == c * s
        assert plan.height <= MOST_ROWS
        assert rows >= 1
        assert_tiled(rows, plan.height, plan.tiles)


@given(SHAPES, ITEMSIZES, ARRAYS)
def test_training(shape, itemsize, arrays):
    assert_whole(training_plan(shape, itemsize, arrays), shape, itemsize)


@given(SHAPES, ITEMSIZES)
def test_elementwise(shape, itemsize):
    plan = elementwise_plan(shape, itemsize)
    assert_whole(plan, shape, itemsize)
    assert not isinstance(plan, Fused)


@given(SIZES, SIZES, ITEMSIZES)
def test_matrices(n, c, itemsize):
    plan = columns_plan(n, c, itemsize)
    assert_whole(plan, (n, c, 1), itemsize)
    assert isinstance(plan, Columns)


@given(SHAPES, ITEMSIZES)
def test_training_sees_an_array_as_what_is_elementwise_does(shape, itemsize):
    """The backward of merged statistics takes one for the other."""
    training, elementwise = training_plan(shape, itemsize, 3), elementwise_plan(shape, itemsize)
    columns = training.columns if isinstance(training, Fused) else isinstance(training, Columns)
    assert columns == isinstance(elementwise, Columns)


def test_a_plan_is_worked_out_once():
    assert training_plan((8, 16, 16), 4, 2) is training_plan((8, 16, 16), 4, 2)


@pytest.mark.parametrize(
    ("shape", "one"),
    [((64, lane_count(4), 1), True), ((64, 6, 40), True), ((64, 3, 1), False), ((64, 6, 2), False)],
)
def test_channels_and_columns_share_their_constants_where_they_are_the_same(shape, one):
    constants, folded = elementwise_plan(shape, 4).constants(3, np.dtype(np.float32))
    assert (constants is folded) == one
    assert folded.shape[0] == 3
    assert folded.shape[1] >= shape[1]
