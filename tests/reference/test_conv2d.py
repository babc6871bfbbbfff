"""The reference of convolutions: their definition, finite differences, PyTorch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from nbnorm import reference
from tests.cases.finite_differences import assert_gradient
from tests.cases.reference import assert_same_but_for_rounding, draw_conv2d, loss_of

# Paddings that PyTorch's convolution does not have.
ONE_SIDED = [
    {"padding": "same", "stride": (2, 3)},
    {"padding": "same_lower", "stride": 2, "dilation": (2, 1)},
    {"padding": "same_lower"},
    {"padding": ((0, 1), (2, 0)), "stride": 2},
]
GEOMETRIES = [
    {"padding": "valid"},
    {},
    {"stride": 2},
    {"stride": (1, 3), "padding": (2, 0)},
    {"padding": 1, "dilation": 2},
    {"padding": "same"},
    {"padding": "same", "dilation": (1, 2), "groups": 2},
    {"stride": 2, "padding": 1, "groups": 2},
    *ONE_SIDED,
]
WINDOWS = [(1, 1), (3, 3), (2, 3)]


def conv2d_by_definition(x, weight, bias, stride=1, padding=0, dilation=1, groups=1):
    """Sum over the window at every place, one scalar at a time."""
    (stride_h, stride_w), (dilation_h, dilation_w) = (
        np.broadcast_to(pair, 2) for pair in (stride, dilation)
    )
    (n, _, h, w), (k, c, r, s) = x.shape, weight.shape
    if padding in ("same", "same_lower"):  # the last window ends where the zeros end
        extra_h = max(0, (h - 1) // stride_h * stride_h + dilation_h * (r - 1) + 1 - h)
        extra_w = max(0, (w - 1) // stride_w * stride_w + dilation_w * (s - 1) + 1 - w)
        upper = padding == "same_lower"
        top, left = (extra_h + upper) // 2, (extra_w + upper) // 2
        bottom, right = extra_h - top, extra_w - left
    else:
        sides = np.zeros((2, 2), int) if padding == "valid" else np.transpose([padding] * 2)
        (top, bottom), (left, right) = (
            padding if np.ndim(padding) == 2 else np.resize(sides, (2, 2))
        )
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


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("geometry", [g for g in GEOMETRIES if g not in ONE_SIDED])
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
