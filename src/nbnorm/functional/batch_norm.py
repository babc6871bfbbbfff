"""Batch normalization as functions: forward, inference, backward."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from nbnorm import checks
from nbnorm.functional.arguments import (
    Activation,
    check_input,
    check_normalization,
    check_places,
    check_total,
    check_weights,
    negative_variance,
    too_few_values,
)
from nbnorm.functional.contexts import BatchNormContext, Sums, check_sums, fits, unfit
from nbnorm.functional.moments import Given, check_whole
from nbnorm.launch import batch_norm as launch
from nbnorm.launch.batch_norm import Normalization
from nbnorm.typing import Array


class BatchNormGradients(NamedTuple):
    """Gradients of batch norm; None where not asked for or where the forward had no such input."""

    dx: Array | None = None
    dgamma: Array | None = None
    dbeta: Array | None = None
    dresidual: Array | None = None


_ALL = frozenset(BatchNormGradients._fields)
_NOWHERE = BatchNormGradients()


def batch_norm_forward(
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    *,
    statistics: tuple[Array, Array] | None = None,
    moments: Given | None = None,
    sample_weight: Array | None = None,
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

    (Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167, algorithm 1.) With weights w of
    the places, and m their sum, mean and variance are the weighted ones and y is the same formula
    everywhere::

        mean = sum(w x) / m      var = sum(w (x - mean)^2) / (m - ddof)

    Parameters
    ----------
    x : array of float32 or float64, any shape of two axes or more, any strides
    gamma, beta : arrays of float32 or float64 in the shape of the kept axes, optional
        Scale and shift; 1 and 0 if not given.
    statistics : (mean, var), optional
        Normalize with these instead of the batch's, as arrays of float32 or float64 in the shape of
        the kept axes. The backward then takes them for constants (frozen batch norm).
    moments : Moments, or callable, optional
        Those of a whole that x is a part of, to normalize by: a batch that lies on several
        machines, say. A callable is called once with the `Moments` of x and returns those of the
        whole. Count two values or more in all, x may be empty, and the backward wants `sums`. All
        layouts then read memory four times and write it once, for forward and for backward.
    sample_weight : array of bool, float32 or float64, optional
        What each place counts in the statistics, finite and 0 or more: it broadcasts against x,
        with the kept axes at length 1. A mask is one of zeros and ones. Weights are constants, and
        rounded to x's type. With ddof 1 they say how many values a place stands for.
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
        A shape does not fit, a value is out of range, a channel has fewer than two values, the
        sum of its weights is not above ddof, or there are both statistics and moments.
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
    normalization = check_normalization(
        function, x, x.shape, layout.kept, gamma=gamma, beta=beta, statistics=statistics, eps=eps,
        ddof=ddof, activation=activation, residual=residual, variance_unread=True,
    )  # fmt: skip
    if moments is not None or sample_weight is not None:
        axes = checks.kept_axes(function, axis, x.ndim)
        normalization = check_sources(
            function, x, x.shape, axes, normalization, moments, sample_weight
        )
    elif statistics is None and layout.shape[0] * layout.shape[2] < 2:
        raise too_few_values(function, x)
    if out is not None:
        inputs = {"x": x, "residual": residual, "gamma": gamma, "beta": beta}
        checks.writable(function, "out", out, x.shape, x.dtype, inputs)

    if statistics is not None:
        y, found = launch.infer(x, layout, normalization, out)
        if y is None:
            raise negative_variance(function, statistics[1])
        count = layout.shape[0] * layout.shape[2]
        return y, BatchNormContext.of(x, layout, normalization, found, count)
    y, saved = launch.normalize(x, layout, normalization, out)
    return y, BatchNormContext(*saved)


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
    normalization = check_normalization(
        function, x, x.shape, layout.kept, gamma=gamma, beta=beta, statistics=(mean, var), eps=eps,
        activation=activation, residual=residual, variance_unread=True,
    )  # fmt: skip
    if out is not None:
        inputs = {"x": x, "residual": residual}
        checks.writable(function, "out", out, x.shape, x.dtype, inputs, over=("x", "residual"))

    y, _ = launch.infer(x, layout, normalization, out)
    if y is None:
        raise negative_variance(function, var)
    return y


def batch_norm_backward(
    dy: Array,
    context: BatchNormContext,
    *,
    sums: Sums | None = None,
    needs: Iterable[str] | None = None,
    out: BatchNormGradients | None = None,
) -> BatchNormGradients:
    """The gradients of `batch_norm_forward`, given the gradient of its y.

    With s = sqrt(var + eps), xh = (x - mean) / s and g = dy activation'(z)::

        dbeta = sum(g)        dgamma = sum(g xh)        dresidual = g
        dx = gamma / s (g - sum(g) / m - xh sum(g xh) / (m - ddof))     statistics of the batch
        dx = gamma / s g                                                statistics given

    Where places have weights w, m is their sum, and the last two terms of dx are w times as large;
    the sums of g are over all places, unweighted.

    (Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167, section 3, for ddof = 0.) Two slips
    of the text this library began from have been copied widely: a dgamma with the mean in the
    place of xh, and the dx of a variance over m beside a variance over m - 1. The sums here are
    those of the variance that was used, whichever it was.

    Parameters
    ----------
    dy : array of y's shape and type, any strides
    context : BatchNormContext
        From the forward.
    sums : array (2, ...) of float64, or callable, optional
        Where the forward was given `moments`: the sum of the `batch_norm_gradient_sums` of all
        parts of the whole. dx is then the exact gradient of the whole; dgamma and dbeta are this
        part's own, which over the parts add up to the whole's. A callable is called once with the
        sums of this part and returns those of the whole: it spares a pass for dgamma and dbeta.
        Without `sums` the other parts are constants, as in cross-iteration batch norm.
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
        A shape does not fit, out overlaps an input, the context has been changed, or there are
        sums and the forward was given no moments.
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
    _check_context(function, dy, context)
    x, gamma, beta, residual = context[:4]
    if sums is not None:
        sums = check_sums(function, sums, context)
    wanted = _ALL if needs is None else checks.needs(function, needs, BatchNormGradients._fields)
    if out is None:
        out = _NOWHERE
    else:
        sources = {"dx": x, "dresidual": residual, "dgamma": gamma, "dbeta": beta}
        inputs = {
            "dy": dy, "x": x, "residual": residual, "gamma": gamma, "beta": beta,
            "context.statistics": context.statistics,
        }  # fmt: skip
        over = {"dx": ("dy",), "dresidual": ("dy",)}
        check_places(function, BatchNormGradients, out, wanted, sources, inputs, over=over)

    return BatchNormGradients(*launch.differentiate(dy, context, wanted, out, sums))


