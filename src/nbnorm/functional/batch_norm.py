"""Batch normalization as functions: forward, inference, backward."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nbnorm import checks
from nbnorm.functional.activation import Activation, resolve_activation
from nbnorm.functional.layout import Layout, flat, in_place, layout_of, like
from nbnorm.functional.plan import Plan, elementwise_plan, training_plan
from nbnorm.functional.scratch import ALIGNMENT, address, scratch
from nbnorm.jit.threads import run
from nbnorm.kernels import batch_norm as fused
from nbnorm.kernels import gradients, moments, normalize, sums

Array: TypeAlias = NDArray[Any]

_EPS = "a finite number, 0 or more"


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
        The number m of values in a channel.
    axes : tuple of int
        The kept axes.
    frozen : bool
        Whether the statistics were given, so that the backward takes them for constants.
    """

    x: Array
    gamma: Array | None
    beta: Array | None
    residual: Array | None
    statistics: Array
    count: int  # type: ignore[assignment]  # not tuple.count
    axes: tuple[int, ...]
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
    activation : None, "relu", "leaky_relu", ("leaky_relu", slope), "silu" or "mish"
        A leaky ReLU's slope is 0.01 unless given.
    residual : array of x's shape and type, optional
        Added before the activation.
    out : array of x's shape and type, optional
        Where to write y. It must not overlap x or residual, which the backward needs.

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
    axes, layout = _check_input(function, x, axis)
    _check_parameters(function, layout, gamma=gamma, beta=beta)
    if type(eps) is not float or not 0.0 <= eps < math.inf:
        eps = checks.number(function, "eps", eps, _EPS)
    if ddof != 0 or type(ddof) is not int:
        ddof = checks.degrees_of_freedom(function, ddof)
    applied = None if activation is None else resolve_activation(function, activation)
    if residual is not None:
        checks.like(function, "residual", residual, x.shape, x.dtype)
    n, c, s = layout.shape
    if statistics is None and n * s < 2:
        raise checks.wrong_value(
            function, "x", x, "two values or more in each channel to take statistics of"
        )
    given = None if statistics is None else _check_statistics(function, layout, statistics)
    if out is not None:
        checks.writable(function, "out", out, x.shape, x.dtype, {"x": x, "residual": residual})

    kept = np.empty((3, *layout.kept))
    context = BatchNormContext(
        x, gamma, beta, residual, kept, n * s, axes, ddof, applied, given is not None
    )
    if given is not None:
        kept[0], kept[1] = given
        y = _apply_statistics(x, kept, gamma, beta, layout, eps, applied, residual, out)
        return y, context

    plan = training_plan(layout.shape, x.itemsize, 2)
    y, written = _output(out, x, layout)
    x_flat = flat(x, layout)
    residual_flat = None if residual is None else flat(residual, layout)
    parameters = _parameters(gamma, beta, c)
    constants, folded = _constants(plan, 3, c, x.dtype)
    stream = _streams(written, plan)
    rows = kept.reshape(3, c)
    if plan.fused:
        run(
            *_FORWARD[plan.columns], plan.tiles, plan.parallel, written, rows,
            scratch.take("sums", (2, plan.stride), np.float64), constants, x_flat, residual_flat,
            parameters, eps, ddof, applied, stream, plan.width, layout.shape,
        )  # fmt: skip
    else:
        moments.place_pivots(constants, folded, x_flat, plan.spans, layout.shape)
        for attempt in range(2):
            slices = _sum_slices(plan, layout, None, x_flat, None, constants, None)
            if not moments.settle_slices(
                rows, constants, folded, slices, x_flat, parameters, plan.spans, eps, ddof,
                attempt, layout.shape,
            ):  # fmt: skip
                break
        _normalize(plan, layout, written, x_flat, residual_flat, constants, applied, stream)
    _deliver(written, out, layout)
    return y, context


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
    _, layout = _check_input(function, x, axis)
    given = _check_statistics(function, layout, (mean, var))
    _check_parameters(function, layout, gamma=gamma, beta=beta)
    eps = checks.number(function, "eps", eps, _EPS)
    applied = None if activation is None else resolve_activation(function, activation)
    if residual is not None:
        checks.like(function, "residual", residual, x.shape, x.dtype)
    if out is not None:
        inputs = {"x": x, "residual": residual}
        checks.writable(function, "out", out, x.shape, x.dtype, inputs, over=("x", "residual"))

    kept = scratch.take("statistics", (3, *layout.kept), np.float64)
    kept[0], kept[1] = given
    return _apply_statistics(x, kept, gamma, beta, layout, eps, applied, residual, out)


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
        otherwise they must not overlap dy, x, residual or each other.

    Returns
    -------
    BatchNormGradients
        dx and dresidual of x's shape and type, dgamma and dbeta of gamma's and beta's; None for
        what was not asked for and for inputs that the forward was not given.

    Raises
    ------
    ValueError
        A shape does not fit, or out overlaps an input.
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
    x, gamma, beta, residual, kept, count, axes, ddof, activation, frozen = context
    checks.like(function, "dy", dy, x.shape, x.dtype)
    wanted = _ALL if needs is None else checks.needs(function, needs, BatchNormGradients._fields)
    if out is None:
        out = _NOWHERE
    else:
        _check_gradients(function, out, dy, context, wanted)

    layout = layout_of(x.shape, x.strides, axes)
    c = layout.shape[1]
    dx = dresidual = dx_written = dresidual_written = None
    if "dx" in wanted:
        dx, dx_written = _output(out.dx, x, layout)
    if residual is not None and "dresidual" in wanted:
        dresidual, dresidual_written = _output(out.dresidual, x, layout)
    both = np.zeros((2, c))
    if x.size:
        _backward(
            dx_written, dresidual_written, both, flat(dy, layout), flat(x, layout),
            None if residual is None else flat(residual, layout), kept.reshape(3, c),
            _parameters(gamma, beta, c), layout, count, ddof, activation, frozen,
            sums_needed=not frozen or "dgamma" in wanted or "dbeta" in wanted,
        )  # fmt: skip
    dgamma = dbeta = None
    if gamma is not None and "dgamma" in wanted:
        dgamma = _cast(both[0], gamma, out.dgamma)
    if beta is not None and "dbeta" in wanted:
        dbeta = _cast(both[1], beta, out.dbeta)
    if dx_written is not None:
        _deliver(dx_written, out.dx, layout)
    if dresidual_written is not None:
        _deliver(dresidual_written, out.dresidual, layout)
    return BatchNormGradients(dx, dgamma, dbeta, dresidual)


