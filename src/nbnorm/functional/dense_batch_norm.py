"""A dense layer and batch norm in one: forward, inference, backward."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from nbnorm import checks
from nbnorm.functional.activation import Activation
from nbnorm.functional.batch_norm import (
    BatchNormContext,
    BatchNormGradients,
    batch_norm_backward,
)
from nbnorm.functional.dense import check_operands
from nbnorm.functional.fusion import (
    Normalized,
    check_batch,
    check_context,
    check_gradients,
    check_options,
    fits_product,
)
from nbnorm.functional.parameters import check_statistics
from nbnorm.kernels.gemm.epilogue import Epilogue
from nbnorm.launch.batch_norm import (
    Summed,
    apply_statistics,
    channel_parameters,
    channel_sums,
    normalize_summed,
)
from nbnorm.launch.dense_by_covariance import (
    StandardizedInput,
    differentiate,
    normalize_product,
    use_covariance,
    write_dx,
)
from nbnorm.launch.gemm import (
    as_rows,
    differentiate_product,
    given_constants,
    matrix,
    multiply,
    shift_by,
    sums_for,
)
from nbnorm.launch.layout import layout_of, run_of
from nbnorm.launch.outputs import cast, destination
from nbnorm.launch.scratch import empty
from nbnorm.typing import Array


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
    standardized: StandardizedInput | None


class DenseBatchNormContext(Normalized, _Kept):  # type: ignore[misc]  # not tuple.count
    """What a backward needs of its forward. It can be used any number of times.

    x, weight, bias
        The forward's own arrays, by reference: do not change them before the backward.
    normalization : BatchNormContext
        That of the batch norm; its x is ``z = x weight^T + bias``, or empty where z was not stored.
    standardized : StandardizedInput or None
        What takes the place of z: see launch/dense_by_covariance.py.
    """

    __slots__ = ()

    @property
    def residual(self) -> Array | None:
        """The forward's residual, by reference."""
        kept = self.normalization if self.standardized is None else self.standardized
        return kept.residual

    def of_product(self) -> dict[str, Array]:
        """Z, or the standardized x in its place."""
        if self.standardized is None:
            return super().of_product()
        return {"context.standardized.rows": self.standardized.rows}

    def has_product(self, shape: tuple[int, ...]) -> bool:
        """Whether z, or what is in its place, fits a y of this shape."""
        if self.standardized is None:
            return super().has_product(shape)
        return fits_product(self.standardized, self.x, self.weight)


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
    activation : None, the name of an activation, or (name, parameter)
        "relu" or ("leaky_relu", 0.2), say: docs/activations.md lists them.
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

    return _forward(x, weight, bias, gamma, beta, statistics, eps, ddof, applied, residual, out)


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
) -> tuple[Array, DenseBatchNormContext]:
    k, c = weight.shape
    n = math.prod(x.shape[:-1])
    shape = (*x.shape[:-1], k)
    rows = None if residual is None else residual.reshape(n, k)
    frozen = statistics is not None

    def context(
        z: Array, kept: Array, standardized: StandardizedInput | None
    ) -> DenseBatchNormContext:
        layout = layout_of(z.shape, z.strides, (1,))
        beside = rows if standardized is None else None
        normalization = BatchNormContext(
            z, gamma, beta, beside, kept, n, layout, ddof, activation, frozen
        )
        return DenseBatchNormContext(x, weight, bias, normalization, standardized)

    y = destination(out, shape, x.dtype)
    if not frozen and use_covariance(n, k, c):
        found = normalize_product(
            y.written, x.reshape(n, c), weight, bias, (gamma, beta), eps, ddof, activation, rows
        )
        if found is not None:
            return y.deliver(), context(np.empty((0, k), x.dtype), *found)
    summed = sums_for((n, k, c), x.dtype) if statistics is None and k else None
    z = _product(x, weight, bias, summed)
    kept = np.empty((3, k))
    result = context(z, kept, None)
    if statistics is not None:
        kept[0], kept[1] = statistics
        into = y.written.reshape(n, k)
        layout = result.normalization.layout
        apply_statistics(z, kept, gamma, beta, layout, eps, activation, rows, into)
    else:
        normalize_summed(
            y.written, kept, z.reshape(-1), None if rows is None else run_of(rows),
            channel_parameters(gamma, beta, k), (n, k, 1), eps, ddof, activation, summed,
        )  # fmt: skip
    return y.deliver(), result


