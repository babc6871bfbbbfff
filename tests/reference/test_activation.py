"""The reference of activations and their derivatives."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nbnorm import reference
from tests.cases.finite_differences import assert_gradient
from tests.cases.reference import ACTIVATIONS


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_derivatives(activation):
    z = np.array([-20.0, -5.0, -1.3, -0.02, 0.02, 0.7, 3.0, 20.0])
    for point in z:  # one at a time: the slope at -20 is far smaller than the others
        at = np.array([point])
        assert_gradient(
            reference.activate_derivative(at, activation),
            lambda value: reference.activate(value, activation)[0],
            at,
        )


@pytest.mark.parametrize(
    ("activation", "at_0", "slope_at_0"),
    [
        (None, 0.0, 1.0),
        ("relu", 0.0, 0.0),
        ("leaky_relu", 0.0, 0.01),
        (("leaky_relu", 0.2), 0.0, 0.2),
        ("silu", 0.0, 0.5),  # sigmoid(0)
        ("mish", 0.0, 0.6),  # tanh(log 2) = (4 - 1) / (4 + 1)
    ],
)
def test_activations_at_0(activation, at_0, slope_at_0):
    zero = np.zeros(1)
    assert reference.activate(zero, activation) == at_0
    # tanh(log 2) is rounded twice, the others are exact.
    slope = reference.activate_derivative(zero, activation)[0]
    assert abs(slope - slope_at_0) <= np.spacing(slope_at_0)


@pytest.mark.parametrize(
    ("activation", "at_1"),
    [
        ("relu", 1.0),
        ("silu", 1.0 / (1.0 + math.exp(-1.0))),
        ("mish", math.tanh(math.log1p(math.e))),
    ],
)
def test_activations_at_1(activation, at_1):
    # A handful of correctly rounded operations on either side.
    np.testing.assert_allclose(reference.activate(np.ones(1), activation), [at_1], rtol=1e-15)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_far_out_neither_overflow_nor_warn(activation):
    z = np.array([-1e300, -800.0, 800.0, 1e300])
    slope_left = {None: 1.0, "leaky_relu": 0.01, ("leaky_relu", 0.2): 0.2}.get(activation, 0.0)
    expected = z * [slope_left, slope_left, 1.0, 1.0]
    np.testing.assert_array_equal(reference.activate(z, activation), expected)
    np.testing.assert_array_equal(
        reference.activate_derivative(z, activation), [slope_left, slope_left, 1.0, 1.0]
    )


@pytest.mark.parametrize("activation", ACTIVATIONS[1:])
def test_nan_stays_nan_in_activations_and_derivatives(activation):
    nan = np.array([np.nan])
    assert np.isnan(reference.activate(nan, activation))
    assert np.isnan(reference.activate_derivative(nan, activation))


@pytest.mark.parametrize("function", [reference.activate, reference.activate_derivative])
def test_an_unknown_activation_is_refused(function):
    with pytest.raises(ValueError, match="unknown activation 'softmax'"):
        function(np.zeros(1), "softmax")
