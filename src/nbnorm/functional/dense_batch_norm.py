"""A dense layer and batch norm in one: forward, inference, backward."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from nbnorm import checks
from nbnorm.functional.arguments import (
    Activation,
    check_normalization,
    check_parameters,
    too_few_values,
)
from nbnorm.functional.batch_norm import check_sources
from nbnorm.functional.contexts import (
    BatchNormContext,
    FusedContext,
    Sums,
    check_context,
    check_gradients,
    check_sums,
    fits_product,
)
from nbnorm.functional.dense import check_operands
from nbnorm.functional.moments import Moments
from nbnorm.launch import dense_batch_norm as launch
from nbnorm.launch.dense_by_covariance import StandardizedInput
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


class DenseBatchNormContext(FusedContext, _Kept):  # type: ignore[misc]  # not tuple.count
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

    def product(self) -> dict[str, Array]:
        """Z, or the standardized x in its place."""
        if self.standardized is None:
            return super().product()
        return {"context.standardized.rows": self.standardized.rows}

    def product_fits(self, shape: tuple[int, ...]) -> bool:
        """Whether z, or what is in its place, fits a y of this shape."""
        if self.standardized is None:
            return super().product_fits(shape)
        return fits_product(self.standardized, self.x, self.weight)


def dense_batch_norm_forward(
    x: Array,
    weight: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    *,
    bias: Array | None = None,
    statistics: tuple[Array, Array] | None = None,
    moments: Callable[[Moments], Moments] | None = None,
    sample_weight: Array | None = None,
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
    moments : callable, optional
        As in `batch_norm_forward`: it is called once with the `Moments` of z, and returns those of
        the whole that z is a part of.
    sample_weight : array of bool, float32 or float64, optional
        As in `batch_norm_forward`; it broadcasts against y, with the channels at length 1.
    eps, ddof, activation
        As in `batch_norm_forward`.
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
    check_parameters(function, (k,), bias=bias)
    normalization = check_normalization(
        function, x, shape, (k,), gamma=gamma, beta=beta, statistics=statistics, eps=eps, ddof=ddof,
        activation=activation, residual=residual,
    )  # fmt: skip
    if moments is not None or sample_weight is not None:
        normalization = check_sources(
            function,
            x,
            shape,
            (len(shape) - 1,),
            normalization,
            moments,
            sample_weight,
            callable_only=True,
        )
    elif statistics is None and math.prod(shape[:-1]) < 2:
        raise too_few_values(function, x)
    if out is not None:
        inputs = {
            "x": x, "weight": weight, "bias": bias, "gamma": gamma, "beta": beta,
            "residual": residual,
        }  # fmt: skip
        checks.writable(function, "out", out, shape, x.dtype, inputs)

    y, saved, standardized = launch.forward(x, weight, bias, normalization, out)
    return y, DenseBatchNormContext(x, weight, bias, BatchNormContext(*saved), standardized)


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
    check_parameters(function, (k,), bias=bias)
    normalization = check_normalization(
        function, x, shape, (k,), gamma=gamma, beta=beta, statistics=(mean, var), eps=eps,
        activation=activation, residual=residual,
    )  # fmt: skip
    if out is not None:
        inputs = {"x": x, "weight": weight, "residual": residual}
        checks.writable(function, "out", out, shape, x.dtype, inputs, over=("residual",))

    return launch.inference(x, weight, bias, normalization, out)


def dense_batch_norm_backward(
    dy: Array,
    context: DenseBatchNormContext,
    *,
    sums: Sums | None = None,
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
    sums : array (2, k) of float64, or callable, optional
        As in `batch_norm_backward`. dx, dweight and dbias are then what this part has in the
        gradient of the whole.
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
    check_context(function, context, DenseBatchNormContext, "dense_batch_norm_forward")
    check_operands(function, context.x, context.weight)
    shape = (*context.x.shape[:-1], len(context.weight))
    owed = check_gradients(function, dy, shape, context, DenseBatchNormGradients, needs, out)
    if sums is not None:
        sums = check_sums(function, sums, context.normalization)

    places = _NOWHERE if out is None else out
    return DenseBatchNormGradients(*launch.differentiate(dy, *context, owed, places, sums))
