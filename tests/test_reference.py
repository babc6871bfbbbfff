"""The specification itself: against finite differences and cases worked by hand."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from nbnorm import reference
from tests.finite_differences import STEP, assert_gradient

ACTIVATIONS = [None, "relu", "leaky_relu", ("leaky_relu", 0.2), "silu", "mish"]
STATISTICS = ["batch, ddof 0", "batch, ddof 1", "given"]
SHAPES_AND_AXES = [
    ((7, 3), 1),
    ((7, 3), -1),
    ((3, 5), 0),
    ((3, 2, 5), 1),
    ((3, 4, 2), -1),
    ((3, 2, 2, 3), 1),
    ((2, 2, 3, 3), (0, 1)),
    ((5, 2, 2, 2), (1, 2, 3)),
    ((3, 2, 4, 2), (3, -3)),
    ((2, 2, 2, 2, 3), 1),
]
GEOMETRIES = [
    {},
    {"stride": 2},
    {"stride": (1, 3), "padding": (2, 0)},
    {"padding": 1, "dilation": 2},
    {"padding": "same"},
    {"padding": "same", "dilation": (1, 2), "groups": 2},
    {"stride": 2, "padding": 1, "groups": 2},
]
WINDOWS = [(1, 1), (3, 3), (2, 3)]

# Between two float64 computations, over the largest value: each rounds to 1.1e-16, some ten times
# for an entry and once more for each of up to a few hundred terms of its sum.
ROUNDING = 1e-13


def kept_shape(shape, axis):
    kept = sorted(a % len(shape) for a in np.atleast_1d(axis))
    return tuple(shape[a] for a in kept)


def draw_batch_norm(rng, shape, axis, statistics):
    """Draw dy, the arguments that have gradients, and the other arguments."""
    channels = kept_shape(shape, axis)
    dy = rng.normal(size=shape)
    arguments = {
        "x": rng.normal(1.0, 2.0, size=shape),
        "gamma": rng.uniform(0.5, 1.5, size=channels) * rng.choice([-1, 1], size=channels),
        "beta": rng.normal(size=channels),
        "residual": rng.normal(size=shape),
    }
    options = {"axis": axis, "eps": 0.1}
    if statistics == "given":
        options["statistics"] = (rng.normal(size=channels), rng.uniform(1.0, 4.0, size=channels))
    else:
        options["ddof"] = int(statistics[-1])
    return dy, arguments, options


def loss_of(forward, dy, arguments, name, **options):
    """Return sum(dy * y) as a function of one argument; its gradient is the backward's."""
    return lambda value: float(np.sum(dy * forward(**{**arguments, name: value}, **options)))


def assert_same_but_for_rounding(actual, expected):
    expected = np.asarray(expected)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=ROUNDING * np.abs(expected).max())


def assert_batch_norm_gradients(dy, arguments, options):
    gradients = reference.batch_norm_backward(dy, **arguments, **options)
    for name, value in arguments.items():
        loss = loss_of(reference.batch_norm_forward, dy, arguments, name, **options)
        assert_gradient(getattr(gradients, f"d{name}"), loss, value)


# Batch norm: gradients


@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize(("shape", "axis"), SHAPES_AND_AXES)
def test_batch_norm_gradients_on_every_axis(rng, shape, axis, statistics):
    assert_batch_norm_gradients(*draw_batch_norm(rng, shape, axis, statistics))


@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_batch_norm_gradients_through_every_activation(rng, activation, statistics):
    # A difference across the kink of a ReLU measures neither side, so draw until every z is away
    # from it: an argument moves by 2 STEP, and z by less than 10 times as much.
    z_min = 0.0
    while z_min < 20.0 * STEP:
        dy, arguments, options = draw_batch_norm(rng, (3, 2, 2, 3), 1, statistics)
        z_min = np.abs(reference.batch_norm_forward(**arguments, **options)).min()
    assert_batch_norm_gradients(dy, arguments, {**options, "activation": activation})


