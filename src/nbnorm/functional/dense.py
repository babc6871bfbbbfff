"""Dense layers and their gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from nbnorm import checks
from nbnorm.functional.arguments import Form, check_places
from nbnorm.launch import dense as launch
from nbnorm.typing import Array


class DenseGradients(NamedTuple):
    """Gradients of a dense layer; None where not asked for."""

    dx: Array | None = None
    dweight: Array | None = None
    dbias: Array | None = None


def dense_forward(
    x: Array, weight: Array, bias: Array | None = None, *, out: Array | None = None
) -> Array:
    """Multiply by a weight matrix and add a bias: ``y = x weight^T + bias``.

    Parameters
    ----------
    x : array (..., c)
        float32 or float64.
    weight : array (k, c)
        Of x's type.
    bias : array (k,), optional
        float32 or float64.
    out : array of y's shape and type, optional
        Where to write y. It must not overlap x, weight or bias.

    Returns
    -------
    y : array (..., k), of x's type

    Raises
    ------
    ValueError
        A shape does not fit, or out is read-only or overlaps.
    TypeError
        An argument is of the wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import dense_forward
    >>> dense_forward(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]), np.array([5.0]))
    array([[16.]])
    """
    function = "dense_forward"
    check_operands(function, x, weight)
    k = len(weight)
    if bias is not None:
        checks.like(function, "bias", bias, (k,))
    if out is not None:
        inputs = {"x": x, "weight": weight, "bias": bias}
        checks.writable(function, "out", out, (*x.shape[:-1], k), x.dtype, inputs)

    return launch.forward(x, weight, bias, out)


def dense_backward(
    dy: Array,
    x: Array,
    weight: Array,
    *,
    needs: Iterable[str] | None = None,
    out: DenseGradients | None = None,
) -> DenseGradients:
    """Differentiate `dense_forward`: dx = dy weight, dweight = dy^T x, dbias = sum(dy).

    All leading axes of x count as one axis of rows.

    Parameters
    ----------
    dy : array (..., k), of x's type
        The gradient of the loss with respect to y.
    x, weight
        What the forward was given.
    needs : names among "dx", "dweight", "dbias", optional
        The gradients wanted; by default all.
    out : DenseGradients, optional
        Where to write: in each place an array, or None to allocate.

    Returns
    -------
    DenseGradients
        dx, dweight and dbias of the shapes of x, weight and bias, in x's type; None where not
        asked for.

    Raises
    ------
    ValueError
        A shape does not fit, needs has an unknown name, or an array of out is read-only or
        overlaps another.
    TypeError
        An argument is of the wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import dense_backward
    >>> dy, x, weight = np.array([[1.0]]), np.array([[2.0, 3.0]]), np.array([[4.0, 5.0]])
    >>> dense_backward(dy, x, weight, needs=["dx", "dweight"])
    DenseGradients(dx=array([[4., 5.]]), dweight=array([[2., 3.]]), dbias=None)
    """
    function = "dense_backward"
    check_operands(function, x, weight)
    k = len(weight)
    checks.like(function, "dy", dy, (*x.shape[:-1], k), x.dtype)
    wanted = checks.needs(function, needs, DenseGradients._fields)
    if out is None:
        out = DenseGradients()
    else:
        sources: dict[str, Array | Form] = {
            "dx": x, "dweight": weight, "dbias": Form((k,), x.dtype)
        }  # fmt: skip
        inputs = {"dy": dy, "x": x, "weight": weight}
        check_places(function, DenseGradients, out, wanted, sources, inputs)

    return DenseGradients(*launch.differentiate(dy, x, weight, wanted, out))


def check_operands(function: str, x: Array, weight: Array) -> None:
    """Checks for an x (..., c) and a weight (k, c)."""
    checks.array(function, "x", x)
    checks.array(function, "weight", weight, ndim=2, dtype=x.dtype)
    if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise checks.wrong_value(
            function, "x", x, f"shape (..., {weight.shape[1]}), for weight is {weight.shape}"
        )
