"""dgamma, dbeta, dx and dresidual from sums and constants, with NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm.kernels import (
    apply_columns,
    apply_columns_parallel,
    apply_planes,
    apply_planes_parallel,
    fold_gradient_slices,
    fold_statistics,
)
from tests.cases.batch_norm import surrounded
from tests.kernels.views import DTYPES, PLANES, SLOPES, VARIANTS, columns, integers

both_types = pytest.mark.parametrize("dtype", DTYPES)
BOTH = ("dx", "dresidual")
each_variant = pytest.mark.parametrize(
    ("variant", "wanted"),
    [*((variant, BOTH) for variant in VARIANTS), (VARIANTS[0], BOTH[:1]), (VARIANTS[1], BOTH[1:])],
    ids=str,
)


def constants_of(drawn, seen, sums, frozen=False, ddof=0):
    """By the kernels: dgamma and dbeta, and the constants that dx is made with.

    seen is None for planes; sums is (slices, 2, c).
    """
    c = drawn.shape[1]
    if seen is None:
        spans, stride = PLANES, c
    else:
        spans, stride = seen.spans, seen.stride
        by_column = np.full((len(sums), 2, stride), np.nan)
        by_column[..., : seen.row_length] = 0.0
        by_column[..., np.searchsorted(seen.channels[: c * spans[0]], range(c))] = sums
        sums = by_column
    constants = np.full((7, stride), np.nan, drawn.x.dtype)
    one_array = seen is None or seen.are_channels
    folded = constants if one_array else np.full((7, c), np.nan, drawn.x.dtype)
    shared = {
        "constants": constants, "folded": folded, "statistics": drawn.statistics,
        "parameters": drawn.parameters, "spans": spans,
    }  # fmt: skip
    gradients = np.full((2, c), np.nan)
    m = drawn.shape[0] * drawn.shape[2]
    fold_statistics(**shared)
    fold_gradient_slices(
        gradients=gradients, sums=sums.copy(), m=m, ddof=ddof, frozen=frozen, **shared
    )
    return gradients, constants


def by_numpy(drawn, variant, frozen=False, ddof=0):
    """dx, dresidual, (dgamma, dbeta), and the sums (1, 2, c) that they come from."""
    m = drawn.shape[0] * drawn.shape[2]
    mean, _, inv_std, _ = drawn.statistics
    v = drawn.x.astype(float) - drawn.along(mean)
    xh = v * drawn.along(inv_std)
    g = drawn.dy * np.where(drawn.entering(variant) > 0, 1.0, SLOPES[variant.activation])
    sums = np.array([drawn.total(g), drawn.total(g * v)])
    dbeta, dgamma = sums[0], sums[1] * inv_std
    dx = g.astype(float)
    if not frozen:
        dx = dx - drawn.along(dbeta / m) - xh * drawn.along(dgamma / (m - ddof))
    return dx * drawn.along(drawn.parameters[0] * inv_std), g, (dgamma, dbeta), sums[None]


@both_types
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("copies", [None, 1, 4])
def test_gradients_of_parameters_are_sums_of_all_slices(copies, ddof, frozen, dtype):
    drawn = integers((12, 3, 2), dtype)
    seen = None if copies is None else columns(drawn.shape, copies, dtype)
    _, _, wanted, sums = by_numpy(drawn, VARIANTS[1], frozen, ddof)
    slices = np.concatenate([sums - 8.0, np.full_like(sums, 3.0), np.full_like(sums, 5.0)])
    gradients, _ = constants_of(drawn, seen, slices, frozen, ddof)
    np.testing.assert_array_equal(gradients, wanted)


@both_types
def test_dgamma_has_the_mean_that_the_head_leaves_out(dtype):
    drawn = integers((8, 3, 1), dtype)
    drawn.statistics[0] += 1e4 + 0.1  # more digits than float32 has
    drawn.statistics[3] = 0.25  # more than float64 has, were there as much
    head = drawn.statistics[0].astype(dtype).astype(float)
    sums = np.array([[[100.0, 10.0, -5.0], [7.0, 1.0, 3.0]]])  # about the head
    gradients, _ = constants_of(drawn, None, sums)
    total, product = sums[0]
    tail = drawn.statistics[0] - head + drawn.statistics[3]
    wanted = (product - tail * total) * drawn.statistics[2]
    np.testing.assert_allclose(gradients[0], wanted, rtol=1e-12)


class Outputs:
    """Arrays among NaN for the kernels to write to, None for what is not wanted."""

    def __init__(self, drawn, wanted=BOTH, offset=0):
        made = {name: surrounded(np.full_like(drawn.x, np.nan), offset) for name in BOTH}
        self.arrays = {name: made[name][0] if name in wanted else None for name in BOTH}
        self.buffers = {name: buffer for name, (_, buffer) in made.items()}

    def assert_hold(self, dx, dresidual):
        """The values, dx to the rounding of its terms, and nothing around them."""
        for name, value in (("dx", dx), ("dresidual", dresidual)):
            array, buffer = self.arrays[name], self.buffers[name]
            written = 0 if array is None else array.size
            assert np.isnan(buffer).sum() == buffer.size - written
            if array is not None:
                eps = 0.0 if name == "dresidual" else np.finfo(array.dtype).eps
                np.testing.assert_allclose(array, value, rtol=0, atol=4 * eps * abs(value).max())


@each_variant
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("size", [1, 100, 100_000])
@pytest.mark.parametrize("shape", [(2, 1, 1), (3, 2, 5), (7, 3, 49), (5, 2, 127)], ids=str)
def test_planes(shape, size, stream, frozen, variant, wanted):
    offset = size % 3
    drawn = integers(shape, variant.dtype, offset)
    dx, dresidual, _, sums = by_numpy(drawn, variant, frozen)
    _, constants = constants_of(drawn, None, sums, frozen)
    outputs = Outputs(drawn, wanted, offset)
    apply_planes(
        0, -(-dx.size // size), **outputs.arrays, dy=drawn.dy, weights=None, constants=constants,
        frozen=frozen,
        stream=stream and "dx" in wanted, size=size, shape=shape, **drawn.data(variant),
    )  # fmt: skip
    outputs.assert_hold(dx, dresidual)


@each_variant
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("height", [1, 16, 40, 1000])
@pytest.mark.parametrize(
    ("shape", "copies", "stream"),
    [
        ((40, 70, 1), 1, False),
        ((83, 3, 1), 2, False),  # a last row that is cut short
        ((645, 3, 1), 16, False),  # 40 rows, and five samples
        ((646, 2, 3), 16, False),
        ((40, 64, 1), 1, True),  # rows that begin at a cache line may be streamed to
        ((645, 3, 1), 16, True),
    ],
    ids=str,
)
def test_columns(shape, copies, stream, height, frozen, variant, wanted):
    drawn = integers(shape, variant.dtype)
    seen = columns(shape, copies, variant.dtype)
    dx, dresidual, _, sums = by_numpy(drawn, variant, frozen, ddof=1)
    _, constants = constants_of(drawn, seen, sums, frozen, ddof=1)
    outputs = Outputs(drawn, wanted)
    apply_columns(
        0, seen.tiles(height), **outputs.arrays, dy=drawn.dy, weights=None, constants=constants,
        frozen=frozen,
        stream=stream and "dx" in wanted, height=height, row_length=seen.row_length,
        **drawn.data(variant),
    )  # fmt: skip
    outputs.assert_hold(dx, dresidual)


@both_types
@pytest.mark.parametrize("size", [1, 100, 100_000])
@pytest.mark.parametrize("shape", [(3, 2, 5), (7, 3, 49), (5, 2, 127), (40, 70, 1)], ids=str)
def test_weights_of_places_are_on_what_comes_by_mean_and_variance(shape, size, dtype):
    variant = next(v for v in VARIANTS if v.dtype == dtype)
    drawn = integers(shape, dtype, size % 3)
    n, c, s = shape
    dx, dresidual, _, sums = by_numpy(drawn, variant)
    direct = dresidual * drawn.along(drawn.parameters[0] * drawn.statistics[2])
    weights = np.random.default_rng(0).integers(0, 9, n * s).astype(dtype) / 4
    w = np.broadcast_to(weights.reshape(n, 1, s), shape).reshape(-1)
    wanted = direct + w * (dx - direct)
    _, constants = constants_of(drawn, None, sums)
    common = {"dy": drawn.dy, "weights": surrounded(weights, 0)[0], "frozen": False}
    outputs = Outputs(drawn, offset=size % 3)
    apply_planes(
        0, -(-dx.size // size), **outputs.arrays, **common, constants=constants, stream=False,
        size=size, shape=shape, **drawn.data(variant),
    )  # fmt: skip
    outputs.assert_hold(wanted, dresidual)
    if s == 1:
        seen = columns(shape, 1, dtype)
        outputs = Outputs(drawn)
        apply_columns(
            0, seen.tiles(16), **outputs.arrays, **common, height=16, row_length=c, stream=False,
            constants=constants_of(drawn, seen, sums)[1], **drawn.data(variant),
        )  # fmt: skip
        outputs.assert_hold(wanted, dresidual)


def test_tiles_together_in_parallel_over_dy_and_of_either_kind_are_the_same():
    variant = VARIANTS[1]
    drawn = integers((129, 3, 50), variant.dtype)
    drawn.x[...], drawn.dy[...] = np.random.default_rng(0).standard_normal((2, drawn.x.size))
    seen = columns(drawn.shape, 2, variant.dtype)
    sums = by_numpy(drawn, variant)[3]
    common = {"weights": None, "frozen": False, "stream": False, **drawn.data(variant)}
    planes = {"constants": constants_of(drawn, None, sums)[1], "size": 1000, "shape": drawn.shape}
    rows = {"constants": constants_of(drawn, seen, sums)[1], "height": 16,
            "row_length": seen.row_length}  # fmt: skip
    tiles_of_planes = -(-drawn.x.size // 1000)
    found = []
    for kernel, tiles, options in (
        (apply_planes, (0, tiles_of_planes), planes),
        (apply_planes_parallel, (tiles_of_planes,), planes),
        (apply_columns, (0, seen.tiles(16)), rows),
        (apply_columns_parallel, (seen.tiles(16),), rows),
    ):
        arrays = Outputs(drawn).arrays
        kernel(*tiles, **arrays, dy=drawn.dy, **common, **options)
        found.append(arrays)
        for over in BOTH:
            dy = drawn.dy.copy()
            arrays = Outputs(drawn).arrays | {over: dy}
            kernel(*tiles, **arrays, dy=dy, **common, **options)
            found.append(arrays)
    assert all(np.isfinite(array).all() for array in found[0].values())
    for other in found[1:]:
        for name, value in found[0].items():
            np.testing.assert_array_equal(other[name], value)
