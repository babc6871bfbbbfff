"""The kernels that do all at once, called from Python and from a user's own compiled code."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from numba import njit

from nbnorm import reference
from nbnorm.kernels import (
    LeakyReLU,
    ReLU,
    backward_columns,
    backward_columns_parallel,
    backward_planes,
    backward_planes_parallel,
    fold_given,
    forward_columns,
    forward_columns_parallel,
    forward_planes,
    forward_planes_parallel,
    normalize_planes,
)
from tests.cases.batch_norm import BOUND, Case, assert_same_bits, assert_within_bounds, draw
from tests.kernels.views import columns

FORWARD = {
    "planes": (forward_planes, forward_planes_parallel),
    "columns": (forward_columns, forward_columns_parallel),
}
BACKWARD = {
    "planes": (backward_planes, backward_planes_parallel),
    "columns": (backward_columns, backward_columns_parallel),
}


def drawn(shape, dtype, activation=None, residual=False, ddof=0):
    case = Case(shape, dtype=dtype, activation=activation, residual=residual, ddof=ddof)
    return draw(case, np.random.default_rng(11))


def parameters_of(batch):
    return np.array([batch.options["gamma"], batch.options["beta"]], np.float64)


def run(way, batch, activation, width, how):
    """Results of the kernels, all tiles at once, one by one backwards, or in parallel."""
    _, c, _ = shape = batch.x.shape
    dtype = batch.x.dtype
    stride = columns(shape, 1, str(dtype)).stride if way == "columns" else c
    x, dy = batch.x.reshape(-1), batch.dy.reshape(-1)
    residual = batch.options["residual"]
    residual = None if residual is None else residual.reshape(-1)
    y, dx, dresidual = (np.full_like(x, np.nan) for _ in range(3))
    dresidual = None if residual is None else dresidual
    statistics, gradients = np.full((4, c), np.nan), np.full((2, c), np.nan)
    sums = np.full((2, stride), np.nan)
    tiles = -(-c // width)
    shared = {
        "x": x, "residual": residual, "statistics": statistics,
        "parameters": parameters_of(batch), "sums": sums, "ddof": batch.options["ddof"],
        "activation": activation, "stream": False, "width": width, "shape": shape,
    }  # fmt: skip

    def call(worker, driver, **options):
        if how == "at once":
            worker(0, tiles, **options)
        elif how == "one by one":
            for tile in reversed(range(tiles)):
                worker(tile, tile + 1, **options)
        else:
            driver(tiles, **options)

    constants = np.full((3, stride), np.nan, dtype)
    call(*FORWARD[way], y=y, constants=constants, eps=batch.options["eps"], **shared)
    constants = np.full((7, stride), np.nan, dtype)
    call(
        *BACKWARD[way], dx=dx, dresidual=dresidual, dy=dy, gradients=gradients,
        constants=constants, frozen=False, **shared,
    )  # fmt: skip
    dgamma, dbeta = gradients.astype(dtype)
    return {
        "y": y.reshape(shape),
        "dx": dx.reshape(shape),
        "dgamma": dgamma,
        "dbeta": dbeta,
        "dresidual": None if dresidual is None else dresidual.reshape(shape),
    }


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize(
    ("dtype", "activation", "name"), [("float32", ReLU(), "relu"), ("float64", None, None)]
)
@pytest.mark.parametrize(
    ("way", "shape", "width"),
    [
        ("planes", (4, 5, 30), 1),
        ("planes", (3, 5, 130), 2),  # a last tile of one channel
        ("planes", (2, 5, 1), 100),
        ("columns", (40, 3, 1), 64),
        ("columns", (40, 300, 1), 64),  # a last tile that is cut short
        ("columns", (2, 128, 1), 64),
    ],
)
def test_is_the_reference(way, shape, width, dtype, activation, name, ddof):
    batch = drawn(shape, dtype, name, activation is not None, ddof)
    together = run(way, batch, activation, width, "at once")
    assert_within_bounds(together, batch)
    hows = ["one by one"] if dtype == "float64" else ["one by one", "in parallel"]
    for how in hows:  # drivers are compiled for one type, as it takes time
        assert_same_bits(run(way, batch, activation, width, how), together)


# --- from compiled code of one's own ------------------------------------------------------------


@njit
def standardize(x, gamma, beta, eps):
    """Batch norm with a leaky ReLU, and its statistics."""
    n, c, s = x.shape
    y = np.empty_like(x)
    statistics = np.empty((4, c))
    sums = np.empty((2, c))
    constants = np.empty((3, c), x.dtype)
    parameters = np.empty((2, c))
    parameters[0], parameters[1] = gamma, beta
    forward_planes(
        0, c, y.reshape(-1), statistics, sums, constants, x.reshape(-1), None, parameters, eps, 0,
        LeakyReLU(0.2), False, 1, (n, c, s),
    )  # fmt: skip
    return y, statistics


@njit(parallel=True)
def standardize_channels(x, gamma, beta, eps):
    """The same, channels shared out among threads: the worker inside one's own prange."""
    n, c, s = x.shape
    y = np.empty_like(x)
    y_flat, x_flat = y.reshape(-1), x.reshape(-1)
    statistics = np.empty((4, c))
    sums = np.empty((2, c))
    constants = np.empty((3, c), x.dtype)
    parameters = np.empty((2, c))
    parameters[0], parameters[1] = gamma, beta
    for channel in numba.prange(c):
        forward_planes(
            channel, channel + 1, y_flat, statistics, sums, constants, x_flat, None, parameters,
            eps, 0, LeakyReLU(0.2), False, 1, (n, c, s),
        )  # fmt: skip
    return y, statistics


