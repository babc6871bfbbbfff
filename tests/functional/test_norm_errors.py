"""Wrong arguments of L1 and L2 normalization and penalties: which error, and what it says."""

from __future__ import annotations

import re

import numpy as np
import pytest

import nbnorm
from nbnorm import l1_normalize_backward, l1_normalize_forward, l2_normalize_forward
from tests.cases.norms import FUNCTIONS

X = np.ones((4, 3, 5), np.float32)
AXIS = "an int or a tuple of different ints from -3 to 2"


def refused(error, message, function, *arguments, **options):
    with pytest.raises(error, match=re.escape(message)):
        function(*arguments, **options)


@pytest.mark.parametrize("order", FUNCTIONS)
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"axis": 3}, ValueError, f"axis is 3; expected {AXIS}"),
        ({"axis": (1, -2)}, ValueError, f"axis is (1, -2); expected {AXIS}"),
        ({"axis": ()}, ValueError, f"axis is (); expected {AXIS}"),
        ({"axis": 1.0}, TypeError, f"axis is 1.0; expected {AXIS}"),
        ({"axis": True}, TypeError, f"axis is True; expected {AXIS}"),
        ({"eps": -1.0}, ValueError, "eps is -1.0; expected a finite number, 0 or more"),
        ({"eps": np.nan}, ValueError, "eps is nan; expected a finite number, 0 or more"),
        ({"eps": "1"}, TypeError, "eps is '1'; expected a finite number, 0 or more"),
        ({"out": X}, ValueError, "expected an array that does not overlap x"),
        ({"out": np.ones((4, 3, 5))}, TypeError, "expected an array of float32"),
        ({"out": np.ones((4, 3), np.float32)}, ValueError, "expected shape (4, 3, 5)"),
    ],
)  # fmt: skip
def test_forward(order, options, error, message):
    message = f"{order}_normalize_forward: {message}" if " is " in message else message
    refused(error, message, FUNCTIONS[order].forward, X, **options)


@pytest.mark.parametrize("order", FUNCTIONS)
def test_what_is_no_array_of_floats(order):
    forward = FUNCTIONS[order].forward
    for x in ([[1.0]], np.ones((2, 3), int), np.ones((2, 3), np.float16)):
        refused(TypeError, f"{order}_normalize_forward: x is", forward, x)
    refused(ValueError, "expected one axis or more", forward, np.ones(()))
    message = "expected two axes or more where axis is 'sample'"
    refused(ValueError, message, forward, X[0, 0], axis="sample")


def test_backward():
    _, context = l1_normalize_forward(X)
    dx = np.full_like(X, np.nan)
    for dy, error, message in (
        (X[:1], ValueError, "dy is array of float32 and shape (1, 3, 5); expected shape (4, 3, 5)"),
        (X.astype(float), TypeError, "dy is array of float64 and shape (4, 3, 5); expected an arr"),
    ):
        refused(error, message, l1_normalize_backward, dy, context, out=dx)
    memory = np.ones(X.size + 1, np.float32)
    dy, shifted = memory[:-1].reshape(X.shape), memory[1:].reshape(X.shape)
    expected = "out is array of float32 and shape (4, 3, 5); expected "
    refused(ValueError, f"{expected}dy itself or", l1_normalize_backward, dy, context, out=shifted)
    refused(ValueError, f"{expected}an array that does not overlap x", l1_normalize_backward, dy,
            context, out=X)  # fmt: skip
    assert np.isnan(dx).all()


def test_the_context_of_another_function():
    _, context = l2_normalize_forward(X)
    message = "context is L2NormalizeContext"
    for wrong in (context, None, X):
        with pytest.raises(TypeError, match="expected the L1NormalizeContext of an l1_normalize_"):
            l1_normalize_backward(X, wrong)
    with pytest.raises(TypeError, match=message):
        l1_normalize_backward(X, context)


@pytest.mark.parametrize("name", ["l1_penalty", "l2_penalty"])
def test_penalties(name):
    function = getattr(nbnorm, name)
    memory = np.ones(6, np.float32)
    x = memory[:-1]
    for options, error, message in (
        ({"x": [1.0]}, TypeError, "x is [1.0]; expected a NumPy array"),
        ({"x": np.ones(3, int)}, TypeError, "expected an array of float32 or float64"),
        ({"x": np.ones(())}, ValueError, "expected one axis or more"),
        ({"weight": -1}, ValueError, "weight is -1; expected a finite number, 0 or more"),
        ({"weight": np.inf}, ValueError, "weight is inf; expected a finite number, 0 or more"),
        ({"weight": None}, TypeError, "weight is None; expected a finite number, 0 or more"),
        ({"out": memory[1:]}, ValueError, "expected x itself or an array that does not overlap"),
        ({"out": memory}, ValueError, "out is array of float32 and shape (6,); expected shape (5"),
    ):
        refused(error, message, function, **{"x": x, "weight": 1.0} | options)
    np.testing.assert_array_equal(memory, 1)
