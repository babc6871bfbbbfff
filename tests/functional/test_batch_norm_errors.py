"""Wrong arguments of batch norm: which error, what it says, and that nothing has been written."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pytest

from nbnorm import (
    BatchNormGradients,
    batch_norm_backward,
    batch_norm_forward,
    batch_norm_inference,
)
from nbnorm.functional.dense import DenseGradients

SHAPE = (4, 3, 5)
FUNCTIONS = {
    "batch_norm_forward": batch_norm_forward,
    "batch_norm_inference": batch_norm_inference,
    "batch_norm_backward": batch_norm_backward,
}
FLOATS = "float32 or float64"
ACTIVATION = '"relu", "leaky_relu", ("leaky_relu", slope), "silu" or "mish"'
EPS = "a finite number, 0 or more"
AXIS = "an int or a tuple of different ints from -3 to 2"


class Wrong(NamedTuple):
    """An argument that is refused.

    value is given in place of `argument`, or returned by it when it is called with the other
    arguments; `named` is the argument as the message has it, if that is another name.
    """

    argument: str
    value: Any
    error: type[Exception]
    given: str
    expected: str
    named: str = ""


def numbers(shape=SHAPE, dtype=np.float32):
    return np.random.default_rng(1).standard_normal(shape).astype(dtype)


def nothing(shape=SHAPE, dtype=np.float32):
    return np.full(shape, np.nan, dtype)


def read_only(shape):
    array = nothing(shape)
    array.flags.writeable = False
    return array


def shifted(name):
    """An array of the same size as an argument, one element further on, and then that argument."""

    def overlapping(arguments):
        memory = nothing(arguments[name].size + 1)
        memory[:-1] = arguments[name].ravel()
        arguments[name] = memory[:-1].reshape(SHAPE)
        return memory[1:].reshape(SHAPE)

    return overlapping


def backwards(name):
    return lambda arguments: arguments[name][::-1]


def itself(name):
    return lambda arguments: arguments[name]


def of_types(argument, shape):
    """An array-like of every type but float32 and float64."""
    made = f"and shape {shape}"
    yield Wrong(argument, numbers(shape).tolist(), TypeError, "[", "a NumPy array")
    masked = np.ma.MaskedArray(numbers(shape))
    yield Wrong(argument, masked, TypeError, f"MaskedArray of float32 {made}", "a NumPy array")
    for dtype in ("int64", "float16", "complex64", "object", "bool", ">f4"):
        array = numbers(shape).astype(dtype)
        yield Wrong(argument, array, TypeError, f"array of {array.dtype} {made}", "float")
    if np.dtype(np.longdouble) != np.float64:
        array = numbers(shape).astype(np.longdouble)
        yield Wrong(argument, array, TypeError, f"array of {array.dtype} {made}", "float")


def of_places(argument, name, over, inputs, shape=SHAPE):
    """What cannot be written to: `over` are the inputs that may be written over whole."""
    yield Wrong(argument, nothing().tolist(), TypeError, "[", "a NumPy array", name)
    for dtype in ("float64", "int32", "float16"):
        value = np.zeros(shape, dtype)
        yield Wrong(argument, value, TypeError, f"array of {dtype}", "an array of float32", name)
    for other in ((*shape[:-1], shape[-1] + 1), shape[::-1], shape[1:], (1, *shape)):
        if other != shape:
            given = f"array of float32 and shape {other}"
            yield Wrong(argument, nothing(other), ValueError, given, f"shape {shape}", name)
    yield Wrong(argument, read_only(shape), ValueError, "array", "a writable array", name)
    once = np.broadcast_to(nothing(1), shape)
    once.flags.writeable = True
    yield Wrong(argument, once, ValueError, "array", "without elements in one place", name)
    for other in inputs:
        expected = f"an array that does not overlap {other}"
        if other in over:
            expected = f"{other} itself or an array that does not overlap it"
        else:
            yield Wrong(argument, itself(other), ValueError, "array", expected, name)
        yield Wrong(argument, shifted(other), ValueError, "array", expected, name)
        yield Wrong(argument, backwards(other), ValueError, "array", expected, name)


SHARED = [
    *of_types("x", SHAPE),
    Wrong("x", np.float32(1.0), TypeError, "1.0", "a NumPy array"),
    Wrong("x", numbers(()), ValueError, "shape ()", "two axes or more"),
    Wrong("x", numbers(7), ValueError, "shape (7,)", "two axes or more"),
    *of_types("gamma", (3,)),
    *of_types("beta", (3,)),
    Wrong("gamma", numbers(4), ValueError, "shape (4,)", "shape (3,)"),
    Wrong("gamma", numbers((3, 1)), ValueError, "shape (3, 1)", "shape (3,)"),
    Wrong("beta", numbers(()), ValueError, "shape ()", "shape (3,)"),
    Wrong("axis", 3, ValueError, "3", AXIS),
    Wrong("axis", -4, ValueError, "-4", AXIS),
    Wrong("axis", (1, 3), ValueError, "(1, 3)", AXIS),
    Wrong("axis", (1, 1), ValueError, "(1, 1)", AXIS),
    Wrong("axis", (1, -2), ValueError, "(1, -2)", AXIS),
    Wrong("axis", (), ValueError, "()", AXIS),
    Wrong("axis", (0, 1, 2), ValueError, "(0, 1, 2)", "fewer axes than x has (3)"),
    Wrong("axis", None, TypeError, "None", AXIS),
    Wrong("axis", 1.0, TypeError, "1.0", AXIS),
    Wrong("axis", True, TypeError, "True", AXIS),
    Wrong("axis", "1", TypeError, "'1'", AXIS),
    Wrong("axis", [1], TypeError, "[1]", AXIS),
    Wrong("axis", (1, 2.0), TypeError, "(1, 2.0)", AXIS),
    Wrong("eps", -1e-5, ValueError, "-1e-05", EPS),
    Wrong("eps", np.nan, ValueError, "nan", EPS),
    Wrong("eps", np.inf, ValueError, "inf", EPS),
    Wrong("eps", None, TypeError, "None", EPS),
    Wrong("eps", "1e-5", TypeError, "'1e-5'", EPS),
    Wrong("eps", True, TypeError, "True", EPS),
    Wrong("eps", Decimal(1), TypeError, "Decimal('1')", EPS),
    Wrong("eps", 1j, TypeError, "1j", EPS),
    Wrong("eps", np.ones(1), TypeError, "array of float64 and shape (1,)", EPS),
    Wrong("activation", "gelu", ValueError, "'gelu'", ACTIVATION),
    Wrong("activation", "RELU", ValueError, "'RELU'", ACTIVATION),
    Wrong("activation", 1, TypeError, "1", ACTIVATION),
    Wrong("activation", np.tanh, TypeError, "<ufunc 'tanh'>", ACTIVATION),
    Wrong("activation", ("relu", 0.1), TypeError, "('relu', 0.1)", ACTIVATION),
    Wrong("activation", ("leaky_relu",), TypeError, "('leaky_relu',)", ACTIVATION),
    Wrong("activation", ("leaky_relu", "a"), TypeError, "('leaky_relu', 'a')", ACTIVATION),
    Wrong("activation", ("leaky_relu", True), TypeError, "('leaky_relu', True)", ACTIVATION),
    Wrong("activation", ("leaky_relu", np.nan), ValueError, "nan", "a finite slope"),
    Wrong("activation", ("leaky_relu", np.inf), ValueError, "inf", "a finite slope"),
    *of_types("residual", SHAPE),
    Wrong("residual", numbers(dtype="f8"), TypeError, "array of float64", "an array of float32"),
    Wrong("residual", numbers((4, 3, 1)), ValueError, "shape (4, 3, 1)", "shape (4, 3, 5)"),
    Wrong("residual", numbers((5, 3, 4)), ValueError, "shape (5, 3, 4)", "shape (4, 3, 5)"),
]
TWO_VALUES = "two values or more in each channel"


def alone(shape):
    """An x without residual and out, which would have to be of its shape."""

    def value(arguments):
        arguments |= {"residual": None, "out": None}
        return numbers(shape)

    return value


NOT_NEGATIVE = "no negative variance"
FORWARD = [
    *SHARED,
    *of_places("out", "", (), ("x", "residual")),
    Wrong("x", alone((1, 3, 1)), ValueError, "shape (1, 3, 1)", TWO_VALUES),
    Wrong("x", alone((1, 3)), ValueError, "shape (1, 3)", TWO_VALUES),
    Wrong("x", alone((0, 3, 5)), ValueError, "shape (0, 3, 5)", TWO_VALUES),
    Wrong("x", alone((4, 3, 0)), ValueError, "shape (4, 3, 0)", TWO_VALUES),
    Wrong("ddof", 2, ValueError, "2", "0 or 1"),
    Wrong("ddof", -1, ValueError, "-1", "0 or 1"),
    Wrong("ddof", 0.0, TypeError, "0.0", "0 or 1"),
    Wrong("ddof", None, TypeError, "None", "0 or 1"),
    Wrong("ddof", False, TypeError, "False", "0 or 1"),
    Wrong("statistics", numbers((2, 3)), TypeError, "array", "a tuple (mean, var)"),
    Wrong("statistics", (numbers(3),), TypeError, "(array", "a tuple (mean, var)"),
    Wrong("statistics", "mv", TypeError, "'mv'", "a tuple (mean, var)"),
    Wrong("statistics", ([0.0] * 3, numbers(3)), TypeError, "[", "a NumPy array", "mean"),
    Wrong("statistics", (numbers(3), None), TypeError, "None", "a NumPy array", "var"),
    Wrong("statistics", (numbers(4), numbers(3)), ValueError, "(4,)", "shape (3,)", "mean"),
    Wrong("statistics", (numbers(3), numbers(4)), ValueError, "(4,)", "shape (3,)", "var"),
    Wrong("statistics", (numbers(3), -np.ones(3)), ValueError, "-1.0", NOT_NEGATIVE, "var"),
]
INFERENCE = [
    *SHARED,
    *of_places("out", "", ("x", "residual"), ("x", "residual")),
    *of_types("mean", (3,)),
    *of_types("var", (3,)),
    Wrong("mean", numbers(4), ValueError, "shape (4,)", "shape (3,)"),
    Wrong("var", numbers((1, 3)), ValueError, "shape (1, 3)", "shape (3,)"),
    Wrong("var", np.array([1.0, np.nan, -2.0]), ValueError, "-2.0", NOT_NEGATIVE),
]
CONTEXT = "the BatchNormContext of a batch_norm_forward"
NAMES = "names out of ('dx', 'dgamma', 'dbeta', 'dresidual')"


def instead(name):
    """The backward's out with something in the place of one gradient."""

    def replaced(wrong):
        def value(arguments):
            place = wrong.value(arguments) if callable(wrong.value) else wrong.value
            return arguments["out"]._replace(**{name: place})

        return wrong._replace(argument="out", value=value)

    return replaced


