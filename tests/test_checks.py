"""Argument checks: what passes, what does not, and the words of the error."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nbnorm import checks

FUNCTION = "some_function"
F4, F8 = np.dtype(np.float32), np.dtype(np.float64)


def zeros(*shape, dtype=F4):
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (zeros(2, 3), "array of float32 and shape (2, 3)"),
        (np.ma.MaskedArray(zeros(2)), "MaskedArray of float32 and shape (2,)"),
        (1.5, "1.5"),
        ("relu", "'relu'"),
        (None, "None"),
        ("a" * 100, "str '" + "a" * 49 + "..."),
    ],
)
def test_values_in_words(value, words):
    assert checks.describe(value) == words


@pytest.mark.parametrize(
    ("make", "error"), [(checks.wrong_type, TypeError), (checks.wrong_value, ValueError)]
)
def test_a_message_names_function_argument_given_and_expected(make, error):
    made = make(FUNCTION, "x", 7, "an array")
    assert type(made) is error
    assert str(made) == "some_function: x is 7; expected an array"


# Each check with arguments that it accepts, and what it returns.
ACCEPTED = [
    (checks.array, (zeros(2, 3),), {}, None),
    (checks.array, (zeros(2, 3, dtype=F8),), {"ndim": 2}, None),
    (checks.array, (zeros(2, 3),), {"dtype": F4}, None),
    (checks.like, (zeros(2, 3), (2, 3)), {}, None),
    (checks.like, (zeros(2, 3), (2, 3), F4), {}, None),
    (checks.like, (zeros(), ()), {}, None),
    (checks.number, (0, "a number"), {}, 0.0),
    (checks.number, (np.float32(0.5), "a number"), {}, 0.5),
    (checks.number, (np.int8(3), "a number"), {}, 3.0),
    (checks.degrees_of_freedom, (0,), {}, 0),
    (checks.degrees_of_freedom, (np.int64(1),), {}, 1),
    (checks.kept_axes, (1, 3), {}, (1,)),
    (checks.kept_axes, (-1, 3), {}, (2,)),
    (checks.kept_axes, (np.int32(-3), 3), {}, (0,)),
    (checks.kept_axes, ((2, 0), 3), {}, (0, 2)),
    (checks.kept_axes, ((-1, 1), 4), {}, (1, 3)),
]
AXES = "an int or a tuple of different ints from -3 to 2"
# Each check with arguments that it refuses.
REFUSED = [
    (checks.array, ([1.0],), {}, TypeError, "[1.0]; expected a NumPy array"),
    (checks.array, (np.float32(1),), {}, TypeError, "expected a NumPy array"),
    (checks.array, (np.ma.MaskedArray(zeros(2)),), {}, TypeError, "expected a NumPy array"),
    (checks.array, (zeros(2, dtype="i8"),), {}, TypeError, "expected an array of float32 or float"),
    (checks.array, (zeros(2, dtype=">f8"),), {}, TypeError, "array of >f8 and shape (2,)"),
    (checks.array, (zeros(2),), {"dtype": F8}, TypeError, "expected an array of float64"),
    (checks.array, (zeros(2),), {"ndim": 2}, ValueError, "expected an array of 2 dimensions"),
    (checks.like, (zeros(2, 3), (3, 2)), {}, ValueError, "shape (2, 3); expected shape (3, 2)"),
    (checks.like, (zeros(2, 3), (2, 3), F8), {}, TypeError, "expected an array of float64"),
    (checks.number, (-1e-9, "0 or more"), {}, ValueError, "-1e-09; expected 0 or more"),
    (checks.number, (math.nan, "0 or more"), {}, ValueError, "nan; expected 0 or more"),
    (checks.number, (math.inf, "0 or more"), {}, ValueError, "inf; expected 0 or more"),
    (checks.number, (True, "0 or more"), {}, TypeError, "True; expected 0 or more"),
    (checks.number, (np.True_, "0 or more"), {}, TypeError, "expected 0 or more"),
    (checks.number, ("1", "0 or more"), {}, TypeError, "'1'; expected 0 or more"),
    (checks.number, (1j, "0 or more"), {}, TypeError, "1j; expected 0 or more"),
    (checks.degrees_of_freedom, (2,), {}, ValueError, "2; expected 0 or 1"),
    (checks.degrees_of_freedom, (1.0,), {}, TypeError, "1.0; expected 0 or 1"),
    (checks.degrees_of_freedom, (True,), {}, TypeError, "True; expected 0 or 1"),
    (checks.kept_axes, (3, 3), {}, ValueError, f"3; expected {AXES}"),
    (checks.kept_axes, (-4, 3), {}, ValueError, f"-4; expected {AXES}"),
    (checks.kept_axes, ((0, -3), 3), {}, ValueError, f"(0, -3); expected {AXES}"),
    (checks.kept_axes, ((), 3), {}, ValueError, f"(); expected {AXES}"),
    (checks.kept_axes, ((0, 1, 2), 3), {}, ValueError, "expected fewer axes than x has (3)"),
    (checks.kept_axes, (1.0, 3), {}, TypeError, f"1.0; expected {AXES}"),
    (checks.kept_axes, (True, 3), {}, TypeError, f"True; expected {AXES}"),
    (checks.kept_axes, ([0, 1], 3), {}, TypeError, f"[0, 1]; expected {AXES}"),
]
# kept_axes and degrees_of_freedom know their argument's name.
NAMES = {checks.kept_axes: "axis", checks.degrees_of_freedom: "ddof"}


def call(check, arguments, options):
    names = [] if check in NAMES else ["argument"]
    return check(FUNCTION, *names, *arguments, **options)


@pytest.mark.parametrize(("check", "arguments", "options", "result"), ACCEPTED)
def test_accepts(check, arguments, options, result):
    returned = call(check, arguments, options)
    assert returned == result
    assert type(returned) is type(result)


@pytest.mark.parametrize(("check", "arguments", "options", "error", "words"), REFUSED)
def test_refuses(check, arguments, options, error, words):
    with pytest.raises(error) as caught:
        call(check, arguments, options)
    message = str(caught.value)
    assert message.startswith(f"some_function: {NAMES.get(check, 'argument')} is ")
    assert "; expected " in message
    assert words in message


# --- memory -----------------------------------------------------------------------------------

MEMORY = np.zeros(100, F4)
SQUARE = MEMORY.reshape(10, 10)


@pytest.mark.parametrize(
    ("a", "b", "answer"),
    [
        (MEMORY[:50], MEMORY[50:], False),
        (MEMORY[:50], MEMORY[49:], True),
        (MEMORY[::2], MEMORY[1::2], False),
        (MEMORY[::2], MEMORY[::3], True),
        (SQUARE[:, :5], SQUARE[:, 5:], False),
        (SQUARE[:, :6], SQUARE[:, 5:], True),
        (SQUARE, SQUARE.T, True),
        (SQUARE, np.zeros((10, 10)), False),
        (MEMORY[:0], MEMORY, False),
    ],
)
def test_overlaps(a, b, answer):
    assert checks.overlaps(a, b) is answer
    assert checks.overlaps(b, a) is answer


@pytest.mark.parametrize(
    ("a", "b", "answer"),
    [
        (SQUARE, MEMORY.reshape(10, 10), True),
        (SQUARE, SQUARE.T, False),
        (SQUARE, SQUARE[::-1], False),
        (SQUARE, MEMORY, False),
        (SQUARE[1:], SQUARE[:-1], False),
    ],
)
def test_same_elements(a, b, answer):
    assert checks.same_elements(a, b) is answer


def writable(value, shape=(10, 10), **options):
    inputs = {"x": SQUARE, "residual": None}
    checks.writable(FUNCTION, "out", value, shape, F4, inputs, **options)


def test_writable_accepts():
    writable(zeros(10, 10))
    writable(zeros(10, 10).T)
    writable(zeros(10, 30)[::-1, ::3])
    writable(SQUARE, over=("x",))
    writable(np.empty((0, 10), F4), shape=(0, 10))
    writable(np.empty((10, 0), F4), shape=(10, 0))


def read_only():
    array = zeros(10, 10)
    array.flags.writeable = False
    return array


def repeated():
    array = np.broadcast_to(zeros(10), (10, 10))
    array.flags.writeable = True
    return array


@pytest.mark.parametrize(
    ("value", "over", "error", "expected"),
    [
        (None, (), TypeError, "a NumPy array"),
        (zeros(10, 10, dtype=F8), (), TypeError, "an array of float32"),
        (zeros(10, 9), (), ValueError, "shape (10, 10)"),
        (read_only(), (), ValueError, "a writable array (this one is read-only)"),
        (repeated(), (), ValueError, "an array whose elements do not overlap in memory"),
        (SQUARE, (), ValueError, "an array that does not overlap x"),
        (SQUARE.T, ("x",), ValueError, "x itself or an array that does not overlap it"),
        (SQUARE[::-1], ("x",), ValueError, "x itself or an array that does not overlap it"),
    ],
)
def test_writable_refuses(value, over, error, expected):
    with pytest.raises(error) as caught:
        writable(value, over=over)
    assert str(caught.value).startswith("some_function: out is ")
    assert str(caught.value).endswith(f"; expected {expected}")


# --- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (None, {"dx", "dgamma"}),
        (["dx"], {"dx"}),
        (("dgamma", "dgamma"), {"dgamma"}),
        ({"dx", "dgamma"}, {"dx", "dgamma"}),
        ((name for name in ["dx"]), {"dx"}),
        ([], set()),
    ],
)
def test_needs_are_names(wanted, names):
    assert checks.needs(FUNCTION, wanted, ("dx", "dgamma")) == names


@pytest.mark.parametrize(
    ("wanted", "error"),
    [("dx", TypeError), (3, TypeError), (["dy"], ValueError), ([["dx"]], ValueError)],
)
def test_needs_refuses(wanted, error):
    with pytest.raises(error, match=r"some_function: needs is .*; expected names out of \('dx',\)"):
        checks.needs(FUNCTION, wanted, ("dx",))
