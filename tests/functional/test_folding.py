"""fold_batch_norm against the reference and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm import fold_batch_norm, reference

SHAPES = [(1, 1), (3, 17), (17, 3), (4, 3, 3, 3), (6, 1, 5, 2), (1, 3, 1, 1), (0, 3)]


def draw(rng, shape, dtype, present=("bias", "gamma", "beta")):
    k = shape[0]
    drawn = {
        "weight": rng.standard_normal(shape),
        "bias": rng.standard_normal(k),
        "mean": rng.standard_normal(k),
        "var": rng.uniform(0.5, 2, k),
        "gamma": rng.standard_normal(k),
        "beta": rng.standard_normal(k),
    }
    optional = {"bias", "gamma", "beta"} - set(present)
    return {n: None if n in optional else value.astype(dtype) for n, value in drawn.items()}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_is_the_reference_rounded_once(rng, shape, dtype):
    arguments = draw(rng, shape, dtype)
    for got, right in zip(
        fold_batch_norm(**arguments, eps=0.1),
        reference.fold_batch_norm(**arguments, eps=0.1),
        strict=True,
    ):
        assert got.dtype == dtype
        assert got.shape == right.shape
        # Half a unit in the last place, and a few of float64's that may tip it over.
        bound = 0.5 * np.spacing(np.abs(right).astype(dtype)) + 4e-16 * np.abs(right)
        if dtype == np.float64:
            bound = 1e-15 * np.abs(right).max(initial=0.0)
        assert (np.abs(got - right) <= bound).all()


@pytest.mark.parametrize("missing", ["bias", "gamma", "beta"])
def test_what_can_be_left_out(rng, missing):
    present = {"bias", "gamma", "beta"} - {missing}
    arguments = draw(rng, (4, 3), np.float64, present)
    for got, right in zip(
        fold_batch_norm(**arguments), reference.fold_batch_norm(**arguments), strict=True
    ):
        np.testing.assert_allclose(got, right, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_convolution_does_its_own_batch_norm(rng, groups):
    arguments = draw(rng, (8, 4 // groups, 3, 2), np.float64)
    weight, bias, *normalization = arguments.values()
    x = rng.standard_normal((2, 4, 5, 6))
    z = reference.conv2d_forward(x, weight, bias, groups=groups)
    expected = reference.batch_norm_inference(z, *normalization)
    y = reference.conv2d_forward(x, *fold_batch_norm(**arguments), groups=groups)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)


# Where each kind of weight has its output channels: shape, out_axis, and how it becomes (k, ...).
KINDS = {
    "PyTorch's Conv1d": ((6, 4, 5), 0, lambda w: w),
    "PyTorch's Conv3d": ((6, 4, 2, 3, 2), 0, lambda w: w),
    "PyTorch's ConvTranspose2d": ((4, 6, 3, 2), 1, lambda w: w.swapaxes(0, 1)),
    "as many in as out": ((6, 6, 3, 2), 1, lambda w: w.swapaxes(0, 1)),
    "the same in 2 groups": (
        (2, 2, 3, 5, 4), (0, 2), lambda w: w.swapaxes(1, 2).reshape(6, 2, 5, 4),
    ),
    "Keras's Conv2D": ((3, 2, 4, 6), -1, lambda w: w.transpose(3, 2, 0, 1)),
    "Keras's Conv2DTranspose": ((3, 2, 6, 4), -2, lambda w: w.transpose(2, 3, 0, 1)),
    "Keras's DepthwiseConv2D": (
        (3, 5, 2, 3), (-1, -2), lambda w: w.transpose(2, 3, 0, 1).reshape(6, 1, 3, 5),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_output_channels_along_other_axes(rng, kind):
    shape, out_axis, channels_first = KINDS[kind]
    arguments = draw(rng, (6, 1), np.float64) | {"weight": rng.standard_normal(shape)}
    right, right_bias = fold_batch_norm(
        **arguments | {"weight": channels_first(arguments["weight"]).reshape(6, -1)}
    )
    weight, bias = fold_batch_norm(**arguments, out_axis=out_axis)
    assert weight.shape == shape
    np.testing.assert_array_equal(channels_first(weight).reshape(6, -1), right)
    np.testing.assert_array_equal(bias, right_bias)
    for got, wanted in zip(
        (weight, bias), reference.fold_batch_norm(**arguments, out_axis=out_axis), strict=True
    ):
        np.testing.assert_allclose(got, wanted, rtol=1e-14, atol=1e-15)


def test_by_hand():
    weight, bias = fold_batch_norm(
        np.array([[1.0, 2.0], [3.0, 4.0]]),
        np.array([5.0, 6.0]),
        mean=np.array([1.0, 2.0]),
        var=np.array([0.0, 12.0]),
        gamma=np.array([4.0, -8.0]),
        beta=np.array([0.5, 0.25]),
        eps=4.0,  # scale 4 / 2 and -8 / 4
    )
    np.testing.assert_array_equal(weight, [[2.0, 4.0], [-6.0, -8.0]])
    np.testing.assert_array_equal(bias, [8.5, -7.75])


def test_a_channel_that_does_not_vary_becomes_beta():
    weight, bias = fold_batch_norm(
        np.full((1, 3), 0.1),
        np.array([0.3]),
        mean=np.array([0.7]),
        var=np.array([0.0]),
        beta=np.array([0.9]),
        eps=0.0,
    )
    np.testing.assert_array_equal(weight, np.zeros((1, 3)))
    np.testing.assert_array_equal(bias, [0.9])


def test_parameters_of_another_type_are_taken_as_they_are(rng):
    arguments = draw(rng, (4, 3), np.float64)
    weight, bias = arguments["weight"].astype(np.float32), arguments["bias"]
    right = reference.fold_batch_norm(**arguments | {"weight": weight})
    got = fold_batch_norm(**arguments | {"weight": weight})
    for one, other in zip(got, right, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, other.astype(np.float32))
    assert bias.dtype == np.float64


def test_any_strides_and_nothing_is_written(rng):
    arguments = draw(rng, (6, 4), np.float64)
    expected = fold_batch_norm(**arguments)
    wide = np.repeat(arguments["weight"], 2, axis=1)[:, ::2]
    for weight in (np.asfortranarray(arguments["weight"]), wide):
        weight.flags.writeable = False
        for got, right in zip(
            fold_batch_norm(**arguments | {"weight": weight}), expected, strict=True
        ):
            np.testing.assert_array_equal(got, right)
    # What comes back is the caller's own, also where nothing was to be changed.
    plain = {"mean": np.zeros(6), "var": np.ones(6), "eps": 0.0}
    weight, bias = fold_batch_norm(arguments["weight"], arguments["bias"], **plain)
    assert not np.shares_memory(weight, arguments["weight"])
    assert not np.shares_memory(bias, arguments["bias"])


def test_nan_and_infinity_pass_without_a_warning():
    weight, bias = fold_batch_norm(
        np.ones((3, 1), np.float32),
        None,
        mean=np.array([np.inf, 1.0, 0.0]),
        var=np.array([np.inf, np.nan, 0.0]),
        gamma=np.array([1.0, 1.0, 1e200]),
        eps=1e-5,
    )
    np.testing.assert_array_equal(weight, [[0.0], [np.nan], [np.inf]])
    assert np.isnan(bias[:2]).all()


WEIGHT, BIAS, VECTOR = np.ones((4, 3)), np.ones(4), np.ones(4)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weight": [[1.0]]}, TypeError, r"weight is \[\[1.0\]\]; expected a NumPy array"),
        ({"weight": WEIGHT.astype(int)}, TypeError, "weight is .*int64.* expected .*float32 or"),
        ({"weight": WEIGHT[0]}, ValueError, r"weight is .*\(3,\); expected .* 2 dimensions"),
        ({"out_axis": 1}, ValueError, r"bias is .*\(4,\); expected shape \(3,\)"),
        ({"out_axis": (0, 1)}, ValueError, r"bias is .*\(4,\); expected shape \(12,\)"),
        ({"out_axis": 2}, ValueError, "out_axis is 2; expected an int or a tuple .* from -2 to 1"),
        ({"out_axis": None}, TypeError, "out_axis is None; expected an int or a tuple"),
        ({"bias": BIAS[:3]}, ValueError, r"bias is .*\(3,\); expected shape \(4,\)"),
        ({"mean": None}, TypeError, "mean is None; expected a NumPy array"),
        ({"mean": VECTOR[:, None]}, ValueError, r"mean is .*\(4, 1\); expected shape \(4,\)"),
        ({"var": VECTOR[:3]}, ValueError, r"var is .*\(3,\); expected shape \(4,\)"),
        ({"var": -VECTOR}, ValueError, "var is -1.0; expected no negative variance"),
        ({"gamma": VECTOR.astype(int)}, TypeError, "gamma is .*int64.* expected .*float32 or"),
        ({"beta": VECTOR[:2]}, ValueError, r"beta is .*\(2,\); expected shape \(4,\)"),
        ({"eps": -1.0}, ValueError, "eps is -1.0; expected a finite number, 0 or more"),
        ({"eps": "1e-5"}, TypeError, "eps is '1e-5'; expected a finite number, 0 or more"),
    ],
)
def test_refuses(change, error, message):
    arguments = {"weight": WEIGHT, "bias": BIAS, "mean": VECTOR, "var": VECTOR}
    with pytest.raises(error, match=f"fold_batch_norm: {message}"):
        fold_batch_norm(**arguments | change)
