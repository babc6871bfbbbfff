"""y = activation((x - head) scale + shift + residual), on planes and columns, with NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm.kernels import (
    fold_given,
    infer_columns,
    infer_planes,
    normalize_columns,
    normalize_columns_parallel,
    normalize_planes,
    normalize_planes_parallel,
)
from tests.cases.batch_norm import surrounded
from tests.kernels.views import DTYPES, PLANES, SLOPES, VARIANTS, Variant, columns, integers

each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=str)
both_types = pytest.mark.parametrize("dtype", DTYPES)


def expected(drawn, variant):
    z = drawn.entering(variant)
    return np.where(z > 0, z, z * z.dtype.type(SLOPES[variant.activation]))


def assert_written(y, buffer, wanted):
    """The values, and nothing around them."""
    np.testing.assert_array_equal(y, wanted)
    assert np.isnan(buffer).sum() == buffer.size - y.size


@each_variant
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("offset", [0, 3])
@pytest.mark.parametrize("size", [1, 64, 100, 100_000])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (3, 2, 5), (9, 3, 17), (8, 5, 49), (2, 3, 64), (5, 2, 127)], ids=str
)
def test_planes(shape, size, offset, stream, variant):
    drawn = integers(shape, variant.dtype, offset)
    y, buffer = surrounded(np.full_like(drawn.x, np.nan), offset)
    normalize_planes(
        0, -(-y.size // size), y=y, constants=drawn.constants, stream=stream, size=size,
        shape=shape, **drawn.data(variant),
    )  # fmt: skip
    assert_written(y, buffer, expected(drawn, variant))


@each_variant
@pytest.mark.parametrize("height", [1, 16, 40, 1000])
@pytest.mark.parametrize(
    ("shape", "copies", "stream"),
    [
        ((3, 1, 1), 1, False),
        ((40, 72, 1), 1, False),
        ((83, 3, 1), 2, False),  # a last row that is cut short
        ((645, 3, 1), 16, False),  # 40 rows, and five samples
        ((646, 2, 3), 16, False),
        ((17, 7, 5), 1, False),
        ((40, 64, 1), 1, True),  # rows that begin at a cache line may be streamed to
        ((40, 16, 5), 1, True),
        ((645, 3, 1), 16, True),
    ],
    ids=str,
)
def test_columns(shape, copies, stream, height, variant):
    drawn = integers(shape, variant.dtype)
    seen = columns(shape, copies, variant.dtype)
    y, buffer = surrounded(np.full_like(drawn.x, np.nan))
    normalize_columns(
        0, seen.tiles(height), y=y, constants=seen.spread(drawn.constants), stream=stream,
        height=height, row_length=seen.row_length, **drawn.data(variant),
    )  # fmt: skip
    assert_written(y, buffer, expected(drawn, variant))


def kernels(drawn, seen):
    """Worker, driver, number of tiles and the arguments that planes and columns do not share."""
    planes = {"constants": drawn.constants, "size": 1000, "shape": drawn.shape}
    rows = {"constants": seen.spread(drawn.constants), "height": 16, "row_length": seen.row_length}
    yield normalize_planes, normalize_planes_parallel, -(-drawn.x.size // 1000), planes
    yield normalize_columns, normalize_columns_parallel, seen.tiles(16), rows


def test_tiles_alone_together_in_parallel_and_of_either_kind_are_the_same():
    variant = Variant("float64", None, False)
    drawn = integers((129, 3, 50), variant.dtype)
    drawn.x[...] = np.random.default_rng(0).standard_normal(drawn.x.size)
    found = []
    for worker, driver, tiles, options in kernels(drawn, columns(drawn.shape, 2, variant.dtype)):
        together, alone, parallel = (np.full_like(drawn.x, np.nan) for _ in range(3))
        options |= {"stream": False, **drawn.data(variant)}
        worker(0, tiles, y=together, **options)
        for tile in range(tiles):
            worker(tile, tile + 1, y=alone, **options)
        driver(tiles, y=parallel, **options)
        found += [together, alone, parallel]
    assert np.isfinite(found[0]).all()
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


@each_variant
@pytest.mark.parametrize("over", ["x", "residual"])
def test_over_an_input(over, variant):
    shape = (129, 3, 50)
    wanted = expected(integers(shape, variant.dtype), variant)
    seen = columns(shape, 2, variant.dtype)
    for i in range(2):
        drawn = integers(shape, variant.dtype)
        worker, _, tiles, options = list(kernels(drawn, seen))[i]
        y = getattr(drawn, over)
        worker(0, tiles, y=y, stream=False, **drawn.data(variant), **options)
        np.testing.assert_array_equal(y, wanted)


@both_types
@pytest.mark.parametrize("eps", [0.0, 0.25])
def test_constants_of_given_statistics(eps, dtype):
    given = np.array([3.0, -1e6 - 0.1, 0.0, 5.0]), np.array([3.75, 0.0, 0.75, np.inf])
    parameters = np.array([[2.0, 1.0, -1.0, 1.0], [1.0, 0.5, 0.0, -2.0]])
    head, scale, shift = constants = np.full((3, 4), np.nan, dtype)
    statistics = np.full((4, 4), np.nan)
    statistics[3] = [1e-16, 0.0, 0.5, 0.0]
    negative = fold_given(
        constants=constants, folded=constants, statistics=statistics, given=given,
        parameters=(parameters[0], parameters[1]), eps=eps, spans=PLANES,
    )  # fmt: skip
    assert not negative
    np.testing.assert_array_equal(statistics[:2], given)
    with np.errstate(divide="ignore"):
        inv_std = 1 / np.sqrt(statistics[1] + eps)
    inv_std[~np.isfinite(inv_std)] = 0.0  # a channel that does not vary, where eps is 0
    np.testing.assert_array_equal(statistics[2], inv_std)
    np.testing.assert_array_equal(head, statistics[0].astype(dtype))
    np.testing.assert_array_equal(scale, (parameters[0] * inv_std).astype(dtype))
    # What the head leaves of the mean is carried by the shift.
    tail = statistics[0] - head + statistics[3]
    wanted = parameters[1] - tail * parameters[0] * inv_std
    np.testing.assert_allclose(shift, wanted, rtol=np.finfo(dtype).eps)


def test_constants_are_spread_over_all_columns_of_a_channel():
    seen = columns((12, 3, 2), 4, "float64")
    statistics = np.array([[1.0, 2.0, 3.0], [1.0, 4.0, 16.0], [np.nan] * 3, [0.0] * 3])
    given = statistics[0], statistics[1]  # as they are
    parameters = np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0])
    folded, constants = np.empty((3, 3)), np.full((3, seen.stride), np.nan)
    fold_given(
        constants=constants, folded=folded, statistics=statistics, given=given,
        parameters=parameters, eps=0.0, spans=seen.spans,
    )  # fmt: skip
    np.testing.assert_array_equal(folded[1], [1.0, 1.0, 0.75])
    np.testing.assert_array_equal(constants, seen.spread(folded))


@both_types
@pytest.mark.parametrize("place", [None, 0, 64, 129])
def test_numbers_of_channels_are_taken_in_either_type(place, dtype, rng):
    c = 130
    numbers = rng.uniform(0.5, 2.0, (4, c)).astype(np.float32)
    if place is not None:
        numbers[1, place] = -1e-30
    numbers[1, 5] = np.nan  # is not negative
    found = []
    for mean, var, gamma, beta in (numbers, numbers.astype(np.float64)):
        constants, statistics = np.full((3, c), np.nan, dtype), np.zeros((4, c))
        negative = fold_given(
            constants=constants, folded=constants, statistics=statistics, given=(mean, var),
            parameters=(gamma, beta), eps=1e-3, spans=PLANES,
        )  # fmt: skip
        assert negative == (place is not None)
        found.append((statistics, constants))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])


@each_variant
@pytest.mark.parametrize(
    ("shape", "copies"), [((3, 2, 5), 1), ((83, 3, 1), 2), ((9, 4, 49), 1)], ids=str
)
def test_both_in_one_call_are_the_same(shape, copies, variant):
    drawn = integers(shape, variant.dtype)
    c = shape[1]
    given, data = (drawn.statistics[0], drawn.statistics[1]), drawn.data(variant)
    parameters = drawn.parameters[0], drawn.parameters[1]
    seen = columns(shape, copies, variant.dtype)
    folded, spread = np.empty((3, c), variant.dtype), np.empty((3, seen.stride), variant.dtype)
    statistics = np.zeros((4, c))
    wanted = np.full_like(drawn.x, np.nan)
    fold_given(folded, folded, statistics, given, parameters, 0.5, PLANES)
    normalize_planes(0, 1, wanted, **data | {"constants": folded}, stream=False,
                     size=drawn.x.size, shape=shape)  # fmt: skip
    for negative in (False, True):
        if negative:
            given[1][1] = -1.0
        common = {"given": given, "parameters": parameters, "eps": 0.5, **data}
        for kernel, options in (
            (infer_planes, {"constants": folded, "size": 64, "shape": shape}),
            (infer_columns, {"constants": spread, "folded": folded, "height": 16,
                             "spans": seen.spans}),
        ):  # fmt: skip
            y, found = np.full_like(drawn.x, np.nan), np.zeros((4, c))
            assert kernel(y=y, statistics=found, **options, **common) == negative
            if negative:
                assert np.isnan(y).all()
            else:
                np.testing.assert_array_equal(y, wanted)
                np.testing.assert_array_equal(found, statistics)