def batch_norm_gradient_sums(dy: Array, context: BatchNormContext) -> Array:
    """What a part of a batch adds to the sums that the gradient of the whole needs.

    With g = dy activation'(z) and xh = (x - mean) / s, for each channel, over the values of x::

        sum(g)        sum(g xh)

    Parameters
    ----------
    dy : array of y's shape and type, any strides
    context : BatchNormContext
        From a `batch_norm_forward` with `moments`, or the `normalization` of a
        `DenseBatchNormContext` or `Conv2dBatchNormContext`.

    Returns
    -------
    array (2, ...) of float64, the kept axes last
        To be added up over all parts, for the `sums` of `batch_norm_backward`.

    Raises
    ------
    ValueError
        A shape does not fit, or the context has been changed.
    TypeError
        An argument is of the wrong type, such as the context of another function.

    Examples
    --------
    Two parts of a batch, as two machines may have them:

    >>> import numpy as np
    >>> from nbnorm import (
    ...     Moments, batch_norm_backward, batch_norm_forward, batch_norm_gradient_sums
    ... )
    >>> parts = [np.array([[1.0], [2.0]]), np.array([[6.0]])]
    >>> whole = sum(Moments.of(part) for part in parts)
    >>> contexts = [batch_norm_forward(part, moments=whole)[1] for part in parts]
    >>> dy = [np.array([[1.0], [0.0]]), np.array([[2.0]])]
    >>> total = sum(batch_norm_gradient_sums(*one) for one in zip(dy, contexts))
    >>> dx = [batch_norm_backward(*one, sums=total).dx for one in zip(dy, contexts)]
    >>> x, context = batch_norm_forward(np.concatenate(parts))
    >>> np.allclose(np.concatenate(dx), batch_norm_backward(np.concatenate(dy), context).dx)
    True
    """
    _check_context("batch_norm_gradient_sums", dy, context)
    return launch.gradient_sums(dy, context)


def check_sources(
    function: str,
    x: Array,
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    normalization: Normalization,
    moments: Given | None,
    sample_weight: Array | None,
    *,
    callable_only: bool = False,
) -> Normalization:
    """The normalization of a y of a shape, with `moments=` and `sample_weight=` checked."""
    if normalization.statistics is not None:
        name, given = ("sample_weight", sample_weight) if moments is None else ("moments", moments)
        raise checks.wrong_value(function, name, given, "None beside statistics")
    ddof = normalization.ddof
    if sample_weight is not None:
        weights = check_weights(function, shape, axes, sample_weight, x.dtype)
        if moments is None:
            check_total(function, weights, ddof)
        normalization = normalization._replace(weights=weights)
    if moments is not None:
        kept = tuple(shape[axis] for axis in axes)
        whole = check_whole(
            function, moments, kept, ddof, weighted=sample_weight is not None,
            callable_only=callable_only,
        )  # fmt: skip
        normalization = normalization._replace(whole=whole)
    return normalization


def _check_context(function: str, dy: Array, context: BatchNormContext) -> None:
    if type(context) is not BatchNormContext:
        raise checks.wrong_type(
            function, "context", context, "the BatchNormContext of a batch_norm_forward"
        )
    if not fits(context):
        raise unfit(function, context)
    checks.like(function, "dy", dy, context.x.shape, context.x.dtype)
