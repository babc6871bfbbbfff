"""Division by the L1 or L2 norm as functions: forward and backward."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np

from nbnorm import checks
from nbnorm.functional.contexts import is_array, unfit
from nbnorm.kernels.norms.kinds import L1, L2
from nbnorm.launch.layout import Layout, flat, layout_of
from nbnorm.launch.norms import divide
from nbnorm.launch.outputs import destination
from nbnorm.typing import Array

# None is the whole array, "sample" all axes but the first.
Axis: TypeAlias = int | tuple[int, ...] | Literal["sample"] | None
SAMPLE = "sample"


class _Fields(NamedTuple):
    x: Array
    norms: Array
    layout: Layout
    axes: tuple[int, ...]


class NormalizeContext(_Fields):
    """What a backward needs of its forward. It can be used any number of times.

    x
        The forward's own array, by reference: do not change it before the backward.
    norms : array of float64
        The norms in the order that they have in memory; `norm` has them in shape.
    layout : Layout
        Where the axes that are summed over lie in memory.
    axes : tuple of int
        Those axes.
    """

    __slots__ = ()

    @property
    def norm(self) -> Array:
        """What x was divided by, eps included: float64, in the shape of the other axes.

        A norm beyond float64, by which x is divided as exactly, is inf here.
        """
        shape = self.x.shape
        order = self.layout.order or range(len(shape))
        others = [axis for axis in order if axis not in self.axes]
        norms = np.where(self.norms < 0, np.inf, self.norms)  # see kernels/norms/divide.py
        stored = norms.reshape([shape[axis] for axis in others])
        return stored.transpose(np.argsort(others)) if others else stored


class L1NormalizeContext(NormalizeContext):
    """The context of an `l1_normalize_forward`."""

    __slots__ = ()


class L2NormalizeContext(NormalizeContext):
    """The context of an `l2_normalize_forward`."""

    __slots__ = ()


Context = TypeVar("Context", bound=NormalizeContext)


def l1_normalize_forward(
    x: Array, *, axis: Axis = 1, eps: float = 1e-12, out: Array | None = None
) -> tuple[Array, L1NormalizeContext]:
    """Divide by the sum of absolute values along an axis.

    ``y = x / (sum(|x|) + eps)``

    Parameters
    ----------
    x : array of float32 or float64, any strides
        Not of zero dimensions; of two or more if axis is "sample".
    axis : int, tuple of int, None or "sample"
        The axis or axes summed over, as in `numpy.linalg.norm`; all others keep norms of their own.
        None is the whole array, "sample" all axes but the first.
    eps : float, 0 or more
        Added to the sum. Where both are 0, y is 0, and so is the gradient.
    out : array of x's shape and type, optional
        Where to write y. It must not overlap x, which the backward needs.

    Returns
    -------
    y : array of x's shape and type
    context : L1NormalizeContext
        For `l1_normalize_backward`; ``context.norm`` is the denominator.

    Raises
    ------
    ValueError
        axis or eps is out of range, or out does not fit.
    TypeError
        An argument is of the wrong type.

    Notes
    -----
    Sums are float64. A value that is not finite spoils its own norm and no other.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import l1_normalize_forward
    >>> y, context = l1_normalize_forward(np.array([[1.0, -3.0], [2.0, 2.0]]))
    >>> y
    array([[ 0.25, -0.75],
           [ 0.5 ,  0.5 ]])
    >>> context.norm
    array([4., 4.])
    """
    return _forward("l1_normalize_forward", L1(), L1NormalizeContext, x, axis, eps, out)


def l1_normalize_backward(
    dy: Array, context: L1NormalizeContext, *, out: Array | None = None
) -> Array:
    """The gradient of `l1_normalize_forward`, given the gradient of its y.

    With d = sum(|x|) + eps, whose derivative is sign(x), 0 at 0::

        dx = (dy - sign(x) sum(dy y)) / d

    Parameters
    ----------
    dy : array of y's shape and type, any strides
    context : L1NormalizeContext
        From the forward.
    out : array of x's shape and type, optional
        Where to write dx. It may be dy itself; otherwise it must not overlap dy or x.

    Returns
    -------
    dx : array of x's shape and type

    Raises
    ------
    ValueError
        A shape does not fit, out overlaps an input, or the context has been changed.
    TypeError
        An argument is of the wrong type, such as the context of another function.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import l1_normalize_backward, l1_normalize_forward
    >>> y, context = l1_normalize_forward(np.array([[1.0, -3.0]]))
    >>> l1_normalize_backward(np.array([[4.0, 0.0]]), context)
    array([[0.75, 0.25]])
    """
    return _backward("l1_normalize_backward", L1(), L1NormalizeContext, dy, context, out)


def l2_normalize_forward(
    x: Array, *, axis: Axis = 1, eps: float = 1e-12, out: Array | None = None
) -> tuple[Array, L2NormalizeContext]:
    """Divide by the root of the sum of squares along an axis: to unit length.

    ``y = x / sqrt(sum(x^2) + eps)``

    Parameters
    ----------
    x, axis, out
        As in `l1_normalize_forward`.
    eps : float, 0 or more
        Added to the sum, inside the root. Where both are 0, y is 0, and so is the gradient.

    Returns
    -------
    y : array of x's shape and type
    context : L2NormalizeContext
        For `l2_normalize_backward`; ``context.norm`` is the denominator.

    Raises
    ------
    ValueError
        axis or eps is out of range, or out does not fit.
    TypeError
        An argument is of the wrong type.

    Notes
    -----
    Squares are float64: none of a float32 overflows or vanishes. In float64, values beyond 1e154
    have infinite squares, and come out as 0.

    PyTorch's ``normalize`` takes the larger of norm and eps instead of a sum, TensorFlow's
    ``l2_normalize`` that of squared norm and eps: where eps matters, and only there, they differ.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import l2_normalize_forward
    >>> y, context = l2_normalize_forward(np.array([[3.0, 4.0], [0.0, 0.0]]), eps=0.0)
    >>> y
    array([[0.6, 0.8],
           [0. , 0. ]])
    >>> context.norm
    array([5., 0.])
    """
    return _forward("l2_normalize_forward", L2(), L2NormalizeContext, x, axis, eps, out)


def l2_normalize_backward(
    dy: Array, context: L2NormalizeContext, *, out: Array | None = None
) -> Array:
    """The gradient of `l2_normalize_forward`, given the gradient of its y.

    With d = sqrt(sum(x^2) + eps), whose derivative is x / d = y::

        dx = (dy - y sum(dy y)) / d

    Parameters
    ----------
    dy : array of y's shape and type, any strides
    context : L2NormalizeContext
        From the forward.
    out : array of x's shape and type, optional
        Where to write dx. It may be dy itself; otherwise it must not overlap dy or x.

    Returns
    -------
    dx : array of x's shape and type

    Raises
    ------
    ValueError
        A shape does not fit, out overlaps an input, or the context has been changed.
    TypeError
        An argument is of the wrong type, such as the context of another function.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import l2_normalize_backward, l2_normalize_forward
    >>> y, context = l2_normalize_forward(np.array([[3.0, 4.0]]), eps=0.0)
    >>> l2_normalize_backward(np.array([[5.0, 0.0]]), context)
    array([[ 0.64, -0.48]])
    """
    return _backward("l2_normalize_backward", L2(), L2NormalizeContext, dy, context, out)


# --- both -----------------------------------------------------------------------------------


def _forward(
    function: str,
    kind: Any,
    context_type: type[Context],
    x: Any,
    axis: Any,
    eps: Any,
    out: Any,
) -> tuple[Array, Context]:
    checks.array(function, "x", x)
    axes = _summed_axes(function, x, axis)
    eps = checks.number(function, "eps", eps)
    if out is not None:
        checks.writable(function, "out", out, x.shape, x.dtype, {"x": x})

    layout = layout_of(x.shape, x.strides, axes, ascending=False)
    n, _, s = layout.shape
    context = context_type(x, np.empty(n * s), layout, axes)
    y = destination(out, x.shape, x.dtype, layout.order)
    if x.size:
        divide(y.written, context.norms, None, flat(x, layout), layout.shape, kind, eps)
    else:  # sums of nothing
        context.norms.fill(eps if isinstance(kind, L1) else math.sqrt(eps))
    return y.deliver(), context


def _backward(
    function: str, kind: Any, context_type: type[NormalizeContext], dy: Any, context: Any, out: Any
) -> Array:
    if type(context) is not context_type:
        forward = function.replace("backward", "forward")
        expected = f"the {context_type.__name__} of an {forward}"
        raise checks.wrong_type(function, "context", context, expected)
    if not _fits(context):
        raise unfit(function, context)
    x, norms, layout, _ = context
    checks.like(function, "dy", dy, x.shape, x.dtype)
    if out is not None:
        inputs = {"dy": dy, "x": x}
        checks.writable(function, "out", out, x.shape, x.dtype, inputs, over=("dy",))

    dx = destination(out, x.shape, x.dtype, layout.order)
    if x.size:
        divide(dx.written, norms, flat(dy, layout), flat(x, layout), layout.shape, kind, 0.0)
    return dx.deliver()


def _fits(context: NormalizeContext) -> bool:
    """Whether a context's arrays fit together: the kernel would read beyond those that do not."""
    x, norms, layout, _ = context
    n, c, s = layout.shape
    return (
        is_array(x, None)
        and x.size == n * c * s
        and is_array(norms, (n * s,))
        and norms.dtype == np.float64
        and norms.flags.c_contiguous
    )


def _summed_axes(function: str, x: Array, axis: Any) -> tuple[int, ...]:
    if x.ndim == 0:
        raise checks.wrong_value(function, "x", x, "one axis or more")
    if axis is None:
        return tuple(range(x.ndim))
    if not (isinstance(axis, str) and axis == SAMPLE):
        return checks.axes(function, axis, x.ndim)
    if x.ndim == 1:
        raise checks.wrong_value(function, "x", x, f"two axes or more where axis is {SAMPLE!r}")
    return tuple(range(1, x.ndim))
