"""A dense layer and batch norm in one: forward, inference, backward."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from nbnorm import checks
from nbnorm.checks import Array
from nbnorm.functional.activation import Activation
from nbnorm.functional.batch_norm import (
    BatchNormContext,
    BatchNormGradients,
    batch_norm_backward,
)
from nbnorm.functional.dense import (
    as_rows,
    check_operands,
    delivered,
    differentiate_product,
    rows_of_output,
)
from nbnorm.functional.execution import (
    apply_statistics,
    cast,
    channel_parameters,
    normalize_summed,
)
from nbnorm.functional.fusion import (
    Normalized,
    check_batch,
    check_context,
    check_gradients,
    check_options,
)
from nbnorm.functional.gradients import channel_sums
from nbnorm.functional.layout import layout_of, run_of
from nbnorm.functional.parameters import check_statistics
from nbnorm.functional.product import given_constants, matrix, multiply, shift_by, sums_for
from nbnorm.functional.scratch import empty


class DenseBatchNormGradients(NamedTuple):
    """Gradients of a dense layer with batch norm.

    None where not asked for or where the forward had no such input.
    """

    dx: Array | None = None
    dweight: Array | None = None
    dbias: Array | None = None
    dgamma: Array | None = None
    dbeta: Array | None = None
    dresidual: Array | None = None


_NOWHERE = DenseBatchNormGradients()


class _Kept(NamedTuple):
    x: Array
    weight: Array
    bias: Array | None
    normalization: BatchNormContext


class DenseBatchNormContext(Normalized, _Kept):  # type: ignore[misc]  # not tuple.count
    """What a backward needs of its forward. It can be used any number of times.

    x, weight, bias
        The forward's own arrays, by reference: do not change them before the backward.
    normalization : BatchNormContext
        That of the batch norm; its x is ``z = x weight^T + bias``.
    """

    __slots__ = ()


def dense_batch_norm_forward(
    x: Array,
    weight: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    *,
    bias: Array | None = None,
    statistics: tuple[Array, Array] | None = None,
    eps: float = 1e-5,
    ddof: int = 0,
    activation: Activation = None,
    residual: Array | None = None,
    out: Array | None = None,
) -> tuple[Array, DenseBatchNormContext]:
    """Multiply by a weight matrix and normalize by the statistics of the batch, for training.

    With m rows in x::

        z = x weight^T + bias
        mean = sum(z) / m        var = sum((z - mean)^2) / (m - ddof)
        y = activation(gamma (z - mean) / sqrt(var + eps) + beta + residual)

    that is `dense_forward` and then `batch_norm_forward` along the last axis.

    Parameters
    ----------
    x : array (..., c), any strides
        float32 or float64. All leading axes count as one axis of rows.
    weight : array (k, c)
        Of x's type.
    gamma, beta : arrays (k,) of float32 or float64, optional
        Scale and shift; 1 and 0 if not given.
    bias : array (k,) of float32 or float64, optional
        Of little use: statistics of the batch subtract it again.
    statistics : (mean, var), optional
        Normalize with these instead of the batch's, as arrays (k,) of float32 or float64. The
        backward then takes them for constants (frozen batch norm).
    eps : float, 0 or more
        Added to the variance. Where ``var + eps`` is 0, y is beta.
    ddof : 0 or 1
        The variance is taken over m - ddof rows.
    activation : None, "relu", "leaky_relu", ("leaky_relu", slope), "silu" or "mish"
        A leaky ReLU's slope is 0.01 unless given.
    residual : array of y's shape and type, optional
        Added before the activation.
    out : array of y's shape and type, optional
        Where to write y. It must not overlap an input: the backward needs them.

    Returns
    -------
    y : array (..., k), of x's type
    context : DenseBatchNormContext
        For `dense_batch_norm_backward`; holds the statistics.

    Raises
    ------
    ValueError
        A shape does not fit, a value is out of range, x has fewer than two rows.
    TypeError
        An argument is of the wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import dense_batch_norm_forward
    >>> x, weight = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 1.0]])
    >>> y, context = dense_batch_norm_forward(x, weight, eps=0.0)
    >>> y
    array([[-1.],
           [ 1.]])
    >>> context.mean, context.var
    (array([5.]), array([4.]))
    """
    function = "dense_batch_norm_forward"
    check_operands(function, x, weight)
    k = len(weight)
    shape = (*x.shape[:-1], k)
    eps, applied = check_options(
        function, x, shape, k, bias, gamma, beta, eps, activation, residual
    )
    ddof = checks.degrees_of_freedom(function, ddof)
    check_batch(function, x, math.prod(shape[:-1]), k, statistics)
    if out is not None:
        inputs = {
            "x": x, "weight": weight, "bias": bias, "gamma": gamma, "beta": beta,
            "residual": residual,
        }  # fmt: skip
        checks.writable(function, "out", out, shape, x.dtype, inputs)

    y, normalization = _forward(
        x, weight, bias, gamma, beta, statistics, eps, ddof, applied, residual, out
    )
    return y, DenseBatchNormContext(x, weight, bias, normalization)


def dense_batch_norm_inference(
    x: Array,
    weight: Array,
    mean: Array,
    var: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    *,
    bias: Array | None = None,
    eps: float = 1e-5,
    activation: Activation = None,
    residual: Array | None = None,
    out: Array | None = None,
) -> Array:
    """Multiply by a weight matrix and normalize by a given mean and variance.

    ``y = activation(gamma (x weight^T + bias - mean) / sqrt(var + eps) + beta + residual)``, all
    but the multiply done while a block of the product is in cache.

    Parameters
    ----------
    x : array (..., c), any strides
        float32 or float64. May be empty.
    weight : array (k, c)
        Of x's type.
    mean, var : arrays (k,) of float32 or float64
        Running statistics, usually. var is not negative.
    gamma, beta, bias, eps, activation, residual
        As in `dense_batch_norm_forward`.
    out : array of y's shape and type, optional
        Where to write y. It may be residual itself, and must not overlap it otherwise, nor x or
        weight.

    Returns
    -------
    y : array (..., k), of x's type

    Raises
    ------
    ValueError
        A shape does not fit or a value is out of range.
    TypeError
        An argument is of the wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import dense_batch_norm_inference
    >>> x, weight = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 1.0]])
    >>> dense_batch_norm_inference(x, weight, np.array([3.0]), np.array([16.0]), eps=0.0)
    array([[0.],
           [1.]])
    """
    function = "dense_batch_norm_inference"
    check_operands(function, x, weight)
    k = len(weight)
    shape = (*x.shape[:-1], k)
    check_statistics(function, (k,), (mean, var))
    eps, applied = check_options(
        function, x, shape, k, bias, gamma, beta, eps, activation, residual
    )
    if out is not None:
        inputs = {"x": x, "weight": weight, "residual": residual}
        checks.writable(function, "out", out, shape, x.dtype, inputs, over=("residual",))

    return _inference(x, weight, bias, mean, var, gamma, beta, eps, applied, residual, out)


def dense_batch_norm_backward(
    dy: Array,
    context: DenseBatchNormContext,
    *,
    needs: Iterable[str] | None = None,
    out: DenseBatchNormGradients | None = None,
) -> DenseBatchNormGradients:
    """The gradients of `dense_batch_norm_forward`, given the gradient of its y.

    With dz, dgamma, dbeta and dresidual from dy as in `batch_norm_backward`::

        dx = dz weight        dweight = dz^T x        dbias = sum(dz)

    dbias is 0 but for rounding, unless statistics were given: the mean takes the bias out.

    Parameters
    ----------
    dy : array of y's shape and type, any strides
    context : DenseBatchNormContext
        From the forward.
    needs : names of gradients, optional
        Those wanted, out of "dx", "dweight", "dbias", "dgamma", "dbeta", "dresidual"; all by
        default.
    out : DenseBatchNormGradients, optional
        Where to write them, None where they are to be allocated. They must not overlap dy, an
        input of the forward or each other.

    Returns
    -------
    DenseBatchNormGradients
        Each of the shape and type of what it is the gradient of; None for what was not asked for
        and for inputs that the forward was not given.

    Raises
    ------
    ValueError
        A shape does not fit, out overlaps an input, or the context has been changed.
    TypeError
        An argument is of the wrong type, such as the context of another function.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import dense_batch_norm_backward, dense_batch_norm_forward
    >>> x, weight = np.array([[1.0], [2.0], [6.0]]), np.array([[2.0]])
    >>> y, context = dense_batch_norm_forward(x, weight, np.ones(1), np.zeros(1), eps=0.0)
    >>> gradients = dense_batch_norm_backward(np.array([[1.0], [0.0], [2.0]]), context)
    >>> gradients.dbeta, gradients.dgamma.round(3)
    (array([3.]), array([1.852]))
    >>> float(abs(gradients.dweight).round(12)[0, 0])  # y does not change with the weight's size
    0.0
    """
    function = "dense_batch_norm_backward"
    if type(context) is not DenseBatchNormContext:
        raise checks.wrong_type(
            function, "context", context, "the DenseBatchNormContext of a dense_batch_norm_forward"
        )
    check_context(function, context)
    check_operands(function, context.x, context.weight)
    shape = (*context.x.shape[:-1], len(context.weight))
    owed = check_gradients(function, dy, shape, context, DenseBatchNormGradients, needs, out)
    return _backward(dy, context, owed, _NOWHERE if out is None else out)


# --- execution, on checked arguments --------------------------------------------------------


def _forward(
    x: Array,
    weight: Array,
    bias: Array | None,
    gamma: Array | None,
    beta: Array | None,
    statistics: tuple[Array, Array] | None,
    eps: float,
    ddof: int,
    activation: Any,
    residual: Array | None,
    out: Array | None,
) -> tuple[Array, BatchNormContext]:
    k, c = weight.shape
    n = math.prod(x.shape[:-1])
    shape = (*x.shape[:-1], k)
    z = empty((n, k), x.dtype)
    layout = layout_of(z.shape, z.strides, (1,))
    rows = None if residual is None else residual.reshape(n, k)
    kept = np.empty((3, k))
    normalization = BatchNormContext(
        z, gamma, beta, rows, kept, n, layout, ddof, activation, statistics is not None
    )
    summed = sums_for((n, k, c), x.dtype) if statistics is None and k else None
    flat_z = z.reshape(-1)
    multiply(
        flat_z, as_rows(x), matrix(weight).transposed, constants=shift_by(bias, k, x.dtype),
        summed=summed,
    )  # fmt: skip
    y, written = rows_of_output(out, shape, x.dtype)
    if statistics is not None:
        kept[0], kept[1] = statistics
        into = written.reshape(n, k)
        apply_statistics(z, kept, gamma, beta, layout, eps, activation, rows, into)
    else:
        normalize_summed(
            written, kept, flat_z, None if rows is None else run_of(rows),
            channel_parameters(gamma, beta, k), (n, k, 1), eps, ddof, activation, summed,
        )  # fmt: skip
    return delivered(y, written), normalization


def _inference(
    x: Array,
    weight: Array,
    bias: Array | None,
    mean: Array,
    var: Array,
    gamma: Array | None,
    beta: Array | None,
    eps: float,
    activation: Any,
    residual: Array | None,
    out: Array | None,
) -> Array:
    k = len(weight)
    shape = (*x.shape[:-1], k)
    y, written = rows_of_output(out, shape, x.dtype)
    multiply(
        written,
        as_rows(x),
        matrix(weight).transposed,
        constants=given_constants(mean, var, gamma, beta, bias, eps, x.dtype),
        residual=_rows_beside(residual, written),
        activation=activation,
    )
    return delivered(y, written)


def _backward(
    dy: Array,
    context: DenseBatchNormContext,
    owed: frozenset[str],
    out: DenseBatchNormGradients,
) -> DenseBatchNormGradients:
    through = owed & {"dx", "dweight", "dbias"}  # those that need dz
    z = context.normalization.x
    dresidual = written = place = None
    if "dresidual" in owed:
        dresidual, written = rows_of_output(out.dresidual, dy.shape, dy.dtype)
        place = written.reshape(z.shape)
    dz, dgamma, dbeta, _ = batch_norm_backward(
        dy.reshape(z.shape),
        context.normalization,
        needs=[*owed & {"dgamma", "dbeta", "dresidual"}, *(["dx"] if through else [])],
        out=BatchNormGradients(None, out.dgamma, out.dbeta, place),
    )
    if dresidual is not None and written is not None:
        delivered(dresidual, written)
    if dz is None:
        return DenseBatchNormGradients(dgamma=dgamma, dbeta=dbeta, dresidual=dresidual)
    x, weight, bias = context[:3]
    dz = dz.reshape(dy.shape)
    dx, dweight = (
        (empty(source.shape, source.dtype) if place is None else place) if name in owed else None
        for name, source, place in (("dx", x, out.dx), ("dweight", weight, out.dweight))
    )
    differentiate_product(dx, dweight, dz, x, weight)
    dbias = None
    if bias is not None and "dbias" in owed:
        dbias = cast(channel_sums(dz), bias, out.dbias)
    return DenseBatchNormGradients(dx, dweight, dbias, dgamma, dbeta, dresidual)


def _rows_beside(residual: Array | None, written: Array) -> Array | None:
    """The residual as one run; a copy where it is about to be written over."""
    if residual is None:
        return None
    rows = run_of(residual)
    return rows.copy() if np.may_share_memory(rows, written) else rows
