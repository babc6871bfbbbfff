"""A two-dimensional convolution and batch norm in one: forward, inference, backward."""

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
)
from nbnorm.functional.conv2d import Padding, Pair, check_convolution
from nbnorm.functional.moments import Moments
from nbnorm.launch import conv2d_batch_norm as launch
from nbnorm.typing import Array


class Conv2dBatchNormGradients(NamedTuple):
    """Gradients of a convolution with batch norm.

    None where not asked for or where the forward had no such input.
    """

    dx: Array | None = None
    dweight: Array | None = None
    dbias: Array | None = None
    dgamma: Array | None = None
    dbeta: Array | None = None
    dresidual: Array | None = None


_NOWHERE = Conv2dBatchNormGradients()


class Options(NamedTuple):
    """How the window moves, and how to compute it: as `conv2d_forward` takes it."""

    stride: int | Pair
    padding: Padding
    dilation: int | Pair
    groups: int
    axis: int
    algorithm: str


class _Kept(NamedTuple):
    x: Array
    weight: Array
    bias: Array | None
    normalization: BatchNormContext
    options: Options


class Conv2dBatchNormContext(FusedContext, _Kept):  # type: ignore[misc]  # not tuple.count
    """What a backward needs of its forward. It can be used any number of times.

    x, weight, bias
        The forward's own arrays, by reference: do not change them before the backward.
    normalization : BatchNormContext
        That of the batch norm; its x is z, the output of the convolution.
    options : Options
        stride, padding, dilation, groups, axis and algorithm.
    """

    __slots__ = ()


def conv2d_batch_norm_forward(
    x: Array,
    weight: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    *,
    bias: Array | None = None,
    stride: int | Pair = 1,
    padding: Padding = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    axis: int = 1,
    algorithm: str = "auto",
    statistics: tuple[Array, Array] | None = None,
    moments: Callable[[Moments], Moments] | None = None,
    sample_weight: Array | None = None,
    eps: float = 1e-5,
    ddof: int = 0,
    activation: Activation = None,
    residual: Array | None = None,
    out: Array | None = None,
) -> tuple[Array, Conv2dBatchNormContext]:
    """Convolve and normalize by the statistics of the batch, for training.

    With m = n h' w' values in a channel::

        z = conv2d(x, weight) + bias
        mean = sum(z) / m        var = sum((z - mean)^2) / (m - ddof)
        y = activation(gamma (z - mean) / sqrt(var + eps) + beta + residual)

    that is `conv2d_forward` and then `batch_norm_forward`.

    Parameters
    ----------
    x : array (n, c, h, w), or (n, h, w, c) with ``axis=-1``; any strides
        float32 or float64.
    weight : array (k, c / groups, r, s), in either layout
        Of x's type.
    gamma, beta : arrays (k,) of float32 or float64, optional
        Scale and shift; 1 and 0 if not given.
    bias : array (k,) of float32 or float64, optional
        Of little use: statistics of the batch subtract it again.
    stride, padding, dilation, groups, axis, algorithm
        As in `conv2d_forward`.
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
    y : array (n, k, h', w'), or (n, h', w', k) with ``axis=-1``, of x's type
        h' and w' as in `conv2d_forward`.
    context : Conv2dBatchNormContext
        For `conv2d_batch_norm_backward`; holds the statistics.

    Raises
    ------
    ValueError
        A shape does not fit, a value is out of range, a channel of y has fewer than two values.
    TypeError
        An argument is of the wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import conv2d_batch_norm_forward
    >>> x, weight = np.arange(9.0).reshape(1, 1, 3, 3), np.ones((1, 1, 2, 2))
    >>> y, context = conv2d_batch_norm_forward(x, weight)
    >>> y.round(3)
    array([[[[-1.265, -0.632],
             [ 0.632,  1.265]]]])
    >>> context.mean, context.var
    (array([16.]), array([40.]))
    """
    function = "conv2d_batch_norm_forward"
    options = Options(stride, padding, dilation, groups, axis, algorithm)
    conv = check_convolution(function, x, weight, *options)
    k = len(weight)
    shape = conv.output_shape
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
            (axis % 4,),
            normalization,
            moments,
            sample_weight,
            callable_only=True,
        )
    elif statistics is None and math.prod(shape) < 2 * k:
        raise too_few_values(function, x)
    if out is not None:
        inputs = {
            "x": x, "weight": weight, "bias": bias, "gamma": gamma, "beta": beta,
            "residual": residual,
        }  # fmt: skip
        checks.writable(function, "out", out, shape, x.dtype, inputs)

    y, saved = launch.forward(x, weight, bias, conv, normalization, out)
    return y, Conv2dBatchNormContext(x, weight, bias, BatchNormContext(*saved), options)


