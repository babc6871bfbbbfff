"""Checks that several functions share. Each raises what the functions' docstrings say.

What is one argument's alone, of whatever function, is checked in nbnorm.checks.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from nbnorm import checks
from nbnorm.kernels.activations import ACTIVATIONS
from nbnorm.launch.batch_norm import Normalization
from nbnorm.launch.layout import Layout, layout_of
from nbnorm.launch.statistics import Weights
from nbnorm.typing import Array

Activation: TypeAlias = str | tuple[str, float] | None

# --- batch norm -------------------------------------------------------------------------------


def check_input(function: str, x: Any, axis: Any) -> Layout:
    """The layout of an x that can have statistics along an axis."""
    if type(x) is not np.ndarray or x.dtype not in checks.FLOATS:
        checks.array(function, "x", x)
    if x.ndim < 2:
        raise checks.wrong_value(function, "x", x, "two axes or more")
    if type(axis) is int and 0 <= axis < x.ndim:
        axes: tuple[int, ...] = (axis,)
    else:
        axes = checks.kept_axes(function, axis, x.ndim)
    return layout_of(x.shape, x.strides, axes)


def check_normalization(
    function: str,
    x: Array,
    shape: tuple[int, ...],
    kept: tuple[int, ...],
    *,
    gamma: Any,
    beta: Any,
    eps: Any,
    activation: Any,
    residual: Any,
    statistics: Any = None,
    ddof: Any = 0,
    variance_unread: bool = False,
) -> Normalization:
    """What a batch norm is to do, for a y of `shape` and of x's type; `kept` are its kept axes.

    With `variance_unread` the kernel finds out whether a variance is negative. eps and ddof are
    looked at twice to spare a small array two calls.
    """
    if gamma is not None:
        checks.like(function, "gamma", gamma, kept)
    if beta is not None:
        checks.like(function, "beta", beta, kept)
    if type(eps) is not float or not 0.0 <= eps < math.inf:
        eps = checks.number(function, "eps", eps)
    if type(ddof) is not int or ddof != 0:
        ddof = checks.degrees_of_freedom(function, ddof)
    if activation is not None:
        activation = resolve_activation(function, activation)
    if residual is not None:
        checks.like(function, "residual", residual, shape, x.dtype)
    if statistics is not None:
        statistics = check_statistics(function, kept, statistics, variance_unread)
    return Normalization(gamma, beta, statistics, eps, ddof, activation, residual)


def check_parameters(function: str, kept: tuple[int, ...], **parameters: Any) -> None:
    """Checks for arrays in the shape of the kept axes; None where there is none."""
    for name, value in parameters.items():
        if value is not None:
            checks.like(function, name, value, kept)


def check_statistics(
    function: str, kept: tuple[int, ...], given: Any, variance_unread: bool = False
) -> tuple[Array, Array]:
    """The mean and variance that were given, in the shape of the kept axes."""
    if not isinstance(given, tuple) or len(given) != 2:
        raise checks.wrong_type(function, "statistics", given, "a tuple (mean, var)")
    mean, var = given
    checks.like(function, "mean", mean, kept)
    checks.like(function, "var", var, kept)
    if not variance_unread and (var < 0).any():
        raise negative_variance(function, var)
    return mean, var


def negative_variance(function: str, var: Array) -> ValueError:
    """The error for variances of which one is negative."""
    return checks.wrong_value(function, "var", float(np.nanmin(var)), "no negative variance")


def check_weights(
    function: str, shape: tuple[int, ...], axes: tuple[int, ...], given: Any, dtype: np.dtype[Any]
) -> Weights:
    """The weights of the places of an array of a shape, whose `axes` keep their statistics.

    Weights of another type are rounded to the array's, `dtype`.
    """
    name, ones = "sample_weight", tuple(1 if a in axes else n for a, n in enumerate(shape))
    if not (isinstance(given, np.ndarray) and given.dtype == bool):
        checks.array(function, name, given)
    aligned = (1,) * (len(ones) - given.ndim) + given.shape
    if len(aligned) != len(ones) or any(
        a not in (1, n) for a, n in zip(aligned, ones, strict=True)
    ):
        expected = f"an array that broadcasts to {ones}: one weight for all kept axes"
        raise checks.wrong_value(function, name, given, expected)
    if not ((given >= 0).all() and np.isfinite(given).all()):
        raise checks.wrong_value(function, name, given, "finite weights, 0 or more")
    places = given.astype(dtype, copy=False)
    repeated = math.prod(ones) // places.size if places.size else 0
    total = float(places.sum(dtype=np.float64)) * repeated
    return Weights(np.broadcast_to(places, ones), total)


def check_total(function: str, weights: Weights, ddof: int) -> None:
    """Checks that weights leave something to take statistics of."""
    if not weights.total > ddof:
        expected = f"weights whose sum is above {ddof}; running statistics stay as they are"
        given = f"an array with a sum of {weights.total:g}"
        raise ValueError(f"{function}: sample_weight is {given}; expected {expected}")


def too_few_values(function: str, x: Array) -> ValueError:
    """The error for an x of one value a channel, or none."""
    expected = "two values or more in each channel to take statistics of"
    return checks.wrong_value(function, "x", x, expected)


# --- activations ------------------------------------------------------------------------------


def resolve_activation(function: str, activation: Any) -> Any:
    """What a kernel takes for an activation: None or one of its tuples."""
    if activation is None:
        return None
    if isinstance(activation, str):
        if activation not in ACTIVATIONS:
            raise checks.wrong_value(function, "activation", activation, _expected())
        return ACTIVATIONS[activation]
    if isinstance(activation, tuple) and len(activation) > 1 and isinstance(activation[0], str):
        default: Any = ACTIVATIONS.get(activation[0], ())
        parameters = activation[1:]
        if len(parameters) == len(default) and all(map(_is_number, parameters)):
            for name, parameter in zip(default._fields, parameters, strict=True):
                if not checks.finite(parameter):
                    raise checks.wrong_value(function, "activation", activation, f"a finite {name}")
            return type(default)(*map(float, parameters))
    raise checks.wrong_type(function, "activation", activation, _expected())


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _expected() -> str:
    """Every activation, with its parameters where it has any."""
    forms = ["None"]
    for name, activation in ACTIVATIONS.items():
        forms.append(f'"{name}"')
        if activation._fields:
            forms.append(f'("{name}", {", ".join(activation._fields)})')
    return f"{', '.join(forms[:-1])} or {forms[-1]}"


# --- gradients --------------------------------------------------------------------------------


class Form(NamedTuple):
    """The shape and type of a parameter that a backward is not given."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def check_places(
    function: str,
    kind: type[tuple[Any, ...]],
    out: Any,
    wanted: Collection[str],
    sources: Mapping[str, Array | Form | None],
    inputs: Mapping[str, Array | None],
    *,
    over: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> None:
    """Checks the arrays of `out`, of the NamedTuple `kind`, that gradients will be written to.

    `sources` has for each gradient what it is the gradient of, whose shape and type it takes. The
    arrays must overlap neither the inputs, but for those named in `over`, nor one another. What is
    not wanted, or is no gradient of anything, is not looked at.
    """
    if not isinstance(out, kind):
        raise checks.wrong_type(function, "out", out, f"a {kind.__name__}")
    taken = dict(inputs)
    for name, source in sources.items():
        place = getattr(out, name)
        if place is not None and source is not None and name in wanted:
            shape, dtype = source.shape, source.dtype
            allowed = over.get(name, ())
            checks.writable(function, f"out.{name}", place, shape, dtype, taken, over=allowed)
            taken[f"out.{name}"] = place


# --- counts -----------------------------------------------------------------------------------

# No axis is as long, and no product of two such numbers is beyond what kernels count with.
MOST = 2**31 - 1


def size(function: str, name: str, value: Any, *, least: int = 1, most: int = MOST) -> int:
    """Return an int of `least` or more, and not above `most`, which is a power of 2 less 1."""
    expected = f"an int of {least} or more"
    if not checks.is_int(value):
        raise checks.wrong_type(function, name, value, expected)
    if value < least:
        raise checks.wrong_value(function, name, value, expected)
    if value > most:
        expected = f"{expected}, below 2**{most.bit_length()}"
        raise checks.wrong_value(function, name, value, expected)
    return int(value)


def pair(function: str, name: str, value: Any, *, least: int = 1) -> tuple[int, int]:
    """Return an int for each axis, vertical first, from a pair or from one int for both."""
    if not isinstance(value, (tuple, list)):
        value = (value, value)
    if len(value) != 2:
        raise checks.wrong_value(function, name, value, "an int or a pair of ints")
    vertical, horizontal = (size(function, name, one, least=least) for one in value)
    return vertical, horizontal
