"""The reference of batch norm: finite differences, exact arithmetic, cases by hand, PyTorch."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from nbnorm import reference
from tests.cases.finite_differences import STEP, assert_gradient
from tests.cases.reference import (
    ACTIVATIONS,
    STATISTICS,
    assert_same_but_for_rounding,
    draw_batch_norm,
    kept_shape,
    loss_of,
)

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


def assert_batch_norm_gradients(dy, arguments, options):
    gradients = reference.batch_norm_backward(dy, **arguments, **options)
    for name, value in arguments.items():
        loss = loss_of(reference.batch_norm_forward, dy, arguments, name, **options)
        assert_gradient(getattr(gradients, f"d{name}"), loss, value)


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
