"""How exact batch norm is on data that has broken others, against wider arithmetic.

The batteries, the truth and the scales of errors are those of the table in the README
(benchmarks/accuracy), which share no code with the library.
"""

from __future__ import annotations

import numpy as np
import pytest
from numba.core import config

from benchmarks.accuracy import __main__ as command
from benchmarks.accuracy import batteries, truth
from benchmarks.accuracy.libraries import load_nbnorm
from benchmarks.accuracy.operations import OPERATIONS
from nbnorm import batch_norm_backward, batch_norm_forward, batch_norm_inference
from nbnorm.jit.target import has_fma

pytestmark = pytest.mark.skipif(config.DISABLE_JIT, reason="about compiled arithmetic")

# Some ten roundings, and for float64 as many times max(1, |mean| / std).
BOUNDS = {"float32": 2e-6, "float64": 1e-14}
WIDE = {"float32": np.float64, "float64": np.longdouble}
AXES = {"channels-first": 1, "channels-last": -1}

# One channel is enough where it has ten million values.
TRIALS = {
    f"{battery}: {trial.name}": trial
    for battery, trials in batteries.BATTERIES.items()
    if battery != "denormal numbers"  # their own rounding is coarser than the bounds
    for trial in trials()
    if not trial.name.startswith("m 10000000,")
}
TRIALS["m 2 to 10 million: m 10000000"] = batteries.Trial(
    "m 10000000", lambda random: random.standard_normal((10, 1, 1_000_000)), ratio=1e3
)


def normal(random):
    return random.standard_normal((8, 6, 1000))


def astray(random):
    """Normal values, but for those that the kernels take their first guess of a mean from."""
    x = random.standard_normal((1, 4, 30_000))
    x[..., [0, 10_000, 20_000]] = 10.0  # more than the four standard deviations they accept
    return x


TRIALS |= {
    f"what kernels look for twice: {trial.name}": trial
    for trial in (
        batteries.Trial("first guess astray", astray),
        batteries.Trial("first guess astray, mean/std 1e3", astray, ratio=1e3),
        # Squares beyond float32's range on either side.
        batteries.Trial("std 1e-25", normal, std=1e-25, eps=0.0),
        batteries.Trial("std 1e25", normal, ratio=1e3, std=1e25, eps=0.0),
    )
}

each_type = pytest.mark.parametrize(
    "dtype",
    [
        "float32",
        pytest.param(
            "float64",
            marks=pytest.mark.skipif(
                np.finfo(np.longdouble).eps >= np.finfo(np.float64).eps,
                reason="long double is no wider than float64 here",
            ),
        ),
    ],
)


def run(x, dy, gamma, beta, eps, axis):
    """Results for x and dy of shape (n, c, p), whose channels go to the axis and back."""
    x, dy = (np.ascontiguousarray(np.moveaxis(values, 1, axis)) for values in (x, dy))
    y, context = batch_norm_forward(x, gamma, beta, axis=axis, eps=eps)
    gradients = batch_norm_backward(dy, context)
    return {
        "y": np.moveaxis(y, axis, 1),
        "dx": np.moveaxis(gradients.dx, axis, 1),
        "dgamma": gradients.dgamma,
        "dbeta": gradients.dbeta,
    }


@each_type
@pytest.mark.parametrize("name", TRIALS)
def test_errors_stay_within_the_bounds(name, dtype):
    trial = TRIALS[name]
    x, dy, gamma, beta = batteries.draw(trial, dtype)
    exact = truth.training(x, dy, gamma, beta, trial.eps, WIDE[dtype])
    slack = trial.slack(x.shape[0] * x.shape[2])
    bound = BOUNDS[dtype] * (max(1.0, trial.ratio) if dtype == "float64" else 1.0)
    errors = {
        (layout, quantity): error
        for layout, axis in AXES.items()
        for quantity, error in truth.errors(
            run(x, dy, gamma, beta, trial.eps, axis), exact, slack
        ).items()
    }
    assert len(errors) == len(AXES) * 4
    if not has_fma():  # each value is rounded three times, not twice
        bound *= 3 / 2
    assert {key: error for key, error in errors.items() if not error <= bound} == {}


@each_type
@pytest.mark.parametrize("ratio", [0.0, 1.0, 1e2, 1e4, 1e6])
def test_inference_stays_within_the_bounds(ratio, dtype, rng):
    x = (ratio + rng.standard_normal((8, 6, 1000))).astype(dtype)
    mean, var = x.mean(axis=(0, 2), dtype=np.float64), x.var(axis=(0, 2), dtype=np.float64)
    gamma, beta = (rng.uniform(0.5, 1.5, 6).astype(dtype) for _ in range(2))
    exact = truth.inference(x, mean, var, gamma, beta, 1e-5, WIDE[dtype])
    for axis in AXES.values():
        moved = np.ascontiguousarray(np.moveaxis(x, 1, axis))
        y = batch_norm_inference(moved, mean, var, gamma, beta, axis=axis)
        error = truth.errors({"y": np.moveaxis(y, axis, 1)}, exact)["y"]
        assert error <= BOUNDS[dtype] * (max(1.0, ratio) if dtype == "float64" else 1.0)


CONSTANTS = [0.0, -0.0, 0.1, -3.3, -1 / 3, 1e-20, 1e-30, 7e5, 16_777_217.0, 1e18, 1e30, -1e30]


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("eps", [0.0, 1e-5])
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize(
    ("n", "p"), [(2, 1), (3, 1), (7, 13), (5, 64), (100_000, 1), (1, 70_000), (32, 3136)]
)
def test_a_constant_channel_is_exactly_beta(n, p, ddof, eps, dtype):
    channels = len(CONSTANTS)
    x = np.tile(np.array(CONSTANTS, dtype).reshape(1, -1, 1), (n, 1, p))
    gamma, beta = np.linspace(-1e3, 1e3, channels), np.linspace(-1.1, 0.7, channels)
    gamma, beta = gamma.astype(dtype), beta.astype(dtype)
    for axis in AXES.values():
        stored = np.ascontiguousarray(np.moveaxis(x, 1, axis))
        y, context = batch_norm_forward(stored, gamma, beta, axis=axis, eps=eps, ddof=ddof)
        expected = np.broadcast_to(beta.reshape(1, -1, 1), x.shape)
        np.testing.assert_array_equal(np.moveaxis(y, axis, 1), expected)
        np.testing.assert_array_equal(context.mean, np.array(CONSTANTS, dtype))
        np.testing.assert_array_equal(context.var, 0.0)


# What a product adds to the errors of batch norm: the worst that the command prints for nbnorm on
# these batteries is 3e-6 and 6e-15; denormal numbers are coarser themselves.
OF_PRODUCTS = {"float32": 1e-5, "float64": 3e-14}
SHORT = ("mean/std 0 to 1e8", "one outlier of 1e30", "alternating signs")


@each_type
@pytest.mark.parametrize("operation", OPERATIONS[1:], ids=lambda operation: operation.name)
def test_products_stay_within_the_bounds(operation, dtype):
    """A trial of a few batteries: the command has them all."""
    if operation.product == "conv2d" and dtype == "float64":
        pytest.skip("long double takes minutes")
    trials = [next(iter(batteries.BATTERIES[name]())) for name in SHORT]
    worst = command.measure(operation, trials, dtype, {"nbnorm": load_nbnorm()})["nbnorm"]
    assert {"y", "dx", "dweight"} <= worst.error.keys()
    assert {k: error for k, error in worst.error.items() if not error <= OF_PRODUCTS[dtype]} == {}
