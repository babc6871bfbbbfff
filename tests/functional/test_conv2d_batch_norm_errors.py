"""Shapes and options that conv2d_batch_norm_* refuse together.

What each argument may be by itself is in tests/robustness.
"""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm import conv2d_batch_norm_forward, conv2d_batch_norm_inference

X, WEIGHT, VECTOR = np.ones((2, 4, 5, 6)), np.ones((6, 4, 3, 3)), np.ones(6)
TWO_VALUES = "two values or more in each channel"
LARGE = "images that with padding .* reach the window's"

SHARED = [
    ({"x": X[:, :, :2]}, rf"x is .*\(2, 4, 2, 6\); expected {LARGE} \(3, 3\)"),
    ({"x": X[:, :, :0]}, rf"x is .*\(2, 4, 0, 6\); expected {LARGE}"),
    ({"dilation": 3}, rf"x is .* expected {LARGE} \(7, 7\)"),
    ({"dilation": 3, "padding": (1, 0)}, rf"x is .* expected {LARGE} \(7, 7\)"),
    ({"weight": WEIGHT[:, :3]}, "weight is .* expected .*c = 4, groups = 1"),
    ({"weight": WEIGHT[:, :1], "groups": 4}, "weight is .* groups = 4 that divide k"),
    ({"groups": 3}, "weight is .* expected .*c = 4, groups = 3"),
    ({"padding": "full"}, "padding is 'full'; expected .*same_lower"),
]
FORWARD = [
    ({"x": X[:1, :, :3, :3]}, rf"x is .*\(1, 4, 3, 3\); expected {TWO_VALUES}"),
    ({"x": X[:0]}, rf"x is .*\(0, 4, 5, 6\); expected {TWO_VALUES}"),
]


@pytest.mark.parametrize(("change", "message"), SHARED + FORWARD)
def test_forward_refuses(change, message):
    with pytest.raises(ValueError, match=f"^conv2d_batch_norm_forward: {message}"):
        conv2d_batch_norm_forward(**{"x": X, "weight": WEIGHT} | change)


@pytest.mark.parametrize(("change", "message"), SHARED)
def test_inference_refuses(change, message):
    arguments = {"x": X, "weight": WEIGHT, "mean": VECTOR, "var": VECTOR}
    with pytest.raises(ValueError, match=f"^conv2d_batch_norm_inference: {message}"):
        conv2d_batch_norm_inference(**arguments | change)