# --- checks ---------------------------------------------------------------------------------


def _check_input(function: str, x: Any, axis: Any) -> tuple[tuple[int, ...], Layout]:
    checks.array(function, "x", x)
    if x.ndim < 2:
        raise checks.wrong_value(function, "x", x, "two axes or more")
    if type(axis) is int and 0 <= axis < x.ndim:
        axes: tuple[int, ...] = (axis,)
    else:
        axes = checks.kept_axes(function, axis, x.ndim)
    return axes, layout_of(x.shape, x.strides, axes)


def _check_parameters(function: str, layout: Layout, **parameters: Array | None) -> None:
    for name, value in parameters.items():
        if value is not None:
            checks.like(function, name, value, layout.kept)


def _check_statistics(function: str, layout: Layout, given: Any) -> tuple[Array, Array]:
    if not isinstance(given, tuple) or len(given) != 2:
        raise checks.wrong_type(function, "statistics", given, "a tuple (mean, var)")
    mean, var = given
    checks.like(function, "mean", mean, layout.kept)
    checks.like(function, "var", var, layout.kept)
    if (var < 0).any():
        raise checks.wrong_value(function, "var", float(np.nanmin(var)), "no negative variance")
    return mean, var


def _check_gradients(
    function: str,
    out: Any,
    dy: Array,
    context: BatchNormContext,
    wanted: frozenset[str],
) -> None:
    if not isinstance(out, BatchNormGradients):
        raise checks.wrong_type(function, "out", out, "a BatchNormGradients")
    taken: dict[str, Array | None] = {"dy": dy, "x": context.x, "residual": context.residual}
    sources = {"dx": context.x, "dresidual": context.residual}
    for name, source in sources.items():
        place = getattr(out, name)
        if place is not None and name in wanted and source is not None:
            checks.writable(
                function, f"out.{name}", place, source.shape, source.dtype, taken, over=("dy",)
            )
            taken[f"out.{name}"] = place
    for name, source in {"dgamma": context.gamma, "dbeta": context.beta}.items():
        place = getattr(out, name)
        if place is not None and name in wanted and source is not None:
            checks.writable(function, f"out.{name}", place, source.shape, source.dtype, taken)
            taken[f"out.{name}"] = place


