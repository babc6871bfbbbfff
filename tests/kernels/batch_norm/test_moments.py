"""Mean and variance in one pass: pivots, and what is looked at again."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from nbnorm import reference
from nbnorm.kernels import place_pivots, settle_slices, sum_columns, sum_planes
from nbnorm.kernels.batch_norm.moments import settle_blocks
from nbnorm.kernels.channels import HEAD
from tests.kernels.views import DTYPES, PLANES, columns

# The largest error of a mean over the standard deviation, and of inv_std over itself (that of the
# variance is twice as large): what hundreds of values of the type lose when they are added.
BOUND = {"float32": 1e-6, "float64": 1e-14}

SHAPE = (10, 3, 90)


def normal(rng):
    return rng.standard_normal(SHAPE)


def take(x, way, eps=1e-5, ddof=0, gamma=1.0, pivot=None):
    """Statistics, constants, and for each attempt how many channels were to be summed again.

    `pivot` is given to the second channel in place of its own.
    """
    c = x.shape[1]
    statistics = np.full((4, c), np.nan)
    parameters = np.array([[gamma] * c, [0.5] * c])
    folded = np.full((3, c), np.nan, x.dtype)
    if way == "planes":
        spans, constants = PLANES, folded
    else:
        seen = columns(x.shape, 3, str(x.dtype))
        spans, constants = seen.spans, np.full((3, seen.stride), np.nan, x.dtype)
    flat = x.reshape(-1)
    place_pivots(constants=constants, folded=folded, x=flat, spans=spans, shape=x.shape)
    if pivot is not None:
        folded[HEAD, 1] = pivot
        constants[...] = folded if way == "planes" else seen.spread(folded)
    moved = []
    for attempt in range(2):
        data = {"dy": None, "x": flat, "residual": None, "weights": None, "constants": constants,
                "activation": None}  # fmt: skip
        if way == "planes":
            sums = np.full((4, 2, c), np.nan)
            sum_planes(0, 4 * c, sums=sums, width=1, shape=x.shape, **data)
        else:
            sums = np.full((2, 2, seen.stride), np.nan)
            sum_columns(0, 2, sums=sums, height=2, row_length=seen.row_length, **data)
        moved.append(
            settle_slices(
                statistics=statistics, constants=constants, folded=folded, sums=sums, x=flat,
                weights=None, m=x.shape[0] * x.shape[2], parameters=parameters, spans=spans,
                eps=eps, ddof=ddof, attempt=attempt, shape=x.shape,
            )
        )  # fmt: skip
        if moved[-1] == 0:
            break
    return statistics, folded, moved


def assert_statistics(statistics, x, eps=1e-5, ddof=0):
    mean, var = reference.batch_statistics(x, ddof=ddof)
    bound = BOUND[str(x.dtype)]
    ulp = np.spacing(np.abs(mean))
    np.testing.assert_array_less(np.abs(statistics[0] - mean), bound * np.sqrt(var) + ulp)
    np.testing.assert_allclose(statistics[1], var, rtol=2 * bound)
    np.testing.assert_allclose(statistics[2], reference.inverse_std(var, eps), rtol=bound)


each_way = pytest.mark.parametrize("way", ["planes", "columns"])
both_types = pytest.mark.parametrize("dtype", DTYPES)


@each_way
@both_types
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("offset", [0.0, 1e2, -1e4])
def test_one_pass_is_enough_for_ordinary_data(offset, ddof, dtype, way, rng):
    x = (offset + normal(rng)).astype(dtype)
    statistics, _, moved = take(x, way, ddof=ddof)
    assert moved == [0]
    assert_statistics(statistics, x, ddof=ddof)


@each_way
@both_types
@pytest.mark.parametrize(
    ("off", "moved"), [(0.0, [0]), (-3.0, [0]), (10.0, [1, 0]), (-1e4, [1, 0])]
)
def test_a_pivot_that_is_far_off_moves_once(off, moved, dtype, way, rng):
    x = (100.0 + normal(rng)).astype(dtype)
    statistics, folded, found = take(x, way, pivot=100.0 + off)
    assert found == moved  # four standard deviations are near enough
    assert_statistics(statistics, x)
    np.testing.assert_array_equal(folded[HEAD], statistics[0].astype(dtype))


@each_way
@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_squares_beyond_float32_are_summed_in_float64(scale, way, rng):
    x = (scale * normal(rng)).astype(np.float32)
    statistics, _, moved = take(x, way, eps=0.0)
    assert moved == [0]
    assert_statistics(statistics, x, eps=0.0)


@each_way
@both_types
@pytest.mark.parametrize("eps", [0.0, 1e-5])
@pytest.mark.parametrize("constant", [0.0, 0.1, -3.3, 1e30])
def test_a_constant_channel_has_its_mean_and_no_variance(constant, eps, dtype, way):
    x = np.full(SHAPE, constant, dtype)
    statistics, folded, moved = take(x, way, eps=eps, gamma=3.0)
    assert moved == [0]
    np.testing.assert_array_equal(statistics[0], x[0, :, 0])
    np.testing.assert_array_equal(statistics[1], 0.0)
    np.testing.assert_array_equal(statistics[2], reference.inverse_std(np.zeros(3), eps))
    head, _, shift = folded
    np.testing.assert_array_equal(head, x[0, :, 0])
    np.testing.assert_array_equal(shift, np.array(0.5, dtype))


@each_way
@both_types
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0), (4, 17), (9, 89)])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, where nothing is compiled
def test_what_is_not_finite_has_no_statistics_and_spoils_no_others(place, bad, dtype, way, rng):
    x = normal(rng).astype(dtype)
    clean, _, _ = take(x, way)
    x[place[0], 1, place[1]] = bad
    statistics, _, moved = take(x, way)
    assert moved == [0]
    assert not np.isfinite(statistics[0, 1])
    assert np.isnan(statistics[1:, 1]).all()
    np.testing.assert_array_equal(statistics[:, [0, 2]], clean[:, [0, 2]])


@both_types
@pytest.mark.parametrize("shape", [(2, 3, 1), (1, 3, 2), (3, 1, 1), (1, 1, 3), (2, 2, 2)], ids=str)
def test_of_few_values(shape, dtype, rng):
    x = (1e3 + rng.standard_normal(shape)).astype(dtype)
    statistics, _, _ = take(x, "planes", ddof=1)
    assert_statistics(statistics, x, ddof=1)


# --- sums that a product has taken block by block -----------------------------------------------


def take_blocks(x, edges, pivots, copies=1, eps=1e-5, ddof=0):
    """Statistics, folded constants, and whether all is to be summed again.

    x is (m, c); the blocks are its rows between the edges, with a pivot (blocks, c) each.
    """
    m, c = x.shape
    blocks, dtype = len(edges) - 1, x.dtype
    seen = columns((m, c, 1), copies, str(dtype))
    room = -(-c // seen.stride) * seen.stride
    statistics = np.full((4, c), np.nan)
    parameters = np.array([[1.0] * c, [0.5] * c])
    constants = np.full((3, seen.stride), np.nan, dtype)
    folded = constants if seen.are_channels else np.full((3, c), np.nan, dtype)
    sums = np.full((blocks, 2, room), np.nan)
    heads = np.full((blocks, 3, room), np.nan, dtype)
    heads[:, HEAD, :c] = pivots
    for i, (first, last) in enumerate(pairwise(edges)):
        v = x[first:last] - heads[i, HEAD, :c]  # rounded, as in a kernel
        sums[i, 0, :c] = v.sum(axis=0, dtype=np.float64)
        sums[i, 1, :c] = (v.astype(np.float64) ** 2).sum(axis=0)
    anew = settle_blocks(
        statistics=statistics, constants=constants, folded=folded, sums=sums, pivots=heads,
        counts=np.diff(edges), x=x.reshape(-1), parameters=parameters, spans=seen.spans, eps=eps,
        ddof=ddof, shape=(m, c, 1),
    )  # fmt: skip
    if not seen.are_channels:
        np.testing.assert_array_equal(constants, seen.spread(folded))
    return statistics, folded[:, :c], anew


EDGES = np.array([0, 100, 103, 200, 301])  # blocks of several sizes


def some_of(x, edges):
    """A value of each block as its pivot."""
    return x[edges[:-1]]


@both_types
@pytest.mark.parametrize("copies", [1, 4])
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("offset", [0.0, 1e2, -1e4])
def test_blocks_are_merged(offset, ddof, copies, dtype, rng):
    x = (offset + rng.standard_normal((301, 5))).astype(dtype)
    statistics, folded, anew = take_blocks(x, EDGES, some_of(x, EDGES), copies, ddof=ddof)
    assert not anew
    assert_statistics(statistics, x, ddof=ddof)
    np.testing.assert_array_equal(folded[HEAD], statistics[0].astype(dtype))


@both_types
def test_blocks_of_far_apart_means_are_merged(dtype, rng):
    """As of a batch that is sorted: the deviation of all is that of the blocks' means."""
    x = rng.standard_normal((301, 3))
    for i, (first, last) in enumerate(pairwise(EDGES)):
        x[first:last] += 1e3 * i
    x = x.astype(dtype)
    statistics, _, anew = take_blocks(x, EDGES, some_of(x, EDGES))
    assert not anew
    assert_statistics(statistics, x)


