"""Statistics and sums of channels, from arrays or from sums that a product took on its way."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from nbnorm.kernels.batch_norm import moments
from nbnorm.launch.layout import flat, layout_of
from nbnorm.launch.machine import whole_vectors
from nbnorm.launch.plans import (
    Columns,
    Pair,
    Planes,
    Shape,
    columns_plan,
    elementwise_plan,
    weighted_plan,
)
from nbnorm.launch.scratch import scratch
from nbnorm.typing import Array


class Summed(NamedTuple):
    """Sums of the channels that a product took on its way, block by block.

    sums, pivots   as kernels/gemm/epilogue.py has them
    counts         values of a channel in each block
    """

    sums: Array
    pivots: Array
    counts: Array


class Weights(NamedTuple):
    """How much each place of a channel counts.

    places   of the type of x and in its shape, but for a 1 in each kept axis; or all of them in
             the order of its layout, (n s,)
    total    their sum over a channel
    """

    places: Array
    total: float


class ChannelMoments(NamedTuple):
    """What the values of each channel come to, be they a batch or a part of one.

    count      values in a channel, or the sum of their weights
    mean       (2, c) float64: head and tail, whose sum is the mean to more digits than float64 has
    squares    (c,) float64: the sum of squared deviations from the mean
    """

    count: float  # type: ignore[assignment]  # not tuple.count
    mean: Array
    squares: Array


def sums_about(counts: Array, channels: int, dtype: np.dtype[Any]) -> Summed:
    """Scratch for the sums of blocks of so many values of each channel."""
    ld = whole_vectors(channels, dtype.itemsize)
    return Summed(
        scratch.take("block sums", (len(counts), 2, ld), np.float64),
        scratch.take("block pivots", (len(counts), 3, ld), dtype),
        counts,
    )


def channel_parameters(gamma: Array | None, beta: Array | None, c: int) -> Pair:
    """Gamma and beta as kernels take them, (c,) and (c,); 1 and 0 where not given."""
    if gamma is not None and beta is not None:
        given = as_pair(gamma, beta)
        if given is not None:
            return given
    scale = scratch.take("gamma", (c,), np.float64)
    shift = scratch.take("beta", (c,), np.float64)
    scale[:] = 1.0 if gamma is None else gamma.reshape(-1)
    shift[:] = 0.0 if beta is None else beta.reshape(-1)
    return scale, shift


def as_pair(a: Array, b: Array) -> Pair | None:
    """Two arrays of numbers a channel as they are, flat; None where a kernel cannot take them.

    It is compiled for two contiguous, writable ones of one type.
    """
    if a.dtype is not b.dtype or not (a.flags.carray and b.flags.carray):
        return None
    return (a, b) if a.ndim == 1 else (a.reshape(-1), b.reshape(-1))


def finish_slices(
    plan: Planes | Columns,
    statistics: Array,
    constants: Array,
    folded: Array,
    x: Array,
    parameters: Pair,
    eps: float,
    ddof: int,
    weights: Weights | None = None,
) -> None:
    """Statistics and constants of all channels of x, which is summed twice if a pivot was bad."""
    n, _, s = plan.shape
    places, m = (None, float(n * s)) if weights is None else weights
    moments.place_pivots(constants, folded, x, plan.spans, plan.shape)
    for attempt in range(2):
        slices = plan.sum(None, x, None, places, constants, None)
        if not moments.settle_slices(
            statistics, constants, folded, slices, x, places, m, parameters, plan.spans, eps, ddof,
            attempt, plan.shape,
        ):  # fmt: skip
            break


def finish_blocks(
    plan: Planes | Columns,
    statistics: Array,
    constants: Array,
    folded: Array,
    summed: Summed,
    x: Array,
    parameters: Pair,
    eps: float,
    ddof: int,
) -> bool:
    """As `finish_slices`, from sums already taken; False where their pivots were bad."""
    return not moments.settle_blocks(
        statistics, constants, folded, *summed, x, parameters, plan.spans, eps, ddof, plan.shape
    )


def channel_statistics(x: Array, shape: Shape, summed: Summed | None = None) -> Array:
    """The statistics (4, c), with the variance over m, of an x that is only to be read."""
    statistics = np.empty((4, shape[1]))
    if x.size > 0:  # there are channels
        plan = elementwise_plan(shape, x.itemsize)
        constants, folded = plan.constants(3, x.dtype)
        parameters = channel_parameters(None, None, shape[1])
        channels = statistics, constants, folded
        if summed is None or not finish_blocks(plan, *channels, summed, x, parameters, 0.0, 0):
            finish_slices(plan, *channels, x, parameters, 0.0, 0)
    return statistics


def channel_moments(
    x: Array, shape: Shape, weights: Weights | None = None, summed: Summed | None = None
) -> ChannelMoments:
    """The moments of a flat x, in one pass unless a pivot was bad; `summed` if already taken."""
    n, c, s = shape
    m = float(n * s) if weights is None else weights.total
    mean = np.zeros((2, c))
    if x.size == 0 or m == 0.0:
        return ChannelMoments(0.0, mean, np.zeros(c))
    plan = (elementwise_plan if weights is None else weighted_plan)(shape, x.itemsize)
    constants, folded = plan.constants(3, x.dtype)
    parameters = channel_parameters(None, None, c)
    statistics = np.empty((4, c))
    channels = statistics, constants, folded
    if summed is None or not finish_blocks(plan, *channels, summed, x, parameters, 0.0, 0):
        finish_slices(plan, *channels, x, parameters, 0.0, 0, weights)
    mean[0] = statistics[0]
    mean[1] = np.where(np.isfinite(statistics[3]), statistics[3], 0.0)
    return ChannelMoments(m, mean, statistics[1] * m)


def channel_sums(dz: Array) -> Array:
    """The sum of each channel, the last axis, in float64."""
    layout = layout_of(dz.shape, dz.strides, (dz.ndim - 1,))
    n, c, s = layout.shape
    x = flat(dz, layout)
    if x.size == 0:
        return np.zeros(c)
    if s > 1:  # along planes NumPy is as exact, and fast
        return x.reshape(n, c, s).sum(axis=2, dtype=np.float64).sum(axis=0)
    slices = columns_plan(n, c, x.itemsize).add(x)
    # Along rows NumPy adds by halves.
    return np.ascontiguousarray(slices.reshape(-1, c).T).sum(axis=1)