# --- running the kernels ----------------------------------------------------------------------

# Worker and driver of planes and of columns.
_FORWARD = (
    (fused.forward_planes, fused.forward_planes_parallel),
    (fused.forward_columns, fused.forward_columns_parallel),
)
_BACKWARD = (
    (fused.backward_planes, fused.backward_planes_parallel),
    (fused.backward_columns, fused.backward_columns_parallel),
)


def _parameters(gamma: Array | None, beta: Array | None, c: int) -> Array:
    parameters = scratch.take("parameters", (2, c), np.float64)
    parameters[0] = 1.0 if gamma is None else gamma if gamma.ndim == 1 else gamma.reshape(-1)
    parameters[1] = 0.0 if beta is None else beta if beta.ndim == 1 else beta.reshape(-1)
    return parameters


def _constants(plan: Plan, rows: int, c: int, dtype: Any) -> tuple[Array, Array]:
    """Scratch for `constants` and `folded`: see kernels/layout.py."""
    constants = scratch.take("constants", (rows, plan.stride), dtype)
    if plan.spans[0] == plan.spans[1] == 1:
        return constants, constants[:, :c] if plan.stride != c else constants
    return constants, scratch.take("folded", (rows, c), dtype)


def _output(out: Array | None, x: Array, layout: Layout) -> tuple[Array, Array]:
    """The array to return, and the flat array for the kernel to write: a view of it if it can."""
    if out is None:
        out = like(layout, x.shape, x.dtype)
    elif not in_place(out, layout):
        return out, np.empty(x.size, x.dtype)
    return out, flat(out, layout)


def _deliver(written: Array, out: Array | None, layout: Layout) -> None:
    """Copies what the kernel wrote to an `out` that it could not write to."""
    if out is not None and not in_place(out, layout):
        order = layout.order or tuple(range(out.ndim))
        out.transpose(order)[...] = written.reshape([out.shape[axis] for axis in order])


def _streams(written: Array | None, plan: Plan) -> bool:
    """Whether to write past the caches; columns can be so only on cache lines throughout."""
    if written is None or not plan.streamed:
        return False
    if not plan.columns:
        return True
    row_bytes = plan.row_length * written.itemsize
    return address(written) % ALIGNMENT == 0 and row_bytes % ALIGNMENT == 0


def _sum_slices(
    plan: Plan,
    layout: Layout,
    dy: Array | None,
    x: Array,
    residual: Array | None,
    constants: Array,
    activation: Any,
) -> Array:
    slices = scratch.take("sums", (plan.tiles, 2, plan.stride), np.float64)
    arguments = (slices, dy, x, residual, constants, activation)
    if plan.columns:
        run(
            sums.sum_columns, sums.sum_columns_parallel, plan.tiles, plan.parallel, *arguments,
            plan.width, plan.row_length,
        )  # fmt: skip
    else:
        run(
            sums.sum_planes, sums.sum_planes_parallel, plan.tiles * layout.shape[1], plan.parallel,
            *arguments, layout.shape,
        )  # fmt: skip
    return slices


