"""sum(u) and sum(u v) of channels: u = v = x - head forward, u = dy activation'(z) backward."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numba.core import config

from nbnorm.kernels import (
    add_columns,
    add_columns_parallel,
    sum_columns,
    sum_columns_parallel,
    sum_planes,
    sum_planes_parallel,
)
from tests.kernels.views import (
    DTYPES,
    SLOPES,
    VARIANTS,
    Drawn,
    Variant,
    columns,
    integers,
    integers_in,
)

both_types = pytest.mark.parametrize("dtype", DTYPES)
FORWARD = [(Variant(dtype, None, False), False) for dtype in DTYPES]
each_direction = pytest.mark.parametrize(
    ("variant", "with_dy"), [*FORWARD, *((variant, True) for variant in VARIANTS)], ids=str
)


def given(drawn: Drawn, variant: Variant, with_dy: bool):
    """The kernels' arguments, and u and v by NumPy."""
    v = drawn.x - drawn.along(drawn.constants[0])
    if not with_dy:
        return {"dy": None, "weights": None, **drawn.data(variant)}, v, v
    slopes = np.where(drawn.entering(variant) > 0, 1.0, SLOPES[variant.activation])
    return {"dy": drawn.dy, "weights": None, **drawn.data(variant)}, drawn.dy * slopes, v