@njit(parallel=True)
def gradient_of_channels(dy, x, statistics, gamma, beta):
    """dx, dgamma and dbeta, again channel by channel."""
    n, c, s = x.shape
    dx = np.empty_like(x)
    dx_flat, dy_flat, x_flat = dx.reshape(-1), dy.reshape(-1), x.reshape(-1)
    gradients = np.empty((2, c))
    sums = np.empty((2, c))
    constants = np.empty((7, c), x.dtype)
    parameters = np.empty((2, c))
    parameters[0], parameters[1] = gamma, beta
    for channel in numba.prange(c):
        backward_planes(
            channel, channel + 1, dx_flat, None, gradients, sums, constants, dy_flat, x_flat, None,
            statistics, parameters, 0, LeakyReLU(0.2), False, False, 1, (n, c, s),
        )  # fmt: skip
    return dx, gradients


@njit
def standardize_pictures(x, mean, var, eps):
    """Inference over one picture at a time, as a loader of pictures would call it."""
    n, c, s = x.shape
    y = np.empty_like(x)
    statistics = np.empty((4, c))
    statistics[0], statistics[1], statistics[3] = mean, var, 0.0
    parameters = np.ones((2, c))
    parameters[1] = 0.0
    constants = np.empty((3, c), x.dtype)
    given = statistics[0], statistics[1]
    fold_given(constants, constants, statistics, given, parameters, eps, (1, 1, 0))
    for picture in range(n):
        normalize_planes(
            0, 1, y[picture].reshape(-1), x[picture].reshape(-1), None, constants, ReLU(), False,
            c * s, (1, c, s),
        )  # fmt: skip
    return y


@pytest.mark.slow
def test_called_from_compiled_code():
    batch = drawn((4, 5, 37), "float32", ("leaky_relu", 0.2))
    gamma, beta = batch.options["gamma"], batch.options["beta"]
    given = batch.x, gamma, beta, batch.options["eps"]
    (y, statistics), (same_y, same_statistics) = standardize(*given), standardize_channels(*given)
    np.testing.assert_array_equal(same_y, y)
    np.testing.assert_array_equal(same_statistics, statistics)
    mean, var = reference.batch_statistics(batch.x)
    bound = BOUND["float32"]
    np.testing.assert_allclose(statistics[1], var, rtol=bound)
    np.testing.assert_allclose(statistics[0], mean, rtol=bound, atol=bound)

    dx, gradients = gradient_of_channels(batch.dy, batch.x, statistics, gamma, beta)
    dgamma, dbeta = gradients.astype(np.float32)
    results = {"y": y, "dx": dx, "dgamma": dgamma, "dbeta": dbeta, "dresidual": None}
    assert_within_bounds(results, batch)


def test_inference_called_from_compiled_code(rng):
    x = rng.standard_normal((3, 5, 29))
    mean, var = rng.standard_normal(5), rng.uniform(1, 2, 5)
    y = standardize_pictures(x, mean, var, 1e-3)
    wanted = reference.batch_norm_inference(x, mean, var, eps=1e-3, activation="relu")
    np.testing.assert_allclose(y, wanted, rtol=0, atol=BOUND["float64"])