@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("present", [(), ("gamma",), ("beta",), ("residual",)])
def test_a_gradient_that_does_not_apply_is_none(rng, present, statistics):
    dy, arguments, options = draw_batch_norm(rng, (5, 3), 1, statistics)
    arguments = {name: arguments[name] for name in ("x", *present)}
    assert_batch_norm_gradients(dy, arguments, options)
    gradients = reference.batch_norm_backward(dy, **arguments, **options)._asdict()
    assert {name for name, gradient in gradients.items() if gradient is not None} == {
        f"d{name}" for name in arguments
    }


def test_finite_differences_reject_the_mean_in_dgamma(rng):
    dy, arguments, options = draw_batch_norm(rng, (7, 3), 1, "batch, ddof 0")
    loss = loss_of(reference.batch_norm_forward, dy, arguments, "gamma", **options)
    mean, _ = reference.batch_statistics(arguments["x"])

    assert_gradient(
        reference.batch_norm_backward(dy, **arguments, **options).dgamma, loss, arguments["gamma"]
    )
    with pytest.raises(AssertionError):
        assert_gradient(np.sum(dy * mean, axis=0), loss, arguments["gamma"])


def test_finite_differences_reject_the_gradient_for_m_of_a_variance_over_m_minus_1(rng):
    dy, arguments, options = draw_batch_norm(rng, (7, 3), 1, "batch, ddof 1")
    loss = loss_of(reference.batch_norm_forward, dy, arguments, "x", **options)
    x, gamma = arguments["x"], arguments["gamma"]
    mean, var = reference.batch_statistics(x, ddof=1)
    s = np.sqrt(var + options["eps"])
    xh = (x - mean) / s

    def dx(divisor):
        return gamma / s * (dy - dy.mean(axis=0) - xh * np.sum(dy * xh, axis=0) / divisor)

    assert_gradient(dx(7 - 1), loss, x)
    assert_gradient(reference.batch_norm_backward(dy, **arguments, **options).dx, loss, x)
    with pytest.raises(AssertionError):
        assert_gradient(dx(7), loss, x)


# Batch norm: cases worked by hand. Every number is exact in binary, so results are too.


def test_by_hand_variance_over_m():
    x = [[1.0], [1.0], [5.0], [5.0]]  # mean 3, var 16 / 4, s = 2, xh = -1 -1 1 1
    y = reference.batch_norm_forward(x, gamma=[4.0], beta=[10.0], eps=0.0)
    np.testing.assert_array_equal(y, [[6.0], [6.0], [14.0], [14.0]])

    dy = [[1.0], [2.0], [3.0], [6.0]]  # sum 12, sum(dy xh) = -1 - 2 + 3 + 6 = 6
    gradients = reference.batch_norm_backward(dy, x, [4.0], [10.0], eps=0.0)
    np.testing.assert_array_equal(gradients.dbeta, [12.0])
    np.testing.assert_array_equal(gradients.dgamma, [6.0])
    # 4 / 2 (dy - 12 / 4 - xh 6 / 4) = 2 (-0.5, 0.5, -1.5, 1.5)
    np.testing.assert_array_equal(gradients.dx, [[-1.0], [1.0], [-3.0], [3.0]])


def test_by_hand_variance_over_m_minus_1():
    x = [[1.0], [1.0], [3.0], [5.0], [5.0]]  # mean 3, var 16 / 4, s = 2, xh = -1 -1 0 1 1
    y = reference.batch_norm_forward(x, gamma=[8.0], eps=0.0, ddof=1)
    np.testing.assert_array_equal(y, [[-8.0], [-8.0], [0.0], [8.0], [8.0]])

    dy = [[1.0], [2.0], [3.0], [4.0], [10.0]]  # sum 20, sum(dy xh) = -1 - 2 + 4 + 10 = 11
    gradients = reference.batch_norm_backward(dy, x, [8.0], eps=0.0, ddof=1)
    np.testing.assert_array_equal(gradients.dgamma, [11.0])
    # 8 / 2 (dy - 20 / 5 - xh 11 / 4) = 4 (-0.25, 0.75, -1, -2.75, 3.25)
    np.testing.assert_array_equal(gradients.dx, [[-1.0], [3.0], [-4.0], [-11.0], [13.0]])


def test_by_hand_eps_is_inside_the_root():
    x = [[-2.0], [2.0]]  # mean 0, var 4, s = sqrt(4 + 12) = 4
    np.testing.assert_array_equal(reference.batch_norm_forward(x, eps=12.0), [[-0.5], [0.5]])


