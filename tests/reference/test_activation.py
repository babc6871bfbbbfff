"""The reference of activations and their derivatives."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nbnorm import reference
from tests.cases.activations import ARGUMENTS
from tests.cases.finite_differences import assert_gradient

each_activation = pytest.mark.parametrize("activation", [None, *ARGUMENTS])

# Those whose values change too little far out for differences of them to be exact.
FLAT_FAR_OUT = ("elu", ("elu", 0.2), "selu", "gelu", "sigmoid", "tanh")


@each_activation
def test_activation_derivatives(activation):
    z = np.array([-2.9, -1.3, -0.02, 0.02, 0.7, 2.9])
    if activation not in FLAT_FAR_OUT:
        z = np.array([*z, -20.0, -5.0, 5.0, 20.0])
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
        ("relu6", 0.0, 0.0),
        ("elu", 0.0, 1.0),
        (("elu", 0.2), 0.0, 0.2),
        ("selu", 0.0, 1.0507009873554805 * 1.6732632423543772),
        ("gelu", 0.0, 0.5),
        ("silu", 0.0, 0.5),  # sigmoid(0)
        ("mish", 0.0, 0.6),  # tanh(log 2) = (4 - 1) / (4 + 1)
        ("hard_swish", 0.0, 0.5),
        ("sigmoid", 0.5, 0.25),
        ("hard_sigmoid", 0.5, 1.0 / 6.0),
        ("tanh", 0.0, 1.0),
        ("softplus", math.log(2.0), 0.5),
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
        ("gelu", 0.5 * (1.0 + math.erf(math.sqrt(0.5)))),
        ("silu", 1.0 / (1.0 + math.exp(-1.0))),
        ("mish", math.tanh(math.log1p(math.e))),
        ("hard_swish", 4.0 / 6.0),
        ("sigmoid", 1.0 / (1.0 + math.exp(-1.0))),
        ("hard_sigmoid", 4.0 / 6.0),
        ("softplus", math.log(1.0 + math.e)),
    ],
)
def test_activations_at_1(activation, at_1):
    # A handful of correctly rounded operations on either side.
    np.testing.assert_allclose(reference.activate(np.ones(1), activation), [at_1], rtol=1e-15)


@pytest.mark.parametrize(
    ("activation", "kinks", "values", "slopes"),
    [
        ("relu6", [0.0, 6.0], [0.0, 6.0], [0.0, 0.0]),
        ("hard_swish", [-3.0, 3.0], [0.0, 3.0], [0.0, 1.0]),
        ("hard_sigmoid", [-3.0, 3.0], [0.0, 1.0], [0.0, 0.0]),
    ],
)
def test_beyond_a_kink_the_outer_side_begins(activation, kinks, values, slopes):
    z = np.array(kinks)
    np.testing.assert_array_equal(reference.activate(z, activation), values)
    np.testing.assert_array_equal(reference.activate_derivative(z, activation), slopes)
    outside = np.nextafter(z, [-np.inf, np.inf])
    np.testing.assert_array_equal(reference.activate_derivative(outside, activation), slopes)


# The straight lines, slope and value at 0, that an activation is far to the left and to the right.
LINES = dict.fromkeys([None, *ARGUMENTS], ((0.0, 0.0), (1.0, 0.0))) | {
    None: ((1.0, 0.0), (1.0, 0.0)),
    "leaky_relu": ((0.01, 0.0), (1.0, 0.0)),
    ("leaky_relu", 0.2): ((0.2, 0.0), (1.0, 0.0)),
    "relu6": ((0.0, 0.0), (0.0, 6.0)),
    "elu": ((0.0, -1.0), (1.0, 0.0)),
    ("elu", 0.2): ((0.0, -0.2), (1.0, 0.0)),
    "selu": ((0.0, -1.0507009873554805 * 1.6732632423543772), (1.0507009873554805, 0.0)),
    "sigmoid": ((0.0, 0.0), (0.0, 1.0)),
    "hard_sigmoid": ((0.0, 0.0), (0.0, 1.0)),
    "tanh": ((0.0, -1.0), (0.0, 1.0)),
}


@each_activation
def test_activations_far_out_neither_overflow_nor_warn(activation):
    z = np.array([[-1e300, -800.0], [800.0, 1e300]])
    slopes, values = np.moveaxis(np.array(LINES[activation]), -1, 0)[..., None]
    derivative = reference.activate_derivative(z, activation)
    np.testing.assert_array_equal(derivative, np.broadcast_to(slopes, z.shape))
    np.testing.assert_array_equal(reference.activate(z, activation), values + slopes * z)


@each_activation
def test_nan_stays_nan_in_activations_and_derivatives(activation):
    nan = np.array([np.nan])
    assert np.isnan(reference.activate(nan, activation))
    if activation is not None:
        assert np.isnan(reference.activate_derivative(nan, activation))


@pytest.mark.peer
@each_activation
def test_is_pytorchs(torch, activation):
    name, *parameters = activation if isinstance(activation, tuple) else (activation or "identity",)
    functions = {"identity": lambda z: z, "hard_swish": "hardswish", "hard_sigmoid": "hardsigmoid"}
    function = functions.get(name, name)
    if isinstance(function, str):
        function = getattr(torch.nn.functional, function)
    z = np.append(np.linspace(-12.0, 12.0, 97), [-30.0, 20.0])  # kinks too
    tensor = torch.tensor(z, requires_grad=True)
    y = function(tensor, *parameters)
    y.sum().backward()
    wanted = y.detach().numpy(), tensor.grad.numpy()
    results = reference.activate(z, activation), reference.activate_derivative(z, activation)
    rtol = 1e-7 if activation == "hard_sigmoid" else 1e-12  # where PyTorch has a float32 of 1 / 6
    for result, expected in zip(results, wanted, strict=True):
        np.testing.assert_allclose(result, expected, rtol=rtol, atol=1e-15)


@pytest.mark.parametrize("function", [reference.activate, reference.activate_derivative])
def test_an_unknown_activation_is_refused(function):
    with pytest.raises(ValueError, match="unknown activation 'softmax'"):
        function(np.zeros(1), "softmax")
