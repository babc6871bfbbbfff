"""Activations of vectors and their gradients, against the reference."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm import reference
from nbnorm.functional.arguments import resolve_activation
from nbnorm.jit import options
from nbnorm.jit.simd import lanes, load, store
from nbnorm.kernels.activations import activate, activation_gradient
from tests.cases.activations import ARGUMENTS
from tests.cases.normal import normal_distribution
from tests.kernels import activations_page
from tests.kernels.views import DTYPES

each_activation = pytest.mark.parametrize("argument", [None, *ARGUMENTS], ids=str)
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


@options.worker
def activate_all(y, dz, dy, z, activation):
    """The values and, times dy, the derivatives: in one kernel, for there is one for each type."""
    for i in range(0, z.size, lanes(z)):
        store(y, i, activate(activation, load(z, i)))
        store(dz, i, activation_gradient(activation, load(dy, i), load(z, i)))


def padded(values, dtype):
    """Whole vectors of values."""
    return np.resize(np.asarray(values, dtype), -(-len(values) // 64) * 64)


def values_of(dtype):
    """From far out to around 0, every kink and threshold with its neighbours."""
    special = [
        0.0,
        -0.0,
        20.0,
        -80.0,
        88.0,
        -87.0,
        38.0,
        -38.0,
        709.0,
        -708.0,
        1e4,
        -1e4,
        1e30,
        -1e30,
    ]
    tiny = np.finfo(dtype).tiny
    special = np.array([*special, tiny, -tiny, np.finfo(dtype).eps, -np.finfo(dtype).eps], dtype)
    around = [np.nextafter(special, dtype(side)) for side in (-np.inf, np.inf)]
    inside = np.linspace(-30, 30, 4001)
    return padded(np.concatenate([special, *around, inside, 5 * inside, 30 * inside]), dtype)


def truth(argument, z):
    """Values and derivatives in long double."""
    z = z.astype(WIDE)
    if argument == "gelu":  # of which the reference knows as much as float64 does
        density, distribution = normal_distribution(z)
        return z * distribution, distribution + z * density
    return reference.activate(z, argument), reference.activate_derivative(z, argument)


def run(argument, z, dy):
    """The kernel's values and gradients."""
    y, dz = np.full_like(z, 7.0), np.full_like(z, 7.0)
    activate_all(y, dz, dy, z, resolve_activation("run", argument))
    return y, dz


@both_types_exactly
@each_activation
def test_is_the_reference(argument, dtype):
    z = values_of(np.dtype(dtype).type)
    dy = np.resize(np.array([-3.0, 1.0, 0.5, 100.0, -1e-3], dtype), z.size)
    y, dz = run(argument, z, dy)
    eps, tiny = np.finfo(dtype).eps, np.finfo(dtype).tiny
    wanted, wanted_derivative = truth(argument, z)
    # exp is 0 where it would be subnormal, and so is what has it for a factor, silu for example.
    allowed = ULPS * eps * np.abs(wanted) + 2 * tiny * np.maximum(np.abs(z), 1).astype(WIDE)
    assert np.all(np.abs(y - wanted) <= allowed)
    assert np.all(np.abs(dz - dy * wanted_derivative) <= ULPS * eps * np.abs(dy))


@both_types
@each_activation
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, where nothing is compiled
def test_nan_stays_nan(argument, dtype):
    z = padded([np.nan], dtype)
    y, dz = run(argument, z, np.ones_like(z))
    assert np.isnan(y).all()
    assert np.isnan(dz).all() == (argument is not None)


@both_types
@each_activation
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_infinity(argument, dtype):
    z = padded([-np.inf, np.inf], dtype)
    y, dz = run(argument, z, np.ones_like(z))
    np.testing.assert_array_equal(y, reference.activate(z, argument))
    if argument not in ("silu", "mish"):  # whose reference is NaN: 0 times infinity
        wanted = reference.activate_derivative(z, argument)
        np.testing.assert_array_equal(dz, wanted.astype(dtype))


@both_types
@each_activation
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_at_0(argument, zero, dtype):
    z = padded([zero], dtype)
    y, dz = run(argument, z, np.ones_like(z))
    rounded_once = {"rtol": np.finfo(dtype).eps}
    z = z.astype(np.float64)
    np.testing.assert_allclose(y, reference.activate(z, argument), **rounded_once)
    np.testing.assert_allclose(dz, reference.activate_derivative(z, argument), **rounded_once)


def test_the_page_lists_them_all():
    text = activations_page.PAGE.read_text()
    assert text == activations_page.text(), "python -m tests.kernels.activations_page writes it"
