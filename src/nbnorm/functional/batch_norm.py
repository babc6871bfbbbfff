"""Batch normalization as functions: forward, inference, backward."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from nbnorm import checks
from nbnorm.functional.activation import Activation, resolve_activation
from nbnorm.functional.gradients import check_places
from nbnorm.functional.parameters import EPS, check_parameters, check_statistics
from nbnorm.launch.batch_norm import (
    apply_statistics,
    channel_parameters,
    differentiate,
    normalize_batch,
)
from nbnorm.launch.layout import Layout, flat, layout_of
from nbnorm.launch.outputs import cast, destination
from nbnorm.launch.scratch import scratch
from nbnorm.typing import Array


class BatchNormGradients(NamedTuple):
    """Gradients of batch norm; None where not asked for or where the forward had no such input."""

    dx: Array | None = None
    dgamma: Array | None = None
    dbeta: Array | None = None
    dresidual: Array | None = None


_ALL = frozenset(BatchNormGradients._fields)
_NOWHERE = BatchNormGradients()


class BatchNormContext(NamedTuple):
    """What a backward needs of its forward. It can be used any number of times.

    x, residual, gamma, beta
        The forward's own arrays, by reference: do not change them before the backward.
    statistics : array (3, ...) of float64
        mean, var and inv_std in the shape of the kept axes.
    count : int
        The number m of values in a channel; with those of earlier batches, whose statistics were
        merged in (`cross_iteration_batch_norm_forward`).
    layout : Layout
        Where the kept axes lie in memory.
    frozen : bool
        Whether the statistics were given, so that the backward takes them for constants.
    """

    x: Array
    gamma: Array | None
    beta: Array | None
    residual: Array | None
    statistics: Array
    count: int  # type: ignore[assignment]  # not tuple.count
    layout: Layout
    ddof: int
    activation: Any
    frozen: bool

    @property
    def mean(self) -> Array:
        """Mean of each channel, float64."""
        return self.statistics[0]

    @property
    def var(self) -> Array:
        """Variance of each channel over m - ddof, float64."""
        return self.statistics[1]

    @property
    def inv_std(self) -> Array:
        """1 / sqrt(var + eps) of each channel, float64; 0 where var + eps is 0."""
        return self.statistics[2]


def batch_norm_forward(
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    *,
    statistics: tuple[Array, Array] | None = None,
    axis: int | tuple[int, ...] = 1,
    eps: float = 1e-5,
    ddof: int = 0,
    activation: Activation = None,
    residual: Array | None = None,
    out: Array | None = None,
) -> tuple[Array, BatchNormContext]:
    """Normalize each channel by the mean and variance of the batch, for training.

    With m values in a channel::

        mean = sum(x) / m        var = sum((x - mean)^2) / (m - ddof)
        y = activation(gamma (x - mean) / sqrt(var + eps) + beta + residual)

    (Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167, algorithm 1.)

    Parameters
    ----------
    x : array of float32 or float64, any shape of two axes or more, any strides
    gamma, beta : arrays of float32 or float64 in the shape of the kept axes, optional
        Scale and shift; 1 and 0 if not given.
    statistics : (mean, var), optional
        Normalize with these instead of the batch's, as arrays of float32 or float64 in the shape of
        the kept axes. The backward then takes them for constants (frozen batch norm).
    axis : int or tuple of int
        The axis or axes that keep statistics of their own; all others are reduced. 1 is
        channels-first, -1 channels-last, (1, 2, 3) a mean for every activation.
    eps : float, 0 or more
        Added to the variance. Where ``var + eps`` is 0, y is beta.
    ddof : 0 or 1
        The variance is taken over m - ddof values.
    activation : None, the name of an activation, or (name, parameter)
        "relu" or ("leaky_relu", 0.2), say: docs/activations.md lists them.
    residual : array of x's shape and type, optional
        Added before the activation.
    out : array of x's shape and type, optional
        Where to write y. It must not overlap an input, which the backward needs.

    Returns
    -------
    y : array of x's shape and type
    context : BatchNormContext
        For `batch_norm_backward`; holds the statistics.

    Raises
    ------
    ValueError
        A shape does not fit, a value is out of range, a channel has fewer than two values.
    TypeError
        An argument is of the wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import batch_norm_forward
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> y, context = batch_norm_forward(x, eps=0.0)
    >>> y
    array([[-1., -1.],
           [ 1.,  1.]])
    >>> context.mean, context.var
    (array([ 2., 20.]), array([  1., 100.]))
    """
    function = "batch_norm_forward"
    layout = check_input(function, x, axis)
    check_parameters(function, layout.kept, gamma=gamma, beta=beta)
    if type(eps) is not float or not 0.0 <= eps < math.inf:
        eps = checks.number(function, "eps", eps, EPS)
    if type(ddof) is not int or ddof != 0:
        ddof = checks.degrees_of_freedom(function, ddof)
    applied = None if activation is None else resolve_activation(function, activation)
    if residual is not None:
        checks.like(function, "residual", residual, x.shape, x.dtype)
    n, c, s = layout.shape
    if statistics is None and n * s < 2:
        raise checks.wrong_value(
            function, "x", x, "two values or more in each channel to take statistics of"
        )
    given = None if statistics is None else check_statistics(function, layout.kept, statistics)
    if out is not None:
        inputs = {"x": x, "residual": residual, "gamma": gamma, "beta": beta}
        checks.writable(function, "out", out, x.shape, x.dtype, inputs)

    kept = np.empty((3, *layout.kept))
    context = BatchNormContext(
        x, gamma, beta, residual, kept, n * s, layout, ddof, applied, given is not None
    )
    if given is not None:
        kept[0], kept[1] = given
        y = apply_statistics(x, kept, gamma, beta, layout, eps, applied, residual, out)
        return y, context

    place = destination(out, x.shape, x.dtype, layout.order)
    normalize_batch(
        place.written,
        kept.reshape(3, c),
        flat(x, layout),
        None if residual is None else flat(residual, layout),
        channel_parameters(gamma, beta, c),
        layout.shape,
        eps,
        ddof,
        applied,
    )
    return place.deliver(), context


def batch_norm_inference(
    x: Array,
    mean: Array,
    var: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    *,
    axis: int | tuple[int, ...] = 1,
    eps: float = 1e-5,
    activation: Activation = None,
    residual: Array | None = None,
    out: Array | None = None,
) -> Array:
    """Normalize each channel by a given mean and variance.

    ``y = activation(gamma (x - mean) / sqrt(var + eps) + beta + residual)``, in one pass
    (Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167, algorithm 2).

    Parameters
    ----------
    x : array of float32 or float64, any shape of two axes or more, any strides
        May be empty.
    mean, var : arrays of float32 or float64 in the shape of the kept axes
        Running statistics, usually. var is not negative.
    gamma, beta, axis, eps, activation, residual
        As in `batch_norm_forward`.
    out : array of x's shape and type, optional
        Where to write y. It may be x or residual itself, and must not overlap them otherwise.

    Returns
    -------
    y : array of x's shape and type

    Raises
    ------
    ValueError
        A shape does not fit or a value is out of range.
    TypeError
        An argument is of the wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import batch_norm_inference
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> batch_norm_inference(x, np.array([1.0, 10.0]), np.array([4.0, 100.0]), eps=0.0)
    array([[0., 0.],
           [1., 2.]])
    """
    function = "batch_norm_inference"
    layout = check_input(function, x, axis)
    given = check_statistics(function, layout.kept, (mean, var))
    check_parameters(function, layout.kept, gamma=gamma, beta=beta)
    eps = checks.number(function, "eps", eps, EPS)
    applied = None if activation is None else resolve_activation(function, activation)
    if residual is not None:
        checks.like(function, "residual", residual, x.shape, x.dtype)
    if out is not None:
        inputs = {"x": x, "residual": residual}
        checks.writable(function, "out", out, x.shape, x.dtype, inputs, over=("x", "residual"))

    kept = scratch.take("statistics", (3, *layout.kept), np.float64)
    kept[0], kept[1] = given
    return apply_statistics(x, kept, gamma, beta, layout, eps, applied, residual, out)


def batch_norm_backward(
    dy: Array,
    context: BatchNormContext,
    *,
    needs: Iterable[str] | None = None,
    out: BatchNormGradients | None = None,
) -> BatchNormGradients:
    """The gradients of `batch_norm_forward`, given the gradient of its y.

    With s = sqrt(var + eps), xh = (x - mean) / s and g = dy activation'(z)::

        dbeta = sum(g)        dgamma = sum(g xh)        dresidual = g
        dx = gamma / s (g - sum(g) / m - xh sum(g xh) / (m - ddof))     statistics of the batch
        dx = gamma / s g                                                statistics given

    (Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167, section 3, for ddof = 0.) Two slips
    of the text this library began from have been copied widely: a dgamma with the mean in the
    place of xh, and the dx of a variance over m beside a variance over m - 1. The sums here are
    those of the variance that was used, whichever it was.

    Parameters
    ----------
    dy : array of y's shape and type, any strides
    context : BatchNormContext
        From the forward.
    needs : names of gradients, optional
        Those wanted, out of "dx", "dgamma", "dbeta", "dresidual"; all by default.
    out : BatchNormGradients, optional
        Where to write them, None where they are to be allocated. dx or dresidual may be dy itself;
        otherwise they must not overlap dy, an array of the context or each other.

    Returns
    -------
    BatchNormGradients
        dx and dresidual of x's shape and type, dgamma and dbeta of gamma's and beta's; None for
        what was not asked for and for inputs that the forward was not given.

    Raises
    ------
    ValueError
        A shape does not fit, out overlaps an input, or the context has been changed.
    TypeError
        An argument is of the wrong type, such as the context of another function.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import batch_norm_backward, batch_norm_forward
    >>> x = np.array([[1.0], [2.0], [6.0]])
    >>> y, context = batch_norm_forward(x, np.ones(1), np.zeros(1))
    >>> gradients = batch_norm_backward(np.array([[1.0], [0.0], [2.0]]), context)
    >>> gradients.dbeta, gradients.dgamma.round(3)
    (array([3.]), array([1.852]))
    >>> float(abs(gradients.dx.sum()).round(12))
    0.0
    """
    function = "batch_norm_backward"
    if type(context) is not BatchNormContext:
        raise checks.wrong_type(
            function, "context", context, "the BatchNormContext of a batch_norm_forward"
        )
    x, gamma, beta, residual, kept, count, layout, ddof, activation, frozen = context
    if not fits(context):
        raise unfit(function, context)
    checks.like(function, "dy", dy, x.shape, x.dtype)
    wanted = _ALL if needs is None else checks.needs(function, needs, BatchNormGradients._fields)
    if out is None:
        out = _NOWHERE
    else:
        _check_gradients(function, out, dy, context, wanted)

    c = layout.shape[1]
    dx = dresidual = None
    if "dx" in wanted:
        dx = destination(out.dx, x.shape, x.dtype, layout.order)
    if residual is not None and "dresidual" in wanted:
        dresidual = destination(out.dresidual, x.shape, x.dtype, layout.order)
    both = np.zeros((2, c))
    if x.size:
        differentiate(
            None if dx is None else dx.written,
            None if dresidual is None else dresidual.written,
            both,
            flat(dy, layout),
            flat(x, layout),
            None if residual is None else flat(residual, layout),
            kept.reshape(3, c),
            channel_parameters(gamma, beta, c),
            layout.shape,
            ddof,
            activation,
            frozen,
            count=count,
            sums_needed=not frozen or "dgamma" in wanted or "dbeta" in wanted,
        )
    dgamma = dbeta = None
    if gamma is not None and "dgamma" in wanted:
        dgamma = cast(both[0], gamma, out.dgamma)
    if beta is not None and "dbeta" in wanted:
        dbeta = cast(both[1], beta, out.dbeta)
    return BatchNormGradients(
        None if dx is None else dx.deliver(),
        dgamma,
        dbeta,
        None if dresidual is None else dresidual.deliver(),
    )


# --- checks ---------------------------------------------------------------------------------


def fits(context: BatchNormContext) -> bool:
    """Whether a context's arrays fit together: kernels would read beyond those that do not."""
    x, gamma, beta, residual, kept, _, layout = context[:7]
    return (
        is_array(kept, (3, *layout.kept))
        and kept.dtype == np.float64
        and is_array(x, None)
        and x.size == math.prod(layout.shape)
        and (gamma is None or is_array(gamma, layout.kept))
        and (beta is None or is_array(beta, layout.kept))
        and (residual is None or (is_array(residual, x.shape) and residual.dtype == x.dtype))
    )