def test_by_hand_given_statistics():
    x = [[3.0], [5.0]]
    given = ([1.0], [4.0])  # xh = 1 2
    y = reference.batch_norm_inference(x, *given, gamma=[3.0], beta=[1.0], eps=0.0)
    np.testing.assert_array_equal(y, [[4.0], [7.0]])

    dy = [[2.0], [4.0]]
    gradients = reference.batch_norm_backward(dy, x, [3.0], [1.0], statistics=given, eps=0.0)
    np.testing.assert_array_equal(gradients.dbeta, [6.0])
    np.testing.assert_array_equal(gradients.dgamma, [10.0])  # 2 * 1 + 4 * 2
    np.testing.assert_array_equal(gradients.dx, [[3.0], [6.0]])  # 3 / 2 dy


def test_by_hand_residual_enters_before_the_activation():
    x = [[-1.0], [1.0]]  # xh = x
    residual = [[4.0], [-2.0]]  # z = 3 -1
    y = reference.batch_norm_forward(x, eps=0.0, activation="relu", residual=residual)
    np.testing.assert_array_equal(y, [[3.0], [0.0]])

    gradients = reference.batch_norm_backward(
        [[5.0], [7.0]], x, eps=0.0, activation="relu", residual=residual
    )
    np.testing.assert_array_equal(gradients.dresidual, [[5.0], [0.0]])


def test_by_hand_two_channels_and_their_axes():
    channels_first = np.array([[[0.0, 2.0], [10.0, 10.0]], [[4.0, 2.0], [10.0, 10.0]]])
    mean, var = reference.batch_statistics(channels_first, axis=1)
    np.testing.assert_array_equal(mean, [2.0, 10.0])
    np.testing.assert_array_equal(var, [2.0, 0.0])
    mean, var = reference.batch_statistics(channels_first, axis=(1, 2))
    np.testing.assert_array_equal(mean, [[2.0, 2.0], [10.0, 10.0]])
    np.testing.assert_array_equal(var, [[4.0, 0.0], [0.0, 0.0]])


# Batch norm: behaviour


@pytest.mark.parametrize("axis", [2, (0, 2), (2, 0), (-1, 0)])
def test_axes_may_come_in_any_place_and_order(rng, axis):
    # Integers, and a power of two of them in each channel: sums are exact in any order.
    x = rng.integers(-8, 8, size=(4, 8, 2)).astype(float)
    kept = sorted(a % 3 for a in np.atleast_1d(axis))
    gamma = rng.normal(size=kept_shape(x.shape, axis))

    # The same computation on (m, channels), where the default axis is the right one.
    moved = np.moveaxis(x, kept, range(-len(kept), 0))  # kept axes last
    flat = moved.reshape(-1, gamma.size)
    expected = reference.batch_norm_forward(flat, gamma.ravel()).reshape(moved.shape)

    y = reference.batch_norm_forward(x, gamma, axis=axis)
    np.testing.assert_array_equal(np.moveaxis(y, kept, range(-len(kept), 0)), expected)


@pytest.mark.parametrize("m", [2, 3, 7, 1000])
@pytest.mark.parametrize("constant", [0.0, 0.1, -1 / 3, 1e-30, 1e15 + 0.3])
@pytest.mark.parametrize("eps", [0.0, 1e-5])
@pytest.mark.parametrize("ddof", [0, 1])
def test_a_constant_channel_is_exactly_beta(m, constant, eps, ddof):
    x = np.full((m, 1), constant)
    gamma, beta = [1e3], [0.7]
    y = reference.batch_norm_forward(x, gamma, beta, eps=eps, ddof=ddof)
    np.testing.assert_array_equal(y, np.full((m, 1), 0.7))