@each_direction
@pytest.mark.parametrize("slices", [1, 2, 7])
@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 2),
        (3, 2, 5),
        (2, 3, 64),
        (5, 2, 127),
        (2, 3, 1000),
        (1, 2, 5003),
        (50, 3, 2),
        (37, 5, 49),
        (9, 4, 300),
    ],
    ids=str,
)
def test_planes_in_slices(shape, width, slices, variant, with_dy):
    drawn = integers(shape, variant.dtype)
    arguments, u, v = given(drawn, variant, with_dy)
    n, c, s = shape
    sums = np.full((slices, 2, c), np.nan)
    sum_planes(
        0, slices * -(-c // width), sums=sums, constants=drawn.constants, width=width, shape=shape,
        **arguments,
    )  # fmt: skip

    # A slice is a share of the samples; of the values of a channel where samples are fewer.
    u, v = (a.astype(float).reshape(shape).transpose(1, 0, 2).reshape(c, n * s) for a in (u, v))
    shares, values = (n, s) if slices <= n else (n * s, 1)
    edges = [shares * i // slices * values for i in range(slices + 1)]
    for i, (first, last) in enumerate(pairwise(edges)):
        values = slice(first, last)
        np.testing.assert_array_equal(sums[i, 0], u[:, values].sum(axis=1))
        np.testing.assert_array_equal(sums[i, 1], (u * v)[:, values].sum(axis=1))


@each_direction
@pytest.mark.parametrize("height", [1, 16, 40, 1000])
@pytest.mark.parametrize(
    ("shape", "copies"),
    [
        ((3, 1, 1), 1),
        ((40, 5, 1), 1),
        ((40, 70, 1), 1),
        ((83, 3, 1), 2),  # a last row that is cut short
        ((645, 3, 1), 16),  # 40 rows, and five samples
        ((646, 2, 3), 16),
        ((50, 130, 2), 1),
        ((17, 7, 5), 1),
    ],
    ids=str,
)
def test_columns_in_slices_of_rows(shape, copies, height, variant, with_dy):
    drawn = integers(shape, variant.dtype)
    arguments, u, v = given(drawn, variant, with_dy)
    seen = columns(shape, copies, variant.dtype)
    tiles = seen.tiles(height)
    sums = np.full((tiles, 2, seen.stride), np.nan)
    sum_columns(
        0, tiles, sums=sums, constants=seen.spread(drawn.constants), height=height,
        row_length=seen.row_length, **arguments,
    )  # fmt: skip

    total_u, total_uv = seen.gather(sums).sum(axis=0)
    np.testing.assert_array_equal(total_u, drawn.total(u))
    np.testing.assert_array_equal(total_uv, drawn.total(u * v))
    if tiles > 1:
        first = u[: height * seen.row_length].astype(float).reshape(height, seen.row_length)
        np.testing.assert_array_equal(sums[0, 0, : seen.row_length], first.sum(axis=0))


@both_types
@pytest.mark.parametrize(
    "shape", [(3, 2, 5), (2, 3, 64), (9, 3, 49), (2, 3, 1000), (83, 3, 1), (40, 70, 1)]
)
def test_the_sums_of_places_with_weights(shape, dtype):
    drawn = integers(shape, dtype)
    n, c, s = shape
    arguments, _, v = given(drawn, Variant(dtype, None, False), False)
    weights = integers_in((n * s,), dtype, 3)
    u = (v.reshape(shape) * weights.reshape(n, 1, s)).reshape(-1)
    sums = np.full((2, 2, c), np.nan)
    options = arguments | {"weights": weights}
    sum_planes(0, 2, sums=sums, constants=drawn.constants, width=c, shape=shape, **options)
    np.testing.assert_array_equal(sums.sum(axis=0), [drawn.total(u), drawn.total(u * v)])
    if s == 1:  # a row of columns is a sample
        seen = columns(shape, 1, dtype)
        tiles = seen.tiles(16)
        sums = np.full((tiles, 2, seen.stride), np.nan)
        sum_columns(
            0, tiles, sums=sums, constants=seen.spread(drawn.constants), height=16, row_length=c,
            **options,
        )  # fmt: skip
        by_channel = sums[..., :c].sum(axis=0)
        np.testing.assert_array_equal(by_channel, [drawn.total(u), drawn.total(u * v)])


@both_types
@pytest.mark.parametrize("offset", [0, 1])
def test_tiles_alone_together_and_in_parallel_are_the_same(offset, dtype):
    drawn = integers((129, 3, 50), dtype, offset)
    drawn.x[...] = np.random.default_rng(0).standard_normal(drawn.x.size)  # order would show
    seen = columns(drawn.shape, 2, dtype)
    given = {"dy": None, "weights": None, **drawn.data(Variant(dtype, None, False))}
    planes = {"constants": drawn.constants, "width": 2, "shape": drawn.shape, **given}
    rows = {"constants": seen.spread(drawn.constants), "height": 16,
            "row_length": seen.row_length, **given}  # fmt: skip
    for worker, driver, tiles, size, columns_, options in (
        (sum_planes, sum_planes_parallel, 8, (4, 2, 3), 3, planes),
        (sum_columns, sum_columns_parallel, 4, (4, 2, seen.stride), seen.row_length, rows),
    ):
        together, alone, parallel = (np.full(size, np.nan) for _ in range(3))
        worker(0, tiles, sums=together, **options)
        for tile in reversed(range(tiles)):
            worker(tile, tile + 1, sums=alone, **options)
        driver(tiles, sums=parallel, **options)
        assert np.isfinite(together[..., :columns_]).all()
        for other in (alone, parallel):
            np.testing.assert_array_equal(other[..., :columns_], together[..., :columns_])


@pytest.mark.skipif(config.DISABLE_JIT, reason="15 s for a million rows")
@pytest.mark.parametrize("kernel", ["planes", "columns"])
def test_float32_sums_do_not_drift(kernel):
    # A million times 0.1 is 100958.34 if they are added up in one float32 variable.
    m = 1_000_000
    drawn = integers((m, 1, 1) if kernel == "columns" else (1, 1, m), "float32")
    drawn.x[...] = 0.1
    constants = np.zeros((3, 1), np.float32)
    given = {"dy": None, "weights": None, **drawn.data(Variant("float32", None, False))}
    if kernel == "planes":
        sums = np.empty((1, 2, 1))
        sum_planes(0, 1, sums=sums, constants=constants, width=1, shape=drawn.shape, **given)
    else:
        seen = columns(drawn.shape, 1, "float32")
        sums = np.empty((1, 2, seen.stride))
        sum_columns(
            0, 1, sums=sums, constants=seen.spread(constants), height=m, row_length=1, **given
        )
    np.testing.assert_allclose(sums[0, 0, 0], m * np.float64(np.float32(0.1)), rtol=1e-6)


@both_types
@pytest.mark.parametrize("kernel", [add_columns, add_columns_parallel])
@pytest.mark.parametrize(
    ("rows", "row_length", "rest", "height"),
    [(1, 1, 0, 1), (5, 3, 2, 2), (40, 70, 69, 17), (33, 64, 0, 256), (100, 200, 130, 16)],
)
def test_columns_alone_are_added_in_float64(rows, row_length, rest, height, kernel, dtype, rng):
    x = (rng.integers(-9, 10, rows * row_length + rest) + 2.0**20).astype(dtype)
    tiles = -(-rows // height)
    sums = np.full((tiles, row_length), np.nan)
    span = (0, tiles) if kernel is add_columns else (tiles,)
    kernel(*span, sums, x, height, row_length)
    table = x[: rows * row_length].reshape(rows, row_length).astype(np.float64)
    wanted = [table[tile * height : (tile + 1) * height].sum(axis=0) for tile in range(tiles)]
    wanted[-1][:rest] += x[rows * row_length :]
    np.testing.assert_array_equal(sums, wanted)
