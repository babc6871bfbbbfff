"""Batch normalization with statistics over the last few batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nbnorm import checks
from nbnorm.functional.arguments import (
    Activation,
    check_input,
    check_normalization,
    check_statistics,
    size,
)
from nbnorm.functional.contexts import BatchNormContext
from nbnorm.launch import batch_norm as launch
from nbnorm.launch.layout import Layout, flat
from nbnorm.launch.statistics import channel_statistics
from nbnorm.typing import Array

PARTS = "a sequence of BatchStatistics"

# Of one batch: the sum over a thousand of them is still exact as an int of the kernels.
MOST_VALUES = 2**53 - 1


class BatchStatistics(NamedTuple):
    """What is kept of a batch, or of several.

    mean, var : float64 arrays in the shape of the kept axes
        var is over the number of values, not one less.
    count : int
        The number of values in a channel.
    """

    mean: Array
    var: Array
    count: int  # type: ignore[assignment]  # not tuple.count


def batch_statistics(x: Array, *, axis: int | tuple[int, ...] = 1) -> BatchStatistics:
    """Mean and variance of each channel, in one pass and without loss by a large mean.

    Parameters
    ----------
    x : array of float32 or float64, any shape of two axes or more, any strides
    axis : int or tuple of int
        The axis or axes that keep statistics of their own; all others are reduced.

    Returns
    -------
    BatchStatistics

    Raises
    ------
    ValueError
        A channel has no values, or axis does not fit.
    TypeError
        An argument is of the wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import batch_statistics
    >>> batch_statistics(np.array([[1.0, 10.0], [3.0, 30.0]]))
    BatchStatistics(mean=array([ 2., 20.]), var=array([  1., 100.]), count=2)
    """
    layout = _check_batch("batch_statistics", x, axis)
    return _statistics_of(x, layout)


def merge_statistics(parts: Sequence[BatchStatistics]) -> BatchStatistics:
    """The statistics of several batches together.

    With counts m_i that add up to m::

        mean = sum(m_i mean_i) / m        var = sum(m_i (var_i + (mean_i - mean)^2)) / m

    (the rule of Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing
    sample variances", 1979, for many parts): nothing is lost by a large mean, and no variance comes
    out negative, as they would by the mean of the squares minus the square of the mean.

    Parameters
    ----------
    parts : one or more BatchStatistics of the same shape

    Returns
    -------
    BatchStatistics

    Raises
    ------
    ValueError
        There is none, shapes differ, a variance is negative or a count below 1 or from 2**53 on.
    TypeError
        One of them is no BatchStatistics.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import batch_statistics, merge_statistics
    >>> x = np.array([[1.0], [2.0], [6.0], [7.0], [9.0]])
    >>> merge_statistics([batch_statistics(x[:2]), batch_statistics(x[2:])])
    BatchStatistics(mean=array([5.]), var=array([9.2]), count=5)
    """
    checked = _check_parts("merge_statistics", "parts", parts)
    if not checked:
        expected = "one BatchStatistics or more"
        raise checks.wrong_value("merge_statistics", "parts", parts, expected)
    return _merged(checked)


def cross_iteration_batch_norm_forward(
    x: Array,
    earlier: Sequence[BatchStatistics],
    gamma: Array | None = None,
    beta: Array | None = None,
    *,
    axis: int | tuple[int, ...] = 1,
    eps: float = 1e-5,
    ddof: int = 0,
    activation: Activation = None,
    residual: Array | None = None,
    out: Array | None = None,
) -> tuple[Array, BatchNormContext, BatchStatistics]:
    """Normalize each channel by the mean and variance of this batch and earlier ones together.

    For batches too small to have good statistics of their own (Yao, Cao, Zheng, Huang and Lin,
    "Cross-Iteration Batch Normalization", 2020, https://arxiv.org/abs/2002.05712). mean and var are
    those of `merge_statistics`, m counts all the values, and as in `batch_norm_forward`::

        y = activation(gamma (x - mean) / sqrt(var m / (m - ddof) + eps) + beta + residual)

    What was kept of earlier batches is constant; the gradient goes through what this batch has
    in mean and var. It turns out to be that of all the values together, seen by those of x: with
    xh = (x - mean) / s, and g the gradient past the activation, sums over x alone, m over all::

        dx = gamma / s (g - sum(g) / m - xh sum(g xh) / (m - ddof))

    `batch_norm_backward` works it out. (The paper gives every batch the same weight, which is the
    same for batches of one size; here, every value has.)

    Parameters
    ----------
    x : array of float32 or float64, any shape of two axes or more, any strides
    earlier : sequence of BatchStatistics
        What the calls for earlier batches returned, as many as are to count; may be empty.
    gamma, beta, axis, eps, ddof, activation, residual, out
        As in `batch_norm_forward`.

    Returns
    -------
    y : array of x's shape and type
    context : BatchNormContext
        For `batch_norm_backward`; holds the merged statistics and the count of all values.
    own : BatchStatistics
        Those of x alone, to be kept for later batches.

    Raises
    ------
    ValueError
        A shape does not fit, a value is out of range, a channel has fewer than two values over all
        batches or none in this one.
    TypeError
        An argument is of the wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm import batch_norm_backward, cross_iteration_batch_norm_forward
    >>> first, second = np.array([[1.0], [3.0]]), np.array([[5.0], [7.0]])
    >>> _, _, own = cross_iteration_batch_norm_forward(first, [])
    >>> y, context, _ = cross_iteration_batch_norm_forward(second, [own], eps=0.0)
    >>> context.mean, context.var, context.count
    (array([4.]), array([5.]), 4)
    >>> batch_norm_backward(np.array([[1.0], [0.0]]), context).dx.round(3)
    array([[ 0.313],
           [-0.179]])
    """
    function = "cross_iteration_batch_norm_forward"
    layout = _check_batch(function, x, axis)
    parts = _check_parts(function, "earlier", earlier)
    for part in parts:
        if part.mean.shape != layout.kept:
            raise checks.wrong_value(function, "earlier", part.mean, f"means of {layout.kept}")
    normalization = check_normalization(
        function, x, x.shape, layout.kept, gamma=gamma, beta=beta, eps=eps, ddof=ddof,
        activation=activation, residual=residual,
    )  # fmt: skip
    if not parts and layout.shape[0] * layout.shape[2] < 2:
        expected = "two values or more in each channel, with those of earlier batches"
        raise checks.wrong_value(function, "x", x, expected)
    if out is not None:
        inputs = {"x": x, "residual": residual, "gamma": gamma, "beta": beta}
        checks.writable(function, "out", out, x.shape, x.dtype, inputs)

    own = _statistics_of(x, layout)
    merged = _merged([own, *parts])
    var = merged.var * (merged.count / (merged.count - normalization.ddof))
    given = normalization._replace(statistics=(merged.mean, var))
    y, used = launch.normalize(x, layout, given, out)
    # Not frozen: its own part of the statistics has a gradient.
    context = BatchNormContext.of(x, layout, normalization, used, merged.count)
    return y, context, own


def _statistics_of(x: Array, layout: Layout) -> BatchStatistics:
    n, _, s = layout.shape
    mean, var, _ = channel_statistics(flat(x, layout), layout.shape).reshape(3, *layout.kept)
    return BatchStatistics(mean, var, n * s)


@np.errstate(invalid="ignore", over="ignore")  # of an infinite mean; kernels do not warn either
def _merged(parts: Sequence[BatchStatistics]) -> BatchStatistics:
    count = sum(part.count for part in parts)
    # About the first mean, so that equal means merge to themselves, bit for bit.
    first = np.where(np.isfinite(parts[0].mean), parts[0].mean, 0.0)
    mean = first + sum((part.mean - first) * (part.count / count) for part in parts)
    var = sum((part.var + (part.mean - mean) ** 2) * (part.count / count) for part in parts)
    return BatchStatistics(np.asarray(mean), np.asarray(var), count)


def _check_batch(function: str, x: Any, axis: Any) -> Layout:
    layout = check_input(function, x, axis)
    if layout.shape[0] * layout.shape[2] < 1:
        raise checks.wrong_value(function, "x", x, "one value or more in each channel")
    return layout


def _check_parts(function: str, name: str, parts: Any) -> list[BatchStatistics]:
    checked = []
    for part in check_sequence(function, name, parts):
        if not isinstance(part, BatchStatistics):
            raise checks.wrong_type(function, name, part, PARTS)
        checks.array(function, "mean", part.mean)
        check_statistics(function, parts[0].mean.shape, (part.mean, part.var))
        count = size(function, "count", part.count, most=MOST_VALUES)
        mean, var = (np.asarray(given, np.float64) for given in (part.mean, part.var))
        checked.append(BatchStatistics(mean, var, count))
    return checked


def check_sequence(function: str, name: str, parts: Any) -> Sequence[Any]:
    """A sequence that may be of BatchStatistics."""
    one = isinstance(parts, (BatchStatistics, str, bytes))
    if one or not isinstance(parts, Sequence):
        raise checks.wrong_type(function, name, parts, PARTS)
    return parts