def test_without_eps_a_constant_channel_passes_no_gradient(rng):
    gradients = reference.batch_norm_backward(
        rng.normal(size=(5, 1)), np.full((5, 1), 0.1), [2.0], [0.7], eps=0.0
    )
    np.testing.assert_array_equal(gradients.dx, np.zeros((5, 1)))
    np.testing.assert_array_equal(gradients.dgamma, [0.0])


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e8, -1e8])
def test_statistics_are_as_good_as_exact_ones(rng, offset):
    x = offset + rng.normal(size=(50, 1))
    values = [Fraction(value) for value in x[:, 0]]
    exact_mean = sum(values) / 50
    exact_var = sum((value - exact_mean) ** 2 for value in values) / 49

    mean, var = reference.batch_statistics(x, ddof=1)
    # One rounding of the mean, and one for each of the 50 terms and few operations of the
    # variance. The rounded mean shifts var by the square of 1e8 eps, far less.
    eps = np.finfo(np.float64).eps
    np.testing.assert_allclose(mean, [float(exact_mean)], rtol=eps, atol=eps)
    np.testing.assert_allclose(var, [float(exact_var)], rtol=54 * eps)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_stay_in_their_channel(rng, bad, activation):
    dy, arguments, options = draw_batch_norm(rng, (4, 3, 5), 1, "batch, ddof 0")
    options["activation"] = activation
    clean_y = reference.batch_norm_forward(**arguments, **options)
    clean_dx = reference.batch_norm_backward(dy, **arguments, **options).dx

    arguments["x"][2, 1, 3] = bad
    y = reference.batch_norm_forward(**arguments, **options)
    dx = reference.batch_norm_backward(dy, **arguments, **options).dx
    for result, clean in ((y, clean_y), (dx, clean_dx)):
        assert np.isnan(result[:, 1]).all()
        np.testing.assert_array_equal(result[:, [0, 2]], clean[:, [0, 2]])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_in_inference_stays_in_its_place(activation):
    x = np.array([[1.0, np.nan], [2.0, -3.0]])
    y = reference.batch_norm_inference(x, [0.0, 0.0], [1.0, 1.0], activation=activation)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(x))


def test_inverse_std_of_zero_nan_and_infinity():
    inv_std = reference.inverse_std([0.0, np.nan, np.inf], eps=0.0)
    np.testing.assert_array_equal(inv_std, [0.0, np.nan, 0.0])


def test_an_empty_batch_can_be_normalized_with_given_statistics():
    y = reference.batch_norm_inference(np.empty((0, 2, 4)), [0.0, 1.0], [1.0, 2.0])
    assert y.shape == (0, 2, 4)


def test_float32_arguments_are_computed_in_float64(rng):
    dy, arguments, options = draw_batch_norm(rng, (5, 3), 1, "given")
    single = {name: value.astype(np.float32) for name, value in arguments.items()}
    double = {name: value.astype(np.float64) for name, value in single.items()}
    options["statistics"] = tuple(s.astype(np.float32) for s in options["statistics"])

    y = reference.batch_norm_forward(**single, **options)
    assert y.dtype == np.float64
    wide = {**options, "statistics": tuple(s.astype(np.float64) for s in options["statistics"])}
    np.testing.assert_array_equal(y, reference.batch_norm_forward(**double, **wide))
    gradients = reference.batch_norm_backward(dy.astype(np.float32), **single, **options)
    expected = reference.batch_norm_backward(dy.astype(np.float32), **double, **wide)
    for gradient, wide_gradient in zip(gradients, expected, strict=True):
        assert gradient.dtype == np.float64
        np.testing.assert_array_equal(gradient, wide_gradient)


# Activations


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
    with pytest.raises(ValueError, match="unknown activation 'gelu'"):
        function(np.zeros(1), "gelu")


# Dense


@pytest.mark.parametrize("leading", [(), (4,), (2, 3)])
def test_dense_gradients(rng, leading):
    dy = rng.normal(size=(*leading, 2))
    arguments = {
        "x": rng.normal(size=(*leading, 3)),
        "weight": rng.normal(size=(2, 3)),
        "bias": rng.normal(size=2),
    }
    gradients = reference.dense_backward(dy, arguments["x"], arguments["weight"])
    for name, value in arguments.items():
        loss = loss_of(reference.dense_forward, dy, arguments, name)
        assert_gradient(getattr(gradients, f"d{name}"), loss, value)


def test_by_hand_dense():
    x = [[1.0, 2.0], [3.0, 4.0]]
    weight = [[1.0, 0.0], [0.0, 10.0], [1.0, 1.0]]
    y = reference.dense_forward(x, weight, bias=[0.0, 0.0, 100.0])
    np.testing.assert_array_equal(y, [[1.0, 20.0, 103.0], [3.0, 40.0, 107.0]])


