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
    too_few_values,
)
from nbnorm.functional.contexts import BatchNormContext, fits, unfit
from nbnorm.launch import batch_norm as launch
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
    normalization = check_normalization(
        function, x, x.shape, layout.kept, gamma=gamma, beta=beta, statistics=statistics, eps=eps,
        ddof=ddof, activation=activation, residual=residual,
    )  # fmt: skip
    n, _, s = layout.shape
    if statistics is None and n * s < 2:
        raise too_few_values(function, x)
    if out is not None:
        inputs = {"x": x, "residual": residual, "gamma": gamma, "beta": beta}
        checks.writable(function, "out", out, x.shape, x.dtype, inputs)

    y, used = launch.normalize(x, layout, normalization, out)
    return y, BatchNormContext.of(x, layout, normalization, used, n * s)


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
        activation=activation, residual=residual,
    )  # fmt: skip
    if out is not None:
        inputs = {"x": x, "residual": residual}
        checks.writable(function, "out", out, x.shape, x.dtype, inputs, over=("x", "residual"))

    y, _ = launch.normalize(x, layout, normalization, out)
    return y


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
    if not fits(context):
        raise unfit(function, context)
    x, gamma, beta, residual = context[:4]
    checks.like(function, "dy", dy, x.shape, x.dtype)
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

    return BatchNormGradients(*launch.differentiate(dy, context, wanted, out))
