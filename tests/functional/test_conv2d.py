"""conv2d_forward and conv2d_backward against the reference, finite differences and by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from nbnorm import reference
from nbnorm.functional.conv2d import Conv2dGradients, conv2d_backward, conv2d_forward
from tests.cases.batch_norm import channels_last_memory
from tests.cases.finite_differences import assert_gradient

N, C, K, H, W, R, S = 2, 4, 8, 7, 9, 3, 2
PADDINGS = (0, 1, (1, 2), "same", "same_lower", ((2, 0), (0, 1)))
OPTIONS = [
    {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    for stride, padding, dilation, groups in itertools.product(
        (1, 2, (2, 1)), PADDINGS, (1, 2, (1, 3)), (1, 2, 4)
    )
]
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-13}


def name(options):
    return " ".join(f"{key[0]}={value}" for key, value in options.items())


def operands(rng, options, dtype):
    """Channels-first x, weight, bias and dy."""
    x = rng.standard_normal((N, C, H, W)).astype(dtype)
    weight = rng.standard_normal((K, C // options.get("groups", 1), R, S)).astype(dtype)
    bias = rng.standard_normal(K).astype(dtype)
    dy = rng.standard_normal(reference.conv2d_forward(x, weight, **options).shape).astype(dtype)
    return x, weight, bias, dy


def laid_out(array, axis):
    """A channels-first array with its channels at `axis`, contiguous there."""
    return np.ascontiguousarray(np.moveaxis(array, 1, axis))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("options", OPTIONS, ids=name)
def test_equals_the_reference(rng, options, axis, dtype):
    x, weight, bias, dy = operands(rng, options, dtype)
    x_laid, dy_laid = laid_out(x, axis), laid_out(dy, axis)
    y = conv2d_forward(x_laid, weight, bias, axis=axis, **options)
    dx, dweight, dbias = conv2d_backward(dy_laid, x_laid, weight, axis=axis, **options)

    expected = reference.conv2d_backward(dy, x, weight, **options)
    for got, right in [
        (y, laid_out(reference.conv2d_forward(x, weight, bias, **options), axis)),
        (dx, laid_out(expected.dx, axis)),
        (dweight, expected.dweight),
        (dbias, expected.dbias),
    ]:
        assert got.dtype == dtype
        scale = np.abs(right).max()
        np.testing.assert_allclose(got, right, rtol=0, atol=TOLERANCE[dtype] * scale)


# The largest error over the rms of a result, for standard-normal data.
BOUND = {
    ("direct", "float32"): 5e-6,
    ("direct", "float64"): 1e-12,
    ("winograd", "float32"): 1e-4,
    ("winograd", "float64"): 1e-12,
}


@pytest.mark.parametrize(("algorithm", "dtype"), BOUND)
@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("padding", [0, 1, (2, 0), (3, 4), ((0, 1), (4, 2))])
@pytest.mark.parametrize(
    "sizes", [(1, 1, 1, 3, 3), (2, 17, 5, 7, 9), (3, 5, 70, 12, 4), (2, 70, 33, 14, 15)]
)
def test_each_algorithm_is_within_its_bound(rng, sizes, padding, axis, algorithm, dtype):
    n, c, k, h, w = sizes
    x = rng.standard_normal((n, c, h, w)).astype(dtype)
    weight = rng.standard_normal((k, c, 3, 3)).astype(dtype)
    right = reference.conv2d_forward(x, weight, padding=padding)
    dy = rng.standard_normal(right.shape).astype(dtype)
    options = {"padding": padding, "axis": axis, "algorithm": algorithm}
    y = conv2d_forward(laid_out(x, axis), weight, **options)
    gradients = conv2d_backward(laid_out(dy, axis), laid_out(x, axis), weight, **options)
    expected = reference.conv2d_backward(dy, x, weight, padding=padding)
    for got, wanted in (
        (np.moveaxis(y, axis, 1), right),
        (np.moveaxis(gradients.dx, axis, 1), expected.dx),
        (gradients.dweight, expected.dweight),
    ):
        bound = BOUND[algorithm, dtype] * np.sqrt(np.mean(wanted**2))
        np.testing.assert_allclose(got, wanted, rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("memory", [1, -1])
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (2, 17, 3, 9, 7), (1, 300, 33, 5, 3)])
def test_one_pixel_is_within_the_direct_bound(rng, sizes, memory, dtype):
    """Whichever layout x and dy have each: they may differ, and weights lie as they like."""
    n, c, k, h, w = sizes
    x = rng.standard_normal((n, c, h, w)).astype(dtype)
    weight = rng.standard_normal((k, c, 1, 1)).astype(dtype)
    right = reference.conv2d_forward(x, weight)
    dy = rng.standard_normal(right.shape).astype(dtype)
    expected = reference.conv2d_backward(dy, x, weight)
    lying = channels_last_memory(x)
    turned = dy if memory == 1 else channels_last_memory(dy)
    for given in (weight, np.asfortranarray(weight), weight[::-1].copy()[::-1]):
        gradients = conv2d_backward(turned, lying, given)
        for got, wanted in (
            (conv2d_forward(lying, given), right),
            (gradients.dx, expected.dx),
            (gradients.dweight, expected.dweight),
        ):
            bound = BOUND["direct", dtype] * np.sqrt(np.mean(wanted**2))
            np.testing.assert_allclose(got, wanted, rtol=0, atol=bound)


@pytest.mark.variant
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1, "groups": 2},
        {"padding": "same", "dilation": (1, 2)},
        {"padding": "same", "stride": (3, 2)},
    ],
    ids=name,
)
def test_backward_is_the_derivative_of_forward(rng, options):
    x, weight, bias, dy = operands(rng, options, np.float64)
    gradients = conv2d_backward(dy, x, weight, **options)

    def loss(x=x, weight=weight, bias=bias):
        return np.sum(dy * conv2d_forward(x, weight, bias, **options))

    assert_gradient(gradients.dx, lambda x: loss(x=x), x)
    assert_gradient(gradients.dweight, lambda weight: loss(weight=weight), weight)
    assert_gradient(gradients.dbias, lambda bias: loss(bias=bias), bias)


def test_by_hand():
    x = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
    weight = np.array([[[[1.0, 10.0]]]])  # one row, two columns
    np.testing.assert_array_equal(conv2d_forward(x, weight), [[[[21.0], [43.0]]]])
    np.testing.assert_array_equal(
        conv2d_forward(x, weight, padding="same"), [[[[21.0, 2.0], [43.0, 4.0]]]]
    )
    np.testing.assert_array_equal(
        conv2d_forward(x, weight, np.array([0.5]), padding=(0, 1), stride=2), [[[[10.5, 2.5]]]]
    )


@pytest.mark.parametrize(
    ("padding", "sides"),
    [
        ("valid", ((0, 0), (0, 0))),
        ("same", ((0, 1), (2, 3))),  # as TensorFlow and ONNX's SAME_UPPER
        ("same_lower", ((1, 0), (3, 2))),  # as ONNX's SAME_LOWER
        (((2, 1), (0, 3)), ((2, 1), (0, 3))),
        ((1, (0, 3)), ((1, 1), (0, 3))),
    ],
)
@pytest.mark.parametrize("axis", [1, -1])
def test_padding_is_zeros_around_the_image(rng, padding, sides, axis):
    x = rng.standard_normal((2, 3, 8, 7)).astype(np.float32)
    weight = rng.standard_normal((5, 3, 3, 6)).astype(np.float32)
    padded = laid_out(np.pad(x, ((0, 0), (0, 0), *sides)), axis)
    right = conv2d_forward(padded, weight, stride=(2, 3), axis=axis)
    y = conv2d_forward(laid_out(x, axis), weight, stride=(2, 3), axis=axis, padding=padding)
    np.testing.assert_allclose(y, right, rtol=0, atol=1e-5)


def test_same_of_a_window_narrower_than_its_stride(rng):
    x, weight = rng.standard_normal((1, 2, 5, 4)), rng.standard_normal((3, 2, 1, 2))
    y = conv2d_forward(x, weight, padding="same", stride=4)
    np.testing.assert_array_equal(y, conv2d_forward(x[..., :2], weight, stride=4))


def test_any_strides(rng):
    x, weight, bias, dy = operands(rng, {}, np.float64)
    expected = conv2d_forward(x, weight, bias)
    turned = np.asfortranarray(x)[:, :, ::-1][:, :, ::-1]
    np.testing.assert_allclose(conv2d_forward(turned, np.asfortranarray(weight), bias), expected)
    for got, right in zip(
        conv2d_backward(np.asfortranarray(dy), turned, weight),
        conv2d_backward(dy, x, weight),
        strict=True,
    ):
        np.testing.assert_allclose(got, right)


def test_an_empty_batch():
    x, weight = np.empty((0, 4, 5, 5)), np.ones((3, 4, 2, 2))
    y = conv2d_forward(x, weight)
    assert y.shape == (0, 3, 4, 4)
    gradients = conv2d_backward(y, x, weight)
    assert gradients.dx.shape == x.shape
    assert not gradients.dweight.any()


@pytest.mark.parametrize("axis", [1, -1])
def test_out_is_written_and_returned(rng, axis):
    x, weight, bias, dy = operands(rng, {}, np.float32)
    x, dy = laid_out(x, axis), laid_out(dy, axis)
    y = conv2d_forward(x, weight, bias, axis=axis)
    out = np.empty_like(y)
    assert conv2d_forward(x, weight, bias, axis=axis, out=out) is out
    np.testing.assert_array_equal(out, y)

    given = Conv2dGradients(dx=np.empty_like(x), dweight=np.empty_like(weight))
    gradients = conv2d_backward(dy, x, weight, axis=axis, out=given)
    assert gradients.dx is given.dx
    assert gradients.dweight is given.dweight
    for got, right in zip(gradients, conv2d_backward(dy, x, weight, axis=axis), strict=True):
        np.testing.assert_array_equal(got, right)


def test_needs_leaves_the_others_out(rng):
    x, weight, _, dy = operands(rng, {}, np.float32)
    gradients = conv2d_backward(dy, x, weight, needs={"dx"})
    assert gradients.dweight is None
    assert gradients.dbias is None
    np.testing.assert_array_equal(gradients.dx, conv2d_backward(dy, x, weight).dx)


X, WEIGHT, DY = np.ones((2, 4, 5, 6)), np.ones((6, 4, 3, 3)), np.ones((2, 6, 3, 4))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((X[0], WEIGHT), {}, ValueError, "x is .* expected an array of 4 dimensions"),
        ((X.astype(np.float16), WEIGHT), {}, TypeError, "x is .* expected .*float32 or float64"),
        ((X, WEIGHT.astype(np.float32)), {}, TypeError, "weight is .* expected .*float64"),
        ((X, WEIGHT[:, :3]), {}, ValueError, r"weight is .* expected .*c = 4, groups = 1"),
        ((X, WEIGHT[:, :1]), {"groups": 4}, ValueError, r"weight is .* expected .*groups = 4"),
        ((X, WEIGHT[:0]), {}, ValueError, "weight is .* expected .*no size of 0"),
        ((X, WEIGHT), {"groups": 0}, ValueError, "groups is 0; expected an int of 1 or more"),
        ((X, WEIGHT), {"stride": 0}, ValueError, "stride is 0; expected an int of 1 or more"),
        ((X, WEIGHT), {"stride": 1.0}, TypeError, "stride is 1.0; expected an int"),
        ((X, WEIGHT), {"dilation": (1, 1, 1)}, ValueError, "dilation is .* or a pair of ints"),
        ((X, WEIGHT), {"padding": -1}, ValueError, "padding is -1; expected an int of 0 or more"),
        ((X, WEIGHT), {"padding": "full"}, ValueError, "padding is 'full'; expected .*'same'"),
        ((X, WEIGHT), {"padding": (0, 1, 0, 1)}, ValueError, "padding is .*; expected .*bottom"),
        ((X, WEIGHT), {"padding": ((0, 1), -1)}, ValueError, "padding is -1; expected an int"),
        ((X, WEIGHT), {"dilation": 3}, ValueError, r"x is .* reach the window's \(7, 7\)"),
        ((X, WEIGHT), {"axis": 2}, ValueError, "axis is 2; expected 1 or -1"),
        ((X, WEIGHT), {"algorithm": "fft"}, ValueError, "algorithm is 'fft'; expected one of"),
        ((X, WEIGHT, np.ones(4)), {}, ValueError, r"bias is .* expected shape \(6,\)"),
        ((X, WEIGHT), {"out": X}, ValueError, r"out is .* expected shape \(2, 6, 3, 4\)"),
        ((X, np.ones((4, 4, 1, 1))), {"out": X}, ValueError, "out is .* does not overlap x"),
    ],
)
def test_forward_refuses(arguments, options, error, message):
    with pytest.raises(error, match=f"conv2d_forward: {message}"):
        conv2d_forward(*arguments, **options)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((DY[:1], X, WEIGHT), {}, ValueError, r"dy is .* expected shape \(2, 6, 3, 4\)"),
        ((DY, X, WEIGHT), {"axis": -1}, ValueError, "weight is .* expected .*c = 6"),
        ((DY, X, WEIGHT), {"needs": ["dz"]}, ValueError, "needs is .* expected names out of"),
        (
            (DY, X, WEIGHT),
            {"out": [None] * 3},
            TypeError,
            "out is .* a Conv2dGradients",
        ),
        ((DY, X, WEIGHT), {"out": Conv2dGradients(dx=X)}, ValueError, "out.dx is .* overlap x"),
    ],
)
def test_backward_refuses(arguments, options, error, message):
    with pytest.raises(error, match=f"conv2d_backward: {message}"):
        conv2d_backward(*arguments, **options)


@pytest.mark.parametrize("groups", [1, 3])
def test_a_window_that_meets_no_pixel_has_no_gradient_there(groups, rng):
    x = rng.standard_normal((2, 3, 1, 1), dtype=np.float32)
    weight = rng.standard_normal((3, 3 // groups, 1, 1), dtype=np.float32)
    options = {"padding": 1, "stride": 2, "groups": groups}
    y = conv2d_forward(x, weight, **options)
    np.testing.assert_array_equal(y, np.zeros((2, 3, 2, 2)))
    dx, dweight, _ = conv2d_backward(np.ones_like(y), x, weight, **options)
    np.testing.assert_array_equal(dx, np.zeros_like(x))
    np.testing.assert_array_equal(dweight, np.zeros_like(weight))