@both_types
@pytest.mark.parametrize("block", [0, 2, 3])
@pytest.mark.parametrize("off", [50.0, -1e4])
def test_a_bad_pivot_of_any_block_asks_for_another_look(off, block, dtype, rng):
    x = (100 + rng.standard_normal((301, 4))).astype(dtype)
    pivots = some_of(x, EDGES)
    pivots[block, 1] += off
    statistics, _, anew = take_blocks(x, EDGES, pivots)
    assert anew
    assert_statistics(statistics[:, [0, 2, 3]], x[:, [0, 2, 3]])


@both_types
@pytest.mark.parametrize("eps", [0.0, 1e-5])
@pytest.mark.parametrize("constant", [0.0, 0.1, -3.3, 1e30])
def test_a_constant_channel_in_blocks(constant, eps, dtype):
    x = np.full((301, 2), constant, dtype)
    statistics, folded, anew = take_blocks(x, EDGES, some_of(x, EDGES), eps=eps)
    assert not anew
    np.testing.assert_array_equal(statistics[0], x[0])
    np.testing.assert_array_equal(statistics[1], 0.0)
    np.testing.assert_array_equal(folded[HEAD], x[0])
    np.testing.assert_array_equal(folded[2], np.array(0.5, dtype))


@both_types
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_not_finite_in_a_block_spoils_no_other_channel(bad, dtype, rng):
    x = rng.standard_normal((301, 3)).astype(dtype)
    pivots = some_of(x, EDGES)
    clean, _, _ = take_blocks(x, EDGES, pivots)
    x[150, 1] = bad
    statistics, _, anew = take_blocks(x, EDGES, pivots)
    assert not anew
    assert not np.isfinite(statistics[0, 1])
    assert np.isnan(statistics[1:, 1]).all()
    np.testing.assert_array_equal(statistics[:, [0, 2]], clean[:, [0, 2]])
