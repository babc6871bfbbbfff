"""How any array becomes the (n, c, s) of the kernels: channel by channel, and seldom by a copy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbnorm.launch.layout import flat, layout_of
from tests.cases.batch_norm import LAYOUTS, misaligned, strided, surrounded
from tests.cases.strategies import arranged, arrangements

SHAPE = (2, 3, 4, 5)


def layout(array, axes):
    return layout_of(array.shape, array.strides, axes)


def counted(shape, dtype=np.float32):
    """An array whose values are its elements' places in C order."""
    return np.arange(math.prod(shape), dtype=dtype).reshape(shape)


def channel_of(shape, axes):
    """For each element the number of its channel, the kept axes counted in C order."""
    kept = [shape[axis] for axis in axes]
    numbers = np.arange(math.prod(kept)).reshape(kept)
    reduced = tuple(axis for axis in range(len(shape)) if axis not in axes)
    return np.broadcast_to(np.expand_dims(numbers, reduced), shape)


def assert_channels_are_in_the_middle(array, axes):
    """Each (n, c, s) block [:, k, :] holds the values of channel k, each of them once."""
    found = layout(array, axes)
    run = flat(array, found)
    assert run.flags.c_contiguous
    assert run.ndim == 1
    assert math.prod(found.shape) == array.size
    assert found.kept == tuple(array.shape[axis] for axis in axes)
    blocks = run.reshape(found.shape)
    channels = channel_of(array.shape, axes)
    for k in range(found.shape[1]):
        np.testing.assert_array_equal(np.sort(blocks[:, k].ravel()), np.sort(array[channels == k]))


@st.composite
def arrays_and_axes(draw):
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=2, max_size=5)))
    order, steps = draw(arrangements(len(shape)))
    axes = draw(st.sets(st.sampled_from(range(len(shape))), min_size=1, max_size=len(shape) - 1))
    return arranged(counted(shape), order, steps), tuple(sorted(axes))


@given(arrays_and_axes())
def test_channels_are_in_the_middle_whatever_the_strides(array_and_axes):
    assert_channels_are_in_the_middle(*array_and_axes)


@pytest.mark.parametrize("shape", [(3, 0), (0, 3), (2, 0, 3), (1, 1), (2, 1, 3, 1, 1)], ids=str)
def test_sizes_of_0_and_1(shape):
    for count in range(1, len(shape)):
        for axes in itertools.combinations(range(len(shape)), count):
            assert_channels_are_in_the_middle(counted(shape), axes)


def test_repeated_elements_are_written_out():
    array = np.broadcast_to(counted((3, 1)), (2, 3, 4))
    assert_channels_are_in_the_middle(array, (1,))


@given(arrays_and_axes(), arrays_and_axes())
def test_two_arrays_of_one_layout_keep_their_elements_together(one, other):
    """As x and dy do, whose strides are their own: the layout is that of x."""
    x, axes = one
    dy = np.resize(other[0], x.shape)
    found = layout(x, axes)
    together = dict(zip(flat(x, found).tolist(), flat(dy, found).tolist(), strict=True))
    assert together == dict(zip(x.ravel().tolist(), dy.ravel().tolist(), strict=True))


@pytest.mark.parametrize(
    ("name", "axes", "shape"),
    [
        ("C", (0,), (1, 2, 60)),
        ("C", (1,), (2, 3, 20)),
        ("C", (3,), (24, 5, 1)),
        ("C", (1, 2), (2, 12, 5)),
        ("C", (1, 2, 3), (2, 60, 1)),
        ("channels-last memory", (1,), (40, 3, 1)),  # under the shape of channels-first
        ("channels-last memory", (2, 3), (2, 20, 3)),
        ("Fortran", (1,), (20, 3, 2)),
        ("Fortran", (3,), (1, 5, 24)),
    ],
)
def test_nothing_is_copied_that_is_contiguous_in_some_order(name, axes, shape):
    array = LAYOUTS[name](counted(SHAPE))
    found = layout(array, axes)
    assert found.shape == shape
    assert np.shares_memory(flat(array, found), array)
    assert_channels_are_in_the_middle(array, axes)


@pytest.mark.parametrize(
    ("array", "axes"),
    [
        (counted(SHAPE), (1, 3)),  # apart in memory
        (LAYOUTS["Fortran"](counted(SHAPE)), (1, 2)),  # together, but in the other order
        (strided(counted(SHAPE)), (1,)),
        (counted(SHAPE)[:, ::-1], (1,)),
        (counted(SHAPE)[:, :2], (1,)),
        (misaligned(counted(SHAPE)), (1,)),
    ],
    ids=["apart", "in the other order", "strided", "backwards", "a part", "misaligned"],
)
def test_one_copy_is_made_of_what_is_not(array, axes):
    found = layout(array, axes)
    run = flat(array, found)
    assert not np.shares_memory(run, array)
    assert run.flags.aligned
    assert_channels_are_in_the_middle(array, axes)


def test_an_array_off_a_cache_line_is_used_in_place():
    array, _ = surrounded(counted(SHAPE), offset=1)
    assert np.shares_memory(flat(array, layout(array, (1,))), array)


def test_a_read_only_array_is_used_in_place_and_stays_read_only():
    # Numba would compile every kernel once more for read-only arrays.
    array = LAYOUTS["read-only"](counted(SHAPE))
    run = flat(array, layout(array, (1,)))
    assert run.flags.writeable
    assert np.shares_memory(run, array)
    assert not array.flags.writeable
    np.testing.assert_array_equal(run, counted(SHAPE).ravel())


def test_a_read_only_array_stays_alive_while_it_is_used():
    run = flat(LAYOUTS["read-only"](np.full(SHAPE, 7.0)), layout(counted(SHAPE), (1,)))
    np.full(SHAPE, 8.0)
    np.testing.assert_array_equal(run, 7.0)
