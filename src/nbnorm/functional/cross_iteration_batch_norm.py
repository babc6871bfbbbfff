"""Batch normalization with statistics over the last few batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nbnorm import checks
from nbnorm.functional.arguments import Activation, check_input, check_normalization
from nbnorm.functional.contexts import BatchNormContext
from nbnorm.functional.moments import Moments, check_moments, whole_from
from nbnorm.launch import batch_norm as launch
from nbnorm.typing import Array

PARTS = "a sequence of Moments"


def cross_iteration_batch_norm_forward(
    x: Array,
    earlier: Sequence[Moments],
    gamma: Array | None = None,
    beta: Array | None = None,
    *,
    axis: int | tuple[int, ...] = 1,
    eps: float = 1e-5,
    ddof: int = 0,
    activation: Activation = None,
    residual: Array | None = None,
    out: Array | None = None,
) -> tuple[Array, BatchNormContext, Moments]:
    """Normalize each channel by the mean and variance of this batch and earlier ones together.

    For batches too small to have good statistics of their own (Yao, Cao, Zheng, Huang and Lin,
    "Cross-Iteration Batch Normalization", 2020, https://arxiv.org/abs/2002.05712). mean and var are
    those of the sum of all `Moments`, m counts all the values, and as in `batch_norm_forward`,
    whose `moments` could be given them::

        y = activation(gamma (x - mean) / sqrt(var + eps) + beta + residual)

    What was kept of earlier batches is constant; the gradient goes through what this batch has
    in mean and var. It turns out to be that of all the values together, seen by those of x: with
    xh = (x - mean) / s, and g the gradient past the activation, sums over x alone, m over all::

        dx = gamma / s (g - sum(g) / m - xh sum(g xh) / (m - ddof))

    `batch_norm_backward` works it out. (The paper gives every batch the same weight, which is the
    same for batches of one size; here, every value has.)

    Parameters
    ----------
    x : array of float32 or float64, any shape of two axes or more, any strides
    earlier : sequence of Moments
        What the calls for earlier batches returned, as many as are to count; may be empty.
    gamma, beta, axis, eps, ddof, activation, residual, out
        As in `batch_norm_forward`.

    Returns
    -------
    y : array of x's shape and type
    context : BatchNormContext
        For `batch_norm_backward`; holds the merged statistics and the count of all values.
    own : Moments
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
    (array([4.]), array([5.]), 4.0)
    >>> batch_norm_backward(np.array([[1.0], [0.0]]), context).dx.round(3)
    array([[ 0.313],
           [-0.179]])
    """
    function = "cross_iteration_batch_norm_forward"
    layout = check_input(function, x, axis)
    n, _, s = layout.shape
    if n * s < 1:
        raise checks.wrong_value(function, "x", x, "one value or more in each channel")
    for part in check_sequence(function, "earlier", earlier):
        check_moments(function, "earlier", part, layout.kept)
    normalization = check_normalization(
        function, x, x.shape, layout.kept, gamma=gamma, beta=beta, eps=eps, ddof=ddof,
        activation=activation, residual=residual,
    )  # fmt: skip
    count = n * s + sum(part.count for part in earlier)
    if count < 2:
        expected = "two values or more in each channel, with those of earlier batches"
        raise checks.wrong_value(function, "x", x, expected)
    if out is not None:
        inputs = {"x": x, "residual": residual, "gamma": gamma, "beta": beta}
        checks.writable(function, "out", out, x.shape, x.dtype, inputs)

    own = Moments.of_layout(x, layout)
    merged = sum(earlier, own)
    whole = whole_from(function, "x with earlier", merged, normalization.ddof)
    y, saved = launch.normalize(x, layout, normalization._replace(whole=whole), out)
    return y, BatchNormContext(*saved), own


def check_sequence(function: str, name: str, parts: Any) -> Sequence[Any]:
    """A sequence that may be of Moments."""
    if isinstance(parts, (str, bytes)) or not isinstance(parts, Sequence):
        raise checks.wrong_type(function, name, parts, PARTS)
    return parts