def conv2d_batch_norm_inference(
    x: Array,
    weight: Array,
    mean: Array,
    var: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    *,
    bias: Array | None = None,
    stride: int | Pair = 1,
    padding: Padding = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    axis: int = 1,
    algorithm: str = "auto",
    eps: float = 1e-5,
    activation: Activation = None,
    residual: Array | None = None,
    out: Array | None = None,
) -> Array:
    """Convolve and normalize by a given mean and variance.

    ``y = activation(gamma (conv2d(x, weight) + bias - mean) / sqrt(var + eps) + beta + residual)``,
    all but the convolution done while a block of its output is in cache.

    Parameters
    ----------
    x : array (n, c, h, w), or (n, h, w, c) with ``axis=-1``; any strides
        float32 or float64. The batch may be empty.
    weight : array (k, c / groups, r, s), in either layout
        Of x's type.
    mean, var : arrays (k,) of float32 or float64
        Running statistics, usually. var is not negative.
    gamma, beta, bias, eps, activation, residual
        As in `conv2d_batch_norm_forward`.
    stride, padding, dilation, groups, axis, algorithm
        As in `conv2d_forward`.
    out : array of y's shape and type, optional
        Where to write y. It may be residual itself, and must not overlap it otherwise, nor x or
        weight.

    Returns
    -------
    y : array (n, k, h', w'), or (n, h', w', k) with ``axis=-1``, of x's type
        h' and w' as in `conv2d_forward`.

    Raises
    ------
    ValueError
        A shape does not fit or a value is out of range.
    TypeError
        An argument is of the wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import conv2d_batch_norm_inference
    >>> x, weight = np.arange(9.0).reshape(1, 1, 3, 3), np.ones((1, 1, 2, 2))
    >>> conv2d_batch_norm_inference(x, weight, np.array([12.0]), np.array([16.0]), eps=0.0)
    array([[[[-1.,  0.],
             [ 2.,  3.]]]])
    """
    function = "conv2d_batch_norm_inference"
    options = Options(stride, padding, dilation, groups, axis, algorithm)
    conv = check_convolution(function, x, weight, *options)
    k = len(weight)
    shape = conv.output_shape
    check_parameters(function, (k,), bias=bias)
    normalization = check_normalization(
        function, x, shape, (k,), gamma=gamma, beta=beta, statistics=(mean, var), eps=eps,
        activation=activation, residual=residual,
    )  # fmt: skip
    if out is not None:
        inputs = {"x": x, "weight": weight, "residual": residual}
        checks.writable(function, "out", out, shape, x.dtype, inputs, over=("residual",))

    return launch.inference(x, weight, bias, conv, normalization, out)


def conv2d_batch_norm_backward(
    dy: Array,
    context: Conv2dBatchNormContext,
    *,
    sums: Sums | None = None,
    needs: Iterable[str] | None = None,
    out: Conv2dBatchNormGradients | None = None,
) -> Conv2dBatchNormGradients:
    """The gradients of `conv2d_batch_norm_forward`, given the gradient of its y.

    First dz, dgamma, dbeta and dresidual from dy as in `batch_norm_backward`, then dx, dweight and
    dbias from dz as in `conv2d_backward`. dbias is 0 but for rounding, unless statistics were
    given: the mean takes the bias out.

    Parameters
    ----------
    dy : array of y's shape and type, any strides
    context : Conv2dBatchNormContext
        From the forward.
    sums : array (2, k) of float64, or callable, optional
        As in `batch_norm_backward`. dx, dweight and dbias are then what this part has in the
        gradient of the whole.
    needs : names of gradients, optional
        Those wanted, out of "dx", "dweight", "dbias", "dgamma", "dbeta", "dresidual"; all by
        default.
    out : Conv2dBatchNormGradients, optional
        Where to write them, None where they are to be allocated. They must not overlap dy, an
        input of the forward or each other.

    Returns
    -------
    Conv2dBatchNormGradients
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
    >>> from nbnorm import conv2d_batch_norm_backward, conv2d_batch_norm_forward
    >>> x, weight = np.arange(9.0).reshape(1, 1, 3, 3), np.ones((1, 1, 2, 2))
    >>> y, context = conv2d_batch_norm_forward(x, weight, beta=np.zeros(1))
    >>> gradients = conv2d_batch_norm_backward(np.cos(y), context, needs=["dx", "dbeta"])
    >>> gradients.dx.shape, gradients.dbeta.round(3), gradients.dweight
    ((1, 1, 3, 3), array([2.215]), None)
    """
    function = "conv2d_batch_norm_backward"
    check_context(function, context, Conv2dBatchNormContext, "conv2d_batch_norm_forward")
    x, weight, bias, saved, options = context
    conv = check_convolution(function, x, weight, *options)
    shape = conv.output_shape
    owed = check_gradients(function, dy, shape, context, Conv2dBatchNormGradients, needs, out)
    if sums is not None:
        sums = check_sums(function, sums, saved)

    gradients = launch.differentiate(
        dy, x, weight, bias, saved, conv, owed,
        _NOWHERE if out is None else out, sums,
    )  # fmt: skip
    return Conv2dBatchNormGradients(*gradients)
