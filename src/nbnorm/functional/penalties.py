"""The L1 and L2 penalty: what a large parameter or activation costs, and its gradient."""

from __future__ import annotations

from typing import Any

from nbnorm import checks
from nbnorm.kernels.norms.kinds import L1, L2
from nbnorm.launch.layout import flat, layout_of
from nbnorm.launch.norms import penalize
from nbnorm.launch.outputs import destination
from nbnorm.typing import Array


def l1_penalty(x: Array, weight: float, *, out: Array | None = None) -> tuple[float, Array]:
    """The weighted sum of absolute values, and its gradient.

    ``loss = weight sum(|x|)`` and ``gradient = weight sign(x)``, 0 where x is 0.

    Parameters
    ----------
    x : array of float32 or float64, any shape of one axis or more, any strides
    weight : float, 0 or more
    out : array of x's shape and type, optional
        Where to write the gradient. It may be x itself, and must not overlap it otherwise.

    Returns
    -------
    loss : float
        Summed in float64.
    gradient : array of x's shape and type

    Raises
    ------
    ValueError
        weight is out of range, or out does not fit.
    TypeError
        An argument is of the wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import l1_penalty
    >>> l1_penalty(np.array([3.0, -4.0, 0.0]), 0.5)
    (3.5, array([ 0.5, -0.5,  0. ]))
    """
    return _penalty("l1_penalty", L1(), x, weight, out)


def l2_penalty(x: Array, weight: float, *, out: Array | None = None) -> tuple[float, Array]:
    """Half the weighted sum of squares, and its gradient: weight decay.

    ``loss = weight / 2 sum(x^2)`` and ``gradient = weight x``.

    Parameters
    ----------
    x, weight, out
        As in `l1_penalty`.

    Returns
    -------
    loss : float
        Summed in float64.
    gradient : array of x's shape and type

    Raises
    ------
    ValueError
        weight is out of range, or out does not fit.
    TypeError
        An argument is of the wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import l2_penalty
    >>> l2_penalty(np.array([3.0, -4.0, 0.0]), 0.5)
    (6.25, array([ 1.5, -2. ,  0. ]))
    """
    return _penalty("l2_penalty", L2(), x, weight, out)


def _penalty(
    function: str, kind: Any, x: Array, weight: Any, out: Array | None
) -> tuple[float, Array]:
    check_penalized(function, x)
    weight = checks.number(function, "weight", weight)
    if out is not None:
        checks.writable(function, "out", out, x.shape, x.dtype, {"x": x}, over=("x",))
    layout = layout_of(x.shape, x.strides, (0,))
    gradient = destination(out, x.shape, x.dtype, layout.order)
    loss = penalize(gradient.written, None, flat(x, layout), weight, kind)
    return loss, gradient.deliver()


def penalty_loss(x: Array, weight: float, kind: Any) -> float:
    """The loss alone."""
    layout = layout_of(x.shape, x.strides, (0,))
    return penalize(None, None, flat(x, layout), weight, kind)


def add_penalty_gradient(dy: Array, x: Array, weight: float, kind: Any) -> Array:
    """A new array: dy and the gradient of the penalty of x."""
    layout = layout_of(x.shape, x.strides, (0,))
    dx = destination(None, x.shape, x.dtype, layout.order)
    penalize(dx.written, flat(dy, layout), flat(x, layout), weight, kind)
    return dx.out


def check_penalized(function: str, x: Any) -> None:
    """Checks for an array that has a layout."""
    checks.array(function, "x", x)
    if x.ndim == 0:
        raise checks.wrong_value(function, "x", x, "one axis or more")
