"""Batch norm on checked arguments: choose the kernels, lend them memory, run them."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np

from nbnorm.jit.threads import run
from nbnorm.kernels.batch_norm import fused, gradients, moments, normalize, sums
from nbnorm.launch.layout import Layout, flat, layout_of
from nbnorm.launch.machine import whole_vectors
from nbnorm.launch.outputs import destination
from nbnorm.launch.plan import Plan, elementwise_plan, training_plan
from nbnorm.launch.scratch import ALIGNMENT, address, scratch
from nbnorm.typing import Array

Shape: TypeAlias = tuple[int, int, int]

# Worker and driver of planes and of columns.
_FORWARD = (
    (fused.forward_planes, fused.forward_planes_parallel),
    (fused.forward_columns, fused.forward_columns_parallel),
)
_BACKWARD = (
    (fused.backward_planes, fused.backward_planes_parallel),
    (fused.backward_columns, fused.backward_columns_parallel),
)


def channel_parameters(gamma: Array | None, beta: Array | None, c: int) -> Array:
    """Gamma and beta as kernels take them: (2, c) in float64, 1 and 0 where not given."""
    parameters = scratch.take("parameters", (2, c), np.float64)
    parameters[0] = 1.0 if gamma is None else gamma if gamma.ndim == 1 else gamma.reshape(-1)
    parameters[1] = 0.0 if beta is None else beta if beta.ndim == 1 else beta.reshape(-1)
    return parameters


def _constants(plan: Plan, rows: int, c: int, dtype: Any) -> tuple[Array, Array]:
    """Scratch for `constants` and `folded`: see kernels/channels.py."""
    constants = scratch.take("constants", (rows, plan.stride), dtype)
    if plan.spans[0] == plan.spans[1] == 1:
        return constants, constants
    return constants, scratch.take("folded", (rows, c), dtype)


def _streams(written: Array | None, plan: Plan) -> bool:
    """Whether to write past the caches; columns can be so only on cache lines throughout."""
    if written is None or not plan.streamed:
        return False
    if not plan.columns:
        return True
    row_bytes = plan.row_length * written.itemsize
    return address(written) % ALIGNMENT == 0 and row_bytes % ALIGNMENT == 0


def _sum_slices(
    plan: Plan,
    shape: Shape,
    dy: Array | None,
    x: Array,
    residual: Array | None,
    constants: Array,
    activation: Any,
) -> Array:
    slices = scratch.take("sums", (plan.tiles, 2, plan.stride), np.float64)
    arguments = (slices, dy, x, residual, constants, activation)
    if plan.columns:
        run(
            sums.sum_columns, sums.sum_columns_parallel, plan.tiles, plan.parallel, *arguments,
            plan.width, plan.row_length,
        )  # fmt: skip
    else:
        run(
            sums.sum_planes, sums.sum_planes_parallel, plan.tiles * shape[1], plan.parallel,
            *arguments, shape,
        )  # fmt: skip
    return slices


def _normalize(
    plan: Plan,
    shape: Shape,
    y: Array,
    x: Array,
    residual: Array | None,
    constants: Array,
    activation: Any,
    stream: bool,
) -> None:
    arguments = (y, x, residual, constants, activation, stream, plan.width)
    if plan.columns:
        run(
            normalize.normalize_columns, normalize.normalize_columns_parallel, plan.pieces,
            plan.parallel, *arguments, plan.row_length,
        )  # fmt: skip
    else:
        run(
            normalize.normalize_planes, normalize.normalize_planes_parallel, plan.pieces,
            plan.parallel, *arguments, shape,
        )  # fmt: skip


def apply_statistics(
    x: Array,
    kept: Array,
    gamma: Array | None,
    beta: Array | None,
    layout: Layout,
    eps: float,
    activation: Any,
    residual: Array | None,
    out: Array | None,
) -> Array:
    """Y from the mean and variance in `kept`, where inv_std is added."""
    y = destination(out, x.shape, x.dtype, layout.order)
    if x.size:
        c = layout.shape[1]
        plan = elementwise_plan(layout.shape, x.itemsize)
        constants, folded = _constants(plan, 3, c, x.dtype)
        normalize.fold_given(
            constants,
            folded,
            kept.reshape(3, c),
            channel_parameters(gamma, beta, c),
            eps,
            plan.spans,
        )
        _normalize(
            plan, layout.shape, y.written, flat(x, layout),
            None if residual is None else flat(residual, layout), constants, activation,
            _streams(y.written, plan),
        )  # fmt: skip
    return y.deliver()


def normalize_batch(
    y: Array,
    statistics: Array,
    x: Array,
    residual: Array | None,
    parameters: Array,
    shape: Shape,
    eps: float,
    ddof: int,
    activation: Any,
) -> None:
    """Y from the statistics of the batch, which are written to `statistics`."""
    if x.size == 0:  # no channels
        return
    plan = training_plan(shape, x.itemsize, 2)
    constants, folded = _constants(plan, 3, shape[1], x.dtype)
    stream = _streams(y, plan)
    if plan.fused:
        run(
            *_FORWARD[plan.columns], plan.tiles, plan.parallel, y, statistics,
            scratch.take("sums", (2, plan.stride), np.float64), constants, x, residual, parameters,
            eps, ddof, activation, stream, plan.width, shape,
        )  # fmt: skip
        return
    _settle(plan, shape, statistics, constants, folded, x, parameters, eps, ddof)
    _normalize(plan, shape, y, x, residual, constants, activation, stream)


def _settle(
    plan: Plan,
    shape: Shape,
    statistics: Array,
    constants: Array,
    folded: Array,
    x: Array,
    parameters: Array,
    eps: float,
    ddof: int,
) -> None:
    """Statistics and constants of all channels, from sums of slices."""
    moments.place_pivots(constants, folded, x, plan.spans, shape)
    for attempt in range(2):
        slices = _sum_slices(plan, shape, None, x, None, constants, None)
        if not moments.settle_slices(
            statistics, constants, folded, slices, x, parameters, plan.spans, eps, ddof, attempt,
            shape,
        ):  # fmt: skip
            break


def channel_statistics(x: Array, shape: Shape) -> Array:
    """Mean, variance over m and its inverse root (3, c), of an x that is only to be read."""
    statistics = np.empty((3, shape[1]))
    if x.size > 0:  # there are channels
        plan = elementwise_plan(shape, x.itemsize)
        constants, folded = _constants(plan, 3, shape[1], x.dtype)
        parameters = channel_parameters(None, None, shape[1])
        _settle(plan, shape, statistics, constants, folded, x, parameters, 0.0, 0)
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
    plan = elementwise_plan((n, c, 1), x.itemsize)
    slices = scratch.take("sums", (plan.tiles, plan.row_length), np.float64)
    run(
        sums.add_columns, sums.add_columns_parallel, plan.tiles, plan.parallel, slices, x,
        plan.width, plan.row_length,
    )  # fmt: skip
    # Along rows NumPy adds by halves.
    return np.ascontiguousarray(slices.reshape(-1, c).T).sum(axis=1)


class Summed(NamedTuple):
    """Sums of the channels that a product took on its way, block by block."""

    sums: Array
    pivots: Array
    counts: Array


def sums_about(counts: Array, channels: int, dtype: np.dtype[Any]) -> Summed:
    """Scratch for the sums of blocks of so many values of each channel."""
    stride = whole_vectors(channels, dtype.itemsize)
    return Summed(
        scratch.take("block sums", (len(counts), 2, stride), np.float64),
        scratch.take("block pivots", (len(counts), 3, stride), dtype),
        counts,
    )


def summed_statistics(summed: Summed, x: Array, shape: Shape) -> Array:
    """As `channel_statistics`, from sums already taken."""
    plan = elementwise_plan(shape, x.itemsize)
    statistics = np.empty((3, shape[1]))
    constants, folded = _constants(plan, 3, shape[1], x.dtype)
    parameters = channel_parameters(None, None, shape[1])
    bad = moments.settle_blocks(
        statistics, constants, folded, *summed, x, parameters, plan.spans, 0.0, 0, shape
    )
    return channel_statistics(x, shape) if bad else statistics


def normalize_summed(
    y: Array,
    statistics: Array,
    x: Array,
    residual: Array | None,
    parameters: Array,
    shape: Shape,
    eps: float,
    ddof: int,
    activation: Any,
    summed: Summed | None,
) -> None:
    """As `normalize_batch`, with sums already taken.

    It starts anew where there are none, or where their pivots were bad.
    """
    plan = elementwise_plan(shape, x.itemsize)
    constants, folded = _constants(plan, 3, shape[1], x.dtype)
    if summed is None or moments.settle_blocks(
        statistics, constants, folded, *summed, x, parameters, plan.spans, eps, ddof, shape
    ):
        normalize_batch(y, statistics, x, residual, parameters, shape, eps, ddof, activation)
    else:
        _normalize(plan, shape, y, x, residual, constants, activation, _streams(y, plan))


def differentiate(
    dx: Array | None,
    dresidual: Array | None,
    both: Array,
    dy: Array,
    x: Array,
    residual: Array | None,
    statistics: Array,
    parameters: Array,
    shape: Shape,
    ddof: int,
    activation: Any,
    frozen: bool,
    *,
    count: int,
    sums_needed: bool,
) -> None:
    """The gradients: dx and dresidual unless they are None, dgamma and dbeta into `both`.

    `count` is the number of values that the statistics were taken of: more than a channel of x has
    where those of earlier batches were merged in. Fused kernels count for themselves.
    """
    n, c, s = shape
    if count == n * s:
        plan = training_plan(shape, x.itemsize, 3)
    else:
        plan = elementwise_plan(shape, x.itemsize)
    constants, folded = _constants(plan, 7, c, x.dtype)
    stream = _streams(dx, plan)
    if plan.fused:
        run(
            *_BACKWARD[plan.columns], plan.tiles, plan.parallel, dx, dresidual, both,
            scratch.take("sums", (2, plan.stride), np.float64), constants, dy, x, residual,
            statistics, parameters, ddof, activation, frozen, stream, plan.width, shape,
        )  # fmt: skip
        return
    gradients.fold_statistics(constants, folded, statistics, parameters, plan.spans)
    if sums_needed:
        slices = _sum_slices(plan, shape, dy, x, residual, constants, activation)
    else:
        slices = np.zeros((1, 2, plan.stride))
    gradients.fold_gradient_slices(
        both, constants, folded, slices, statistics, parameters, plan.spans, count, ddof, frozen
    )
    if dx is None and dresidual is None:
        return
    arguments = (
        dx, dresidual, dy, x, residual, constants, activation, frozen, stream, plan.width,
    )  # fmt: skip
    if plan.columns:
        run(
            gradients.apply_columns, gradients.apply_columns_parallel, plan.pieces, plan.parallel,
            *arguments, plan.row_length,
        )  # fmt: skip
    else:
        run(
            gradients.apply_planes, gradients.apply_planes_parallel, plan.pieces, plan.parallel,
            *arguments, shape,
        )  # fmt: skip
