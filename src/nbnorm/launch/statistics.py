"""Statistics and sums of channels, from arrays or from sums that a product took on its way."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from nbnorm.kernels.batch_norm import moments
from nbnorm.launch.layout import flat, layout_of
from nbnorm.launch.machine import whole_vectors
from nbnorm.launch.plans import Columns, Planes, Shape, columns_plan, elementwise_plan
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


def sums_about(counts: Array, channels: int, dtype: np.dtype[Any]) -> Summed:
    """Scratch for the sums of blocks of so many values of each channel."""
    ld = whole_vectors(channels, dtype.itemsize)
    return Summed(
        scratch.take("block sums", (len(counts), 2, ld), np.float64),
        scratch.take("block pivots", (len(counts), 3, ld), dtype),
        counts,
    )


def channel_parameters(gamma: Array | None, beta: Array | None, c: int) -> Array:
    """Gamma and beta as kernels take them: (2, c) in float64, 1 and 0 where not given."""
    parameters = scratch.take("parameters", (2, c), np.float64)
    parameters[0] = 1.0 if gamma is None else gamma if gamma.ndim == 1 else gamma.reshape(-1)
    parameters[1] = 0.0 if beta is None else beta if beta.ndim == 1 else beta.reshape(-1)
    return parameters


def finish_slices(
    plan: Planes | Columns,
    statistics: Array,
    constants: Array,
    folded: Array,
    x: Array,
    parameters: Array,
    eps: float,
    ddof: int,
) -> None:
    """Statistics and constants of all channels of x, which is summed twice if a pivot was bad."""
    moments.place_pivots(constants, folded, x, plan.spans, plan.shape)
    for attempt in range(2):
        slices = plan.sum(None, x, None, constants, None)
        if not moments.settle_slices(
            statistics, constants, folded, slices, x, parameters, plan.spans, eps, ddof, attempt,
            plan.shape,
        ):  # fmt: skip
            break


def finish_blocks(
    plan: Planes | Columns,
    statistics: Array,
    constants: Array,
    folded: Array,
    summed: Summed,
    x: Array,
    parameters: Array,
    eps: float,
    ddof: int,
) -> bool:
    """As `finish_slices`, from sums already taken; False where their pivots were bad."""
    return not moments.settle_blocks(
        statistics, constants, folded, *summed, x, parameters, plan.spans, eps, ddof, plan.shape
    )


def channel_statistics(x: Array, shape: Shape, summed: Summed | None = None) -> Array:
    """Mean, variance over m and its inverse root (3, c) of an x that is only to be read."""
    statistics = np.empty((3, shape[1]))
    if x.size > 0:  # there are channels
        plan = elementwise_plan(shape, x.itemsize)
        constants, folded = plan.constants(3, x.dtype)
        parameters = channel_parameters(None, None, shape[1])
        channels = statistics, constants, folded
        if summed is None or not finish_blocks(plan, *channels, summed, x, parameters, 0.0, 0):
            finish_slices(plan, *channels, x, parameters, 0.0, 0)
    return statistics


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