def _normalize(
    plan: Plan,
    layout: Layout,
    y: Array,
    x: Array,
    residual: Array | None,
    constants: Array,
    activation: Any,
    stream: bool,
) -> None:
    arguments = (y, x, residual, constants, activation, stream, plan.width)
    if plan.columns:
        run(
            normalize.normalize_columns, normalize.normalize_columns_parallel, plan.pieces,
            plan.parallel, *arguments, plan.row_length,
        )  # fmt: skip
    else:
        run(
            normalize.normalize_planes, normalize.normalize_planes_parallel, plan.pieces,
            plan.parallel, *arguments, layout.shape,
        )  # fmt: skip


def _apply_statistics(
    x: Array,
    kept: Array,
    gamma: Array | None,
    beta: Array | None,
    layout: Layout,
    eps: float,
    activation: Any,
    residual: Array | None,
    out: Array | None,
) -> Array:
    """Y from the mean and variance in `kept`, where inv_std is added."""
    y, written = _output(out, x, layout)
    if x.size:
        c = layout.shape[1]
        plan = elementwise_plan(layout.shape, x.itemsize)
        constants, folded = _constants(plan, 3, c, x.dtype)
        normalize.fold_given(
            constants, folded, kept.reshape(3, c), _parameters(gamma, beta, c), eps, plan.spans
        )
        _normalize(
            plan, layout, written, flat(x, layout),
            None if residual is None else flat(residual, layout), constants, activation,
            _streams(written, plan),
        )  # fmt: skip
    _deliver(written, out, layout)
    return y


def _backward(
    dx: Array | None,
    dresidual: Array | None,
    both: Array,
    dy: Array,
    x: Array,
    residual: Array | None,
    statistics: Array,
    parameters: Array,
    layout: Layout,
    count: int,
    ddof: int,
    activation: Any,
    frozen: bool,
    *,
    sums_needed: bool,
) -> None:
    plan = training_plan(layout.shape, x.itemsize, 3)
    constants, folded = _constants(plan, 7, layout.shape[1], x.dtype)
    stream = _streams(dx, plan)
    if plan.fused:
        run(
            *_BACKWARD[plan.columns], plan.tiles, plan.parallel, dx, dresidual, both,
            scratch.take("sums", (2, plan.stride), np.float64), constants, dy, x, residual,
            statistics, parameters, ddof, activation, frozen, stream, plan.width, layout.shape,
        )  # fmt: skip
        return
    gradients.fold_statistics(constants, folded, statistics, parameters, plan.spans)
    if sums_needed:
        slices = _sum_slices(plan, layout, dy, x, residual, constants, activation)
    else:
        slices = np.zeros((1, 2, plan.stride))
    gradients.fold_gradient_slices(
        both, constants, folded, slices, statistics, parameters, plan.spans, count, ddof, frozen
    )
    if dx is None and dresidual is None:
        return
    arguments = (
        dx, dresidual, dy, x, residual, constants, activation, frozen, stream, plan.width,
    )  # fmt: skip
    if plan.columns:
        run(
            gradients.apply_columns, gradients.apply_columns_parallel, plan.pieces, plan.parallel,
            *arguments, plan.row_length,
        )  # fmt: skip
    else:
        run(
            gradients.apply_planes, gradients.apply_planes_parallel, plan.pieces, plan.parallel,
            *arguments, layout.shape,
        )  # fmt: skip


def _cast(gradient: Array, parameter: Array, out: Array | None) -> Array:
    """A channel gradient in the shape and type of its parameter."""
    if out is None:
        gradient = gradient.astype(parameter.dtype)
        return gradient if parameter.ndim == 1 else gradient.reshape(parameter.shape)
    out[...] = gradient.reshape(parameter.shape)
    return out