def of_out(name):
    return lambda arguments: getattr(arguments["out"], name)


PER_CHANNEL = [
    wrong
    for name in ("dgamma", "dbeta")
    for wrong in map(instead(name), of_places("", f"out.{name}", (), (), (3,)))
]
BACKWARD = [
    *of_types("dy", SHAPE),
    Wrong("dy", numbers(dtype="f8"), TypeError, "array of float64", "an array of float32"),
    Wrong("dy", numbers((4, 3, 4)), ValueError, "shape (4, 3, 4)", "shape (4, 3, 5)"),
    Wrong("dy", numbers((3, 5)), ValueError, "shape (3, 5)", "shape (4, 3, 5)"),
    Wrong("context", None, TypeError, "None", CONTEXT),
    Wrong("context", numbers(), TypeError, "array", CONTEXT),
    Wrong("context", DenseGradients(), TypeError, "DenseGradients", CONTEXT),
    Wrong("context", lambda a: tuple(a["context"]), TypeError, "(array", CONTEXT),
    Wrong("needs", "dx", TypeError, "'dx'", NAMES),
    Wrong("needs", 1, TypeError, "1", NAMES),
    Wrong("needs", ["dx", "dy"], ValueError, "['dx', 'dy']", NAMES),
    Wrong("needs", [["dx"]], ValueError, "[['dx']]", NAMES),
    Wrong("out", (None, None, None, None), TypeError, "(None", "a BatchNormGradients"),
    Wrong("out", numbers(), TypeError, "array", "a BatchNormGradients"),
    Wrong("out", DenseGradients(), TypeError, "DenseGradients", "a BatchNormGradients"),
    *map(instead("dx"), of_places("", "out.dx", ("dy",), ("dy",))),
    *map(instead("dresidual"), of_places("", "out.dresidual", ("dy",), ("dy",))),
    *PER_CHANNEL,
    *(
        instead(name)(Wrong("", itself_of, ValueError, "array", f"overlap {of}", f"out.{name}"))
        for name, itself_of, of in (
            ("dx", lambda a: a["context"].x, "x"),
            ("dx", lambda a: a["context"].x[::-1], "x"),
            ("dx", lambda a: a["context"].residual, "residual"),
            ("dresidual", lambda a: a["context"].x, "x"),
            ("dresidual", lambda a: a["context"].residual, "residual"),
            ("dresidual", of_out("dx"), "out.dx"),
            ("dgamma", lambda a: a["dy"][0, 0, :3], "dy"),
            ("dgamma", lambda a: a["context"].x[0, 0, :3], "x"),
            ("dgamma", lambda a: a["out"].dx[0, 0, :3], "out.dx"),
            ("dbeta", lambda a: a["out"].dresidual[0, 0, :3], "out.dresidual"),
            ("dbeta", of_out("dgamma"), "out.dgamma"),
        )
    ),
]