def is_array(value: Any, shape: tuple[int, ...] | None) -> bool:
    """Whether a value is an array of float32 or float64 and, if given, of a shape."""
    return (
        isinstance(value, np.ndarray)
        and value.dtype in checks.FLOATS
        and (shape is None or value.shape == shape)
    )


def unfit(function: str, context: Any) -> ValueError:
    """The error for a context whose arrays do not fit together."""
    given = f"a {type(context).__name__} whose arrays do not fit together"
    return ValueError(f"{function}: context is {given}; expected one as its forward left it")


def check_input(function: str, x: Any, axis: Any) -> Layout:
    """The layout of an x that can have statistics along an axis."""
    checks.array(function, "x", x)
    if x.ndim < 2:
        raise checks.wrong_value(function, "x", x, "two axes or more")
    if type(axis) is int and 0 <= axis < x.ndim:
        axes: tuple[int, ...] = (axis,)
    else:
        axes = checks.kept_axes(function, axis, x.ndim)
    return layout_of(x.shape, x.strides, axes)


def _check_gradients(
    function: str,
    out: Any,
    dy: Array,
    context: BatchNormContext,
    wanted: frozenset[str],
) -> None:
    x, gamma, beta, residual = context[:4]
    check_places(
        function,
        BatchNormGradients,
        out,
        wanted,
        {"dx": x, "dresidual": residual, "dgamma": gamma, "dbeta": beta},
        {
            "dy": dy,
            "x": x,
            "residual": residual,
            "gamma": gamma,
            "beta": beta,
            "context.statistics": context.statistics,
        },
        over={"dx": ("dy",), "dresidual": ("dy",)},
    )