# Convolution


def draw_conv2d(draw, window, geometry):
    groups = geometry.get("groups", 1)
    return {
        "x": draw(size=(2, 4, 6, 7)),
        "weight": draw(size=(2, 4 // groups, *window)),
        "bias": draw(size=2),
    }


def conv2d_by_definition(x, weight, bias, stride=1, padding=0, dilation=1, groups=1):
    """Sum over the window at every place, one scalar at a time."""
    (stride_h, stride_w), (dilation_h, dilation_w) = (
        np.broadcast_to(pair, 2) for pair in (stride, dilation)
    )
    (n, _, h, w), (k, c, r, s) = x.shape, weight.shape
    if padding == "same":
        extra_h, extra_w = dilation_h * (r - 1), dilation_w * (s - 1)
        top, left = extra_h // 2, extra_w // 2
        bottom, right = extra_h - top, extra_w - left
    else:
        top, left = bottom, right = np.broadcast_to(padding, 2)
    rows = range(-top, h + bottom - dilation_h * (r - 1), stride_h)
    columns = range(-left, w + right - dilation_w * (s - 1), stride_w)

    y = np.empty((n, k, len(rows), len(columns)))
    for b, o, (p, row), (q, column) in itertools.product(
        range(n), range(k), enumerate(rows), enumerate(columns)
    ):
        first_channel = o // (k // groups) * c
        total = bias[o]
        for i, u, v in itertools.product(range(c), range(r), range(s)):
            at_h, at_w = row + u * dilation_h, column + v * dilation_w
            if 0 <= at_h < h and 0 <= at_w < w:
                total += x[b, first_channel + i, at_h, at_w] * weight[o, i, u, v]
        y[b, o, p, q] = total
    return y


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_conv2d_is_its_definition(rng, window, geometry):
    def integers(size):  # exact in float64, whatever the order of summation
        return rng.integers(-9, 10, size=size).astype(float)

    arguments = draw_conv2d(integers, window, geometry)
    np.testing.assert_array_equal(
        reference.conv2d_forward(**arguments, **geometry),
        conv2d_by_definition(**arguments, **geometry),
    )


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_conv2d_gradients(rng, window, geometry):
    arguments = draw_conv2d(rng.normal, window, geometry)
    dy = rng.normal(size=reference.conv2d_forward(**arguments, **geometry).shape)
    gradients = reference.conv2d_backward(dy, arguments["x"], arguments["weight"], **geometry)
    for name, value in arguments.items():
        loss = loss_of(reference.conv2d_forward, dy, arguments, name, **geometry)
        assert_gradient(getattr(gradients, f"d{name}"), loss, value)


def test_by_hand_conv2d():
    x = np.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    weight = [[[[1.0, 0.0], [0.0, 10.0]]]]
    y = reference.conv2d_forward(x, weight, bias=[100.0])
    np.testing.assert_array_equal(y, [[[[151.0, 162.0], [184.0, 195.0]]]])
    # "same" with a window of two rows and columns: the zeros go to the bottom and the right.
    y = reference.conv2d_forward(x, weight, padding="same")
    np.testing.assert_array_equal(y, [[[[51.0, 62.0, 3.0], [84.0, 95.0, 6.0], [7.0, 8.0, 9.0]]]])


def test_conv2d_with_an_empty_batch():
    x, weight = np.empty((0, 4, 5, 5)), np.ones((6, 2, 3, 3))
    y = reference.conv2d_forward(x, weight, padding=1, groups=2)
    assert y.shape == (0, 6, 5, 5)
    gradients = reference.conv2d_backward(y, x, weight, padding=1, groups=2)
    assert gradients.dx.shape == x.shape
    np.testing.assert_array_equal(gradients.dweight, np.zeros_like(weight))


# Dense and convolution with batch norm

OF_PRODUCTS = {"dense": (4, 3), "conv2d": (2, 4, 6, 7)}  # the shape of x


def draw_product(rng, kind, statistics):
    """Draw dy, the arguments that have gradients, and the other arguments."""
    shape = OF_PRODUCTS[kind]
    if kind == "dense":
        arguments = {"x": rng.normal(size=shape), "weight": rng.normal(size=(2, 3))}
        arguments["bias"] = rng.normal(size=2)
        options = {}
    else:
        options = {"stride": 2, "padding": (1, 0), "dilation": (1, 2), "groups": 2}
        arguments = draw_conv2d(rng.normal, (2, 3), options)
    z = getattr(reference, f"{kind}_forward")(**arguments, **options)
    axis = -1 if kind == "dense" else 1
    dy, of_norm, norm_options = draw_batch_norm(rng, z.shape, axis, statistics)
    del of_norm["x"], norm_options["axis"]
    norm_options["eps"] = 1.0  # less curvature: a weight moves many values at once
    return dy, arguments | of_norm, options | norm_options


def functions(kind):
    return (getattr(reference, f"{kind}_batch_norm_{name}") for name in ("forward", "backward"))


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("kind", OF_PRODUCTS)
def test_product_batch_norm_gradients(rng, kind, statistics, activation):
    dy, arguments, options = draw_product(rng, kind, statistics)
    options["activation"] = activation
    forward, backward = functions(kind)
    gradients = backward(dy, **arguments, **options)._asdict()
    if statistics != "given":  # a mean takes the bias out again
        assert_same_but_for_rounding(gradients.pop("dbias") + 1.0, np.ones(2))
    for name, gradient in gradients.items():
        loss = loss_of(forward, dy, arguments, name[1:], **options)
        assert_gradient(gradient, loss, arguments[name[1:]])


@pytest.mark.parametrize("present", [(), ("bias",), ("gamma",), ("beta",), ("residual",)])
@pytest.mark.parametrize("kind", OF_PRODUCTS)
def test_a_product_batch_norm_gradient_that_does_not_apply_is_none(rng, kind, present):
    dy, arguments, options = draw_product(rng, kind, "given")
    arguments = {name: arguments[name] for name in ("x", "weight", *present)}
    _, backward = functions(kind)
    gradients = backward(dy, **arguments, **options)._asdict()
    assert {name for name, gradient in gradients.items() if gradient is not None} == {
        f"d{name}" for name in arguments
    }


@pytest.mark.parametrize("missing", ["", "bias", "gamma", "beta"])
@pytest.mark.parametrize("kind", OF_PRODUCTS)
def test_folded_weights_do_the_batch_norm(rng, kind, missing):
    _, arguments, options = draw_product(rng, kind, "given")
    arguments.pop(missing, None)
    mean, var = options.pop("statistics")
    residual = arguments.pop("residual")
    inference = getattr(reference, f"{kind}_batch_norm_inference")
    y = inference(**arguments, mean=mean, var=var, residual=residual, **options)

    x, weight, bias = (arguments.pop(name, None) for name in ("x", "weight", "bias"))
    eps = options.pop("eps")
    folded = reference.fold_batch_norm(weight, bias, mean, var, **arguments, eps=eps)
    forward = getattr(reference, f"{kind}_forward")
    assert_same_but_for_rounding(forward(x, *folded, **options) + residual, y)


def test_by_hand_folding():
    weight, bias = reference.fold_batch_norm(
        [[1.0, 2.0], [3.0, 4.0]],
        [5.0, 6.0],
        mean=[1.0, 2.0],
        var=[0.0, 12.0],
        gamma=[4.0, -8.0],
        beta=[0.5, 0.25],
        eps=4.0,  # scale 4 / 2 and -8 / 4
    )
    np.testing.assert_array_equal(weight, [[2.0, 4.0], [-6.0, -8.0]])
    np.testing.assert_array_equal(bias, [8.5, -7.75])


def test_by_hand_folding_a_channel_that_does_not_vary():
    folded = reference.fold_batch_norm(np.ones((1, 2, 3, 3)), [0.3], [0.7], [0.0], eps=0.0)
    for array, shape in zip(folded, ((1, 2, 3, 3), (1,)), strict=True):
        np.testing.assert_array_equal(array, np.zeros(shape))


def test_by_hand_dense_batch_norm():
    x, weight = [[1.0, 0.0], [0.0, 1.0]], [[7.0, 3.0]]  # z = 7 3: mean 5, s = 2, xh = 1 -1
    y = reference.dense_batch_norm_forward(x, weight, [2.0], [1.0], bias=[5.0], eps=0.0)
    np.testing.assert_array_equal(y, [[3.0], [-1.0]])

    given = ([5.0], [4.0])
    gradients = reference.dense_batch_norm_backward(
        [[1.0], [5.0]], x, weight, [2.0], [1.0], statistics=given, eps=0.0
    )
    np.testing.assert_array_equal(gradients.dgamma, [-4.0])
    np.testing.assert_array_equal(gradients.dbeta, [6.0])
    np.testing.assert_array_equal(gradients.dweight, [[1.0, 5.0]])  # dz = 2 / 2 dy
    np.testing.assert_array_equal(gradients.dx, [[7.0, 3.0], [35.0, 15.0]])


def test_by_hand_conv2d_batch_norm():
    x, weight = [[[[1.0, 2.0, 4.0]]]], [[[[1.0, 1.0]]]]  # z = 3 6: mean 4.5, var 2.25
    y = reference.conv2d_batch_norm_forward(x, weight, [2.0], [1.0], eps=1.75)
    np.testing.assert_array_equal(y, [[[[-0.5, 2.5]]]])

    gradients = reference.conv2d_batch_norm_backward(
        [[[[1.0, 5.0]]]], x, weight, [2.0], [1.0], bias=[0.0], eps=1.75
    )
    np.testing.assert_array_equal(gradients.dbeta, [6.0])
    np.testing.assert_array_equal(gradients.dgamma, [3.0])  # xh = -0.75 0.75
    # dz = 2 / 2 (dy - 6 / 2 - xh 3 / 2) = -0.875 0.875
    np.testing.assert_array_equal(gradients.dx, [[[[-0.875, 0.0, 0.875]]]])
    np.testing.assert_array_equal(gradients.dweight, [[[[0.875, 1.75]]]])
    np.testing.assert_array_equal(gradients.dbias, [0.0])


# Against PyTorch, in float64


def torch_activation(torch, activation):
    functional = torch.nn.functional
    match activation:
        case None:
            return lambda z: z
        case (name, slope):
            return lambda z: getattr(functional, name)(z, slope)
        case name:
            return getattr(functional, name)


@pytest.mark.peer
@pytest.mark.parametrize("statistics", ["batch, ddof 0", "given"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_batch_norm_is_pytorchs(torch, rng, activation, statistics):
    dy, arguments, options = draw_batch_norm(rng, (4, 3, 5, 5), 1, statistics)
    tensors = {name: torch.tensor(a, requires_grad=True) for name, a in arguments.items()}
    mean, var = map(torch.tensor, options.get("statistics", (np.zeros(3), np.ones(3))))
    xh = torch.nn.functional.batch_norm(
        tensors["x"],
        mean,
        var,
        tensors["gamma"],
        tensors["beta"],
        training="statistics" not in options,
        eps=options["eps"],
    )
    y = torch_activation(torch, activation)(xh + tensors["residual"])
    y.backward(torch.tensor(dy))

    options["activation"] = activation
    gradients = reference.batch_norm_backward(dy, **arguments, **options)
    assert_same_but_for_rounding(reference.batch_norm_forward(**arguments, **options), y.detach())
    for name, tensor in tensors.items():
        assert_same_but_for_rounding(getattr(gradients, f"d{name}"), tensor.grad)


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_conv2d_is_pytorchs(torch, rng, window, geometry):
    arguments = draw_conv2d(rng.normal, window, geometry)
    tensors = {name: torch.tensor(a, requires_grad=True) for name, a in arguments.items()}
    expected = torch.nn.functional.conv2d(
        tensors["x"], tensors["weight"], tensors["bias"], **geometry
    )
    y = reference.conv2d_forward(**arguments, **geometry)
    assert_same_but_for_rounding(y, expected.detach())

    dy = rng.normal(size=y.shape)
    expected.backward(torch.tensor(dy))
    gradients = reference.conv2d_backward(dy, arguments["x"], arguments["weight"], **geometry)
    for name, tensor in tensors.items():
        assert_same_but_for_rounding(getattr(gradients, f"d{name}"), tensor.grad)