def arguments_of(function):
    """Arguments that are accepted, in arrays of their own."""
    if function == "batch_norm_backward":
        x, residual = numbers(), numbers() + 1
        _, context = batch_norm_forward(x, numbers(3), numbers(3), residual=residual)
        out = BatchNormGradients(nothing(), nothing(3), nothing(3), nothing())
        return {"dy": numbers(), "context": context, "out": out}
    given = {"mean": numbers(3), "var": abs(numbers(3))} if function.endswith("inference") else {}
    return {
        "x": numbers(), **given, "gamma": numbers(3), "beta": numbers(3), "residual": numbers(),
        "out": nothing(),
    }  # fmt: skip


def arrays_in(value):
    """All arrays in an argument, however deep."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, dict):
        yield from arrays_in(tuple(value.values()))
    elif isinstance(value, tuple):
        for item in value:
            yield from arrays_in(item)


TABLE = [
    (function, wrong)
    for function, table in zip(FUNCTIONS, (FORWARD, INFERENCE, BACKWARD), strict=True)
    for wrong in table
]


def in_words(value):
    if isinstance(value, Wrong):
        return f"{value.named or value.argument} {value.given}, not {value.expected}"
    return str(value)


@pytest.mark.parametrize(("function", "wrong"), TABLE, ids=in_words)
def test_refuses(function, wrong):
    arguments = arguments_of(function)
    value = wrong.value
    if callable(value) and not isinstance(value, np.ufunc):
        value = value(arguments)
    arguments[wrong.argument] = value
    before = [array.tobytes() for array in arrays_in(arguments)]

    with pytest.raises(wrong.error) as caught:
        FUNCTIONS[function](**arguments)
    given, expected = re.escape(wrong.given), re.escape(wrong.expected)
    name = re.escape(wrong.named or wrong.argument)
    assert re.match(f"{function}: {name} is .*{given}.*; expected .*{expected}", str(caught.value))
    assert [array.tobytes() for array in arrays_in(arguments)] == before


@pytest.mark.parametrize("function", FUNCTIONS)
def test_accepts_what_the_wrong_arguments_stand_in_for(function):
    arguments = arguments_of(function)
    FUNCTIONS[function](**arguments)
    assert all(np.isfinite(array).all() for array in arrays_in(arguments["out"]))


def test_what_is_not_needed_is_not_checked():
    arguments = arguments_of("batch_norm_backward")
    out = BatchNormGradients(dresidual=arguments["context"].x, dgamma=nothing(7))
    gradients = batch_norm_backward(**arguments | {"out": out}, needs=["dx", "dbeta"])
    assert gradients.dgamma is gradients.dresidual is None


def test_one_value_in_a_channel_will_do_for_given_statistics():
    x, mean, var = numbers((1, 3)), numbers(3), abs(numbers(3))
    y, context = batch_norm_forward(x, statistics=(mean, var))
    np.testing.assert_array_equal(y, batch_norm_inference(x, mean, var))
    assert context.count == 1
    assert np.isfinite(batch_norm_backward(x, context).dx).all()
