"""conv2d_batch_norm_* refuse wrong arguments, and write nothing then."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm import (
    Conv2dBatchNormGradients,
    DenseBatchNormGradients,
    conv2d_batch_norm_backward,
    conv2d_batch_norm_forward,
    conv2d_batch_norm_inference,
)
from tests.product_batch_norm_cases import arrays_in

X, WEIGHT, VECTOR = np.ones((2, 4, 5, 6)), np.ones((6, 4, 3, 3)), np.ones(6)
DY = np.ones((2, 6, 3, 4))
ROOM = np.zeros((3, 6, 5, 6))
PLACE = ROOM[:2, :, :3, :4]
TWO_VALUES = "two values or more in each channel"
LARGE = "images that with padding .* reach the window's"


def read_only(shape):
    array = np.ones(shape)
    array.flags.writeable = False
    return array


SHARED = [
    ({"x": [[1.0]]}, TypeError, "x is .* expected a NumPy array"),
    ({"x": X[0]}, ValueError, "x is .* expected an array of 4 dimensions"),
    ({"x": X.astype(np.float16)}, TypeError, "x is .*float16.* expected .*float32 or float64"),
    ({"x": X[:, :, :2]}, ValueError, rf"x is .*\(2, 4, 2, 6\); expected {LARGE} \(3, 3\)"),
    ({"x": X[:, :, :0]}, ValueError, rf"x is .*\(2, 4, 0, 6\); expected {LARGE}"),
    ({"dilation": 3}, ValueError, rf"x is .* expected {LARGE} \(7, 7\)"),
    ({"dilation": 3, "padding": (1, 0)}, ValueError, rf"x is .* expected {LARGE} \(7, 7\)"),
    ({"weight": WEIGHT.astype(np.float32)}, TypeError, "weight is .*float32.* expected .*float64"),
    ({"weight": WEIGHT[0]}, ValueError, "weight is .* expected an array of 4 dimensions"),
    ({"weight": WEIGHT[:, :3]}, ValueError, "weight is .* expected .*c = 4, groups = 1"),
    ({"weight": WEIGHT[:0]}, ValueError, "weight is .* expected .*no size of 0"),
    ({"weight": WEIGHT[:, :, :0]}, ValueError, "weight is .* expected .*no size of 0"),
    ({"weight": WEIGHT[:, :1], "groups": 4}, ValueError, "weight is .* groups = 4 that divide k"),
    ({"groups": 3}, ValueError, "weight is .* expected .*c = 4, groups = 3"),
    ({"groups": 0}, ValueError, "groups is 0; expected an int of 1 or more"),
    ({"groups": 1.0}, TypeError, "groups is 1.0; expected an int of 1 or more"),
    ({"stride": 0}, ValueError, "stride is 0; expected an int of 1 or more"),
    ({"stride": (1, -1)}, ValueError, "stride is -1; expected an int of 1 or more"),
    ({"stride": 1.5}, TypeError, "stride is 1.5; expected an int"),
    ({"dilation": 0}, ValueError, "dilation is 0; expected an int of 1 or more"),
    ({"dilation": (1, 1, 1)}, ValueError, "dilation is .* expected an int or a pair of ints"),
    ({"padding": -1}, ValueError, "padding is -1; expected an int of 0 or more"),
    ({"padding": "valid"}, ValueError, "padding is 'valid'; expected .*'same'"),
    ({"padding": "same", "stride": 2}, ValueError, "padding is 'same'; expected .*stride 1"),
    ({"axis": 2}, ValueError, "axis is 2; expected 1 or -1"),
    ({"algorithm": "fft"}, ValueError, "algorithm is 'fft'; expected .*'auto'"),
    ({"gamma": VECTOR[:3]}, ValueError, r"gamma is .*\(3,\); expected shape \(6,\)"),
    ({"gamma": 1.0}, TypeError, "gamma is 1.0; expected a NumPy array"),
    ({"beta": VECTOR[:, None]}, ValueError, r"beta is .*\(6, 1\); expected shape \(6,\)"),
    ({"bias": VECTOR[:4]}, ValueError, r"bias is .*\(4,\); expected shape \(6,\)"),
    ({"bias": VECTOR.astype(int)}, TypeError, "bias is .*int64.* expected .*float32 or float64"),
    ({"eps": -1.0}, ValueError, "eps is -1.0; expected a finite number, 0 or more"),
    ({"eps": None}, TypeError, "eps is None; expected a finite number, 0 or more"),
    ({"activation": "gelu"}, ValueError, "activation is 'gelu'; expected None, \"relu\""),
    ({"activation": 1}, TypeError, 'activation is 1; expected None, "relu"'),
    ({"residual": X}, ValueError, r"residual is .*\(2, 4, 5, 6\); expected shape \(2, 6, 3, 4\)"),
    ({"residual": DY.astype("f4")}, TypeError, "residual is .*float32.* expected .*float64"),
    ({"out": ROOM}, ValueError, r"out is .*; expected shape \(2, 6, 3, 4\)"),
    ({"out": PLACE.astype("f4")}, TypeError, "out is .*float32.* expected .*float64"),
    ({"out": read_only((2, 6, 3, 4))}, ValueError, "out is .* read-only"),
    ({"residual": ROOM[1:, :, :3, :4], "out": PLACE}, ValueError, "out is .* overlap"),
    ({"x": ROOM[:2, :4], "out": PLACE}, ValueError, "out is .* does not overlap x"),
    (
        {"weight": ROOM.reshape(-1)[:216].reshape(6, 4, 3, 3), "out": PLACE},
        ValueError,
        "out is .* does not overlap weight",
    ),
]
FORWARD = [
    *SHARED,
    ({"ddof": 2}, ValueError, "ddof is 2; expected 0 or 1"),
    ({"ddof": 0.0}, TypeError, "ddof is 0.0; expected 0 or 1"),
    ({"statistics": VECTOR}, TypeError, r"statistics is .*; expected a tuple \(mean, var\)"),
    ({"statistics": (VECTOR[:2], VECTOR)}, ValueError, r"mean is .*\(2,\); expected shape \(6,\)"),
    ({"statistics": (VECTOR, -VECTOR)}, ValueError, "var is -1.0; expected no negative variance"),
    ({"x": X[:1, :, :3, :3]}, ValueError, rf"x is .*\(1, 4, 3, 3\); expected {TWO_VALUES}"),
    ({"x": X[:0]}, ValueError, rf"x is .*\(0, 4, 5, 6\); expected {TWO_VALUES}"),
    ({"residual": PLACE, "out": PLACE}, ValueError, "out is .* does not overlap residual"),
    ({"beta": ROOM[0, :, 0, 0], "out": PLACE}, ValueError, "out is .* does not overlap beta"),
]
INFERENCE = [
    *SHARED,
    ({"mean": None}, TypeError, "mean is None; expected a NumPy array"),
    ({"mean": VECTOR[:3]}, ValueError, r"mean is .*\(3,\); expected shape \(6,\)"),
    ({"var": VECTOR[:3]}, ValueError, r"var is .*\(3,\); expected shape \(6,\)"),
    ({"var": -VECTOR}, ValueError, "var is -1.0; expected no negative variance"),
]


@pytest.mark.parametrize(("change", "error", "message"), FORWARD)
def test_forward_refuses(change, error, message):
    with pytest.raises(error, match=f"^conv2d_batch_norm_forward: {message}"):
        conv2d_batch_norm_forward(**{"x": X, "weight": WEIGHT} | change)
    assert not ROOM.any()


@pytest.mark.parametrize(("change", "error", "message"), INFERENCE)
def test_inference_refuses(change, error, message):
    arguments = {"x": X, "weight": WEIGHT, "mean": VECTOR, "var": VECTOR}
    with pytest.raises(error, match=f"^conv2d_batch_norm_inference: {message}"):
        conv2d_batch_norm_inference(**arguments | change)
    assert not ROOM.any()


def replaced(**arrays):
    return Conv2dBatchNormGradients(**arrays)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"context": None}, TypeError, "context is None; expected the Conv2dBatchNormContext of a"),
        ({"context": lambda c: c.normalization}, TypeError, "context is .* Conv2dBatchNormContext"),
        ({"context": tuple}, TypeError, "context is .* expected the Conv2dBatchNormContext"),
        ({"dy": DY[:1]}, ValueError, r"dy is .*\(1, 6, 3, 4\); expected shape \(2, 6, 3, 4\)"),
        ({"dy": DY.astype("f4")}, TypeError, "dy is .*float32.* expected .*float64"),
        ({"needs": "dx"}, TypeError, r"needs is 'dx'; expected names out of \('dx', 'dweight', "),
        ({"needs": ["dz"]}, ValueError, r"needs is \['dz'\]; expected names out of \('dx', "),
        ({"out": (None,) * 6}, TypeError, "out is .*; expected a Conv2dBatchNormGradients"),
        ({"out": DenseBatchNormGradients()}, TypeError, "out is .*; expected a Conv2dBatchNormG"),
        ({"out": replaced(dx=ROOM)}, ValueError, r"out.dx is .* expected shape \(2, 4, 5, 6\)"),
        (
            {"out": replaced(dweight=read_only(WEIGHT.shape))},
            ValueError,
            "out.dweight .* read-only",
        ),
        ({"out": replaced(dgamma=np.zeros(6, "f4"))}, TypeError, "out.dgamma is .* float64"),
        ({"out": replaced(dbias=ROOM)}, ValueError, r"out.dbias is .* expected shape \(6,\)"),
        ({"out": replaced(dresidual=X)}, ValueError, r"out.dresidual is .* shape \(2, 6, 3, 4\)"),
        (
            {"out": replaced(dx=ROOM[:2, :4], dbeta=ROOM[1, 1, 1])},
            ValueError,
            "out.dbeta is .* does not overlap out.dx",
        ),
        *(
            (
                {"out": lambda c, d=d, get=get: replaced(**{d: get(c)})},
                ValueError,
                f"out.{d} is .* does not overlap {overlapped}",
            )
            for d, get, overlapped in [
                ("dx", lambda c: c.x, "x"),
                ("dweight", lambda c: c.weight, "weight"),
                ("dbias", lambda c: c.bias, "bias"),
                ("dgamma", lambda c: c.gamma, "gamma"),
                ("dbeta", lambda c: c.beta, "beta"),
                ("dresidual", lambda c: c.residual, "residual"),
            ]
        ),
        (
            {"dy": PLACE, "out": replaced(dresidual=PLACE)},
            ValueError,
            "out.dresidual is .* does not overlap dy",
        ),
    ],
)
def test_backward_refuses(change, error, message):
    vectors = {name: np.arange(6.0) for name in ("gamma", "beta", "bias")}
    _, context = conv2d_batch_norm_forward(X.copy(), WEIGHT.copy(), **vectors, residual=DY + 1)
    arguments = {"dy": DY, "context": context}
    for name, value in change.items():
        arguments[name] = value(context) if callable(value) else value
    before = [array.tobytes() for array in arrays_in(tuple(context))]
    with pytest.raises(error, match=f"(?s)^conv2d_batch_norm_backward: {message}"):
        conv2d_batch_norm_backward(**arguments)
    assert not ROOM.any()
    assert [array.tobytes() for array in arrays_in(tuple(context))] == before