def _product(x: Array, weight: Array, bias: Array | None, summed: Summed | None) -> Array:
    """Z (n, k), and the sums of its columns."""
    k = len(weight)
    z = empty((math.prod(x.shape[:-1]), k), x.dtype)
    epilogue = Epilogue(constants=shift_by(bias, k, x.dtype))
    if summed is not None:
        epilogue = epilogue._replace(sums=summed.sums, pivots=summed.pivots)
    multiply(z.reshape(-1), as_rows(x), matrix(weight).transposed, epilogue)
    return z


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
    y = destination(out, shape, x.dtype)
    epilogue = Epilogue(
        constants=given_constants(mean, var, gamma, beta, bias, eps, x.dtype),
        residual=_rows_beside(residual, y.written),
    )
    multiply(y.written, as_rows(x), matrix(weight).transposed, epilogue, activation)
    return y.deliver()


def _backward(
    dy: Array,
    context: DenseBatchNormContext,
    owed: frozenset[str],
    out: DenseBatchNormGradients,
) -> DenseBatchNormGradients:
    if context.standardized is not None:
        gradients = _backward_without_product(dy, context, context.standardized, owed, out)
        if gradients is not None:
            return gradients
    x, weight, bias, normalization, _ = context
    if context.standardized is not None:
        z = _product(x, weight, bias, None)
        layout = layout_of(z.shape, z.strides, (1,))
        normalization = normalization._replace(x=z, layout=layout, residual=context.residual)
    through = owed & {"dx", "dweight", "dbias"}  # those that need dz
    shape = normalization.x.shape
    dresidual = None
    if "dresidual" in owed:
        dresidual = destination(out.dresidual, dy.shape, dy.dtype)
    dz, dgamma, dbeta, _ = batch_norm_backward(
        dy.reshape(shape),
        normalization,
        needs=[*owed & {"dgamma", "dbeta", "dresidual"}, *(["dx"] if through else [])],
        out=BatchNormGradients(
            None,
            out.dgamma,
            out.dbeta,
            None if dresidual is None else dresidual.written.reshape(shape),
        ),
    )
    through_residual = None if dresidual is None else dresidual.deliver()
    if dz is None:
        return DenseBatchNormGradients(dgamma=dgamma, dbeta=dbeta, dresidual=through_residual)
    dz = dz.reshape(dy.shape)
    dx, dweight = differentiate_product(
        destination(out.dx, x.shape, x.dtype) if "dx" in owed else None,
        destination(out.dweight, weight.shape, weight.dtype) if "dweight" in owed else None,
        dz, x, weight,
    )  # fmt: skip
    dbias = None
    if bias is not None and "dbias" in owed:
        dbias = cast(channel_sums(dz), bias, out.dbias)
    return DenseBatchNormGradients(dx, dweight, dbias, dgamma, dbeta, through_residual)


def _backward_without_product(
    dy: Array,
    context: DenseBatchNormContext,
    standardized: StandardizedInput,
    owed: frozenset[str],
    out: DenseBatchNormGradients,
) -> DenseBatchNormGradients | None:
    """The gradients from small matrices; None if dx would lose digits, nothing being written."""
    x, weight, bias, normalization, _ = context
    gamma, beta = normalization.gamma, normalization.beta
    k = len(weight)
    found = differentiate(
        dy.reshape(-1, k), standardized, weight, normalization.statistics, (gamma, beta),
        normalization.ddof, normalization.activation,
    )  # fmt: skip
    if found is None:
        return None
    dx = dweight = dgamma = dbeta = dbias = dresidual = None
    if "dx" in owed:
        place = destination(out.dx, x.shape, x.dtype)
        write_dx(place.written, found, standardized)
        dx = place.deliver()
    if "dweight" in owed:
        dweight = cast(found.dweight, weight, out.dweight)
    if gamma is not None and "dgamma" in owed:
        dgamma = cast(found.dgamma, gamma, out.dgamma)
    if beta is not None and "dbeta" in owed:
        dbeta = cast(found.dbeta, beta, out.dbeta)
    if bias is not None and "dbias" in owed:  # the mean takes the bias out
        dbias = cast(np.zeros(k), bias, out.dbias)
    if "dresidual" in owed:
        dresidual = out.dresidual
        if dresidual is None:
            # g is nobody else's, unless it is dy itself.
            dresidual = found.g.reshape(dy.shape)
            if np.may_share_memory(dresidual, dy):
                dresidual = dresidual.copy()
        else:
            dresidual[...] = found.g.reshape(dy.shape)
    return DenseBatchNormGradients(dx, dweight, dbias, dgamma, dbeta, dresidual)


def _rows_beside(residual: Array | None, written: Array) -> Array | None:
    """The residual as one run; a copy where it is about to be written over."""
    if residual is None:
        return None
    rows = run_of(residual)
    return rows.copy() if np.may_share_memory(rows, written) else rows
