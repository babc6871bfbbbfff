"""Activations of vectors and their gradients, against the reference."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from nbnorm import reference
from nbnorm.jit.simd import lanes, load, store
from nbnorm.kernels import LeakyReLU, Mish, ReLU, SiLU
from nbnorm.kernels.activations import activate, activation_gradient
from tests.kernels.views import DTYPES

ACTIVATIONS = {
    "None": (None, None),
    "relu": (ReLU(), "relu"),
    "leaky relu": (LeakyReLU(0.2), ("leaky_relu", 0.2)),
    "silu": (SiLU(), "silu"),
    "mish": (Mish(), "mish"),
}
each_activation = pytest.mark.parametrize("name", ACTIVATIONS)
both_types = pytest.mark.parametrize("dtype", DTYPES)

# Units in the last place of a value, and of dy where a derivative crosses 0: the rounding of an
# exponential, a division and a few more operations. The reference is taken in long double.
ULPS = 4
WIDE = np.longdouble
exact_in = {
    "float32": (),
    "float64": pytest.mark.skipif(
        np.finfo(WIDE).eps >= np.finfo(np.float64).eps,
        reason="long double is no wider than float64 here",
    ),
}
both_types_exactly = pytest.mark.parametrize(
    "dtype", [pytest.param(dtype, marks=marks) for dtype, marks in exact_in.items()]
)


@njit(error_model="numpy")
def activate_all(y, z, activation):
    for i in range(0, z.size, lanes(z)):
        store(y, i, activate(load(z, i), activation))


@njit(error_model="numpy")
def gradients_of_all(dz, dy, z, activation):
    for i in range(0, z.size, lanes(z)):
        store(dz, i, activation_gradient(load(dy, i), load(z, i), activation))


def padded(values, dtype):
    """Whole vectors of values."""
    return np.resize(np.asarray(values, dtype), -(-len(values) // 64) * 64)


def values_of(dtype):
    """From far out to around 0, every kink and threshold with its neighbours."""
    special = [0.0, -0.0, 20.0, -80.0, 88.0, -87.0, 709.0, -708.0, 1e4, -1e4, 1e30, -1e30]
    tiny = np.finfo(dtype).tiny
    special = np.array([*special, tiny, -tiny, np.finfo(dtype).eps, -np.finfo(dtype).eps], dtype)
    around = [np.nextafter(special, dtype(side)) for side in (-np.inf, np.inf)]
    inside = np.linspace(-30, 30, 4001)
    return padded(np.concatenate([special, *around, inside, 5 * inside, 30 * inside]), dtype)


@both_types_exactly
@each_activation
def test_values(name, dtype):
    activation, by_reference = ACTIVATIONS[name]
    z = values_of(np.dtype(dtype).type)
    y = np.full_like(z, np.nan)
    activate_all(y, z, activation)
    wanted = reference.activate(z.astype(WIDE), by_reference)
    # exp is 0 where it would be subnormal, and so are silu and mish, which are z times that.
    eps, tiny = np.finfo(dtype).eps, np.finfo(dtype).tiny
    allowed = ULPS * eps * np.abs(wanted) + 2 * tiny * np.maximum(np.abs(z), 1).astype(WIDE)
    assert np.all(np.abs(y - wanted) <= allowed)


@both_types_exactly
@each_activation
def test_gradients(name, dtype):
    activation, by_reference = ACTIVATIONS[name]
    z = values_of(np.dtype(dtype).type)
    dy = np.resize(np.array([-3.0, 1.0, 0.5, 100.0, -1e-3], dtype), z.size)
    dz = np.full_like(z, np.nan)
    gradients_of_all(dz, dy, z, activation)
    wanted = dy * reference.activate_derivative(z.astype(WIDE), by_reference)
    assert np.all(np.abs(dz - wanted) <= ULPS * np.finfo(dtype).eps * np.abs(dy))


@both_types
@each_activation
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, where nothing is compiled
def test_nan_stays_nan(name, dtype):
    activation, _ = ACTIVATIONS[name]
    z = padded([np.nan], dtype)
    y, dz = np.zeros_like(z), np.zeros_like(z)
    activate_all(y, z, activation)
    gradients_of_all(dz, np.ones_like(z), z, activation)
    assert np.isnan(y).all()
    assert np.isnan(dz).all() == (activation is not None)


@both_types
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@each_activation
def test_infinity(name, dtype):
    activation, by_reference = ACTIVATIONS[name]
    z = padded([-np.inf, np.inf], dtype)
    y = np.full_like(z, 7.0)
    activate_all(y, z, activation)
    np.testing.assert_array_equal(y, reference.activate(z, by_reference))  # -inf times 0 is NaN
    if name not in ("silu", "mish"):
        dz = np.full_like(z, np.nan)
        gradients_of_all(dz, np.ones_like(z), z, activation)
        wanted = reference.activate_derivative(z, by_reference)
        np.testing.assert_array_equal(dz, wanted.astype(dtype))


@both_types
@pytest.mark.parametrize(
    ("name", "slope"),
    [("None", 1.0), ("relu", 0.0), ("leaky relu", 0.2), ("silu", 0.5), ("mish", 0.6)],
)
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_at_0(name, slope, zero, dtype):
    activation, _ = ACTIVATIONS[name]
    z = padded([zero], dtype)
    y, dz = np.full_like(z, np.nan), np.full_like(z, np.nan)
    activate_all(y, z, activation)
    gradients_of_all(dz, np.ones_like(z), z, activation)
    np.testing.assert_array_equal(y, 0.0)
    np.testing.assert_allclose(dz, slope, rtol=np.finfo(dtype).eps)
