"""The reference of dense layers and convolutions with batch norm, and of folding."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm import reference
from tests.cases.finite_differences import assert_gradient
from tests.cases.reference import (
    STATISTICS,
    assert_same_but_for_rounding,
    draw_batch_norm,
    draw_conv2d,
    loss_of,
)

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
