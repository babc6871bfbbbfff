"""Batch norm whose statistics are the batch's, one tile doing all for a block of channels.

A tile sums its channels, finishes their statistics and writes before the next one begins, so that
the second pass over its values hits the L2 cache and memory is read once. Where a block of channels
is too large for that (channels-last with many rows) or there are too few (large images of three
channels), the same pieces run one after the other over slices of the channels: `sum_planes` or
`sum_columns`, then `settle_slices` or `fold_gradient_slices`, then `normalize_planes`,
`apply_planes` and so on.
"""

from __future__ import annotations

from nbnorm.jit.options import worker
from nbnorm.jit.parallel import parallel
from nbnorm.kernels.batch_norm.gradients import apply_block, apply_run, finish_gradients
from nbnorm.kernels.batch_norm.moments import (
    choose_pivot,
    choose_pivots_of_columns,
    finish_statistics,
)
from nbnorm.kernels.batch_norm.normalize import (
    channel_constants,
    normalize_block,
    normalize_run,
)
from nbnorm.kernels.batch_norm.sums import sum_block, sum_channels


@worker
def forward_planes(
    lo, hi, y, statistics, sums, constants, x, residual, parameters, eps, ddof, activation, stream,
    width, shape,
):  # fmt: skip
    """Batch norm of planes; tile t is the channels t width to (t + 1) width - 1.

    lo, hi      tiles
    y           (n c s,), written
    statistics  (4, c) float64: mean, var, inv_std and the mean's rest, written
    sums        (2, c) float64, scratch
    constants   (3, c) of the data's type, scratch
    x           (n c s,)
    residual    (n c s,) or None
    parameters  (c,) and (c,), float32 or float64: gamma, beta
    activation  None or a tuple of activations.py
    stream      whether y is written past the caches
    shape       (n, c, s)
    """
    n, c, s = shape
    for tile in range(lo, hi):
        first = tile * width
        last = min(first + width, c)
        for channel in range(first, last):
            choose_pivot(constants, x, channel, shape)
        for attempt in range(2):
            sum_channels(sums, None, x, None, None, constants, (first, last), (0, n), None, shape)
            moved = finish_statistics(
                statistics, constants, sums, x, None, n * s, parameters, first, last, eps, ddof,
                attempt, shape,
            )  # fmt: skip
            if moved == 0:
                break
        # The last planes first: they are still in cache when the channel is larger than it.
        for sample in range(n - 1, -1, -1):
            start = (sample * c + first) * s
            end = start + (last - first) * s
            normalize_run(y, x, residual, start, end, constants, first, s, activation, stream, c, s)


forward_planes_parallel = parallel(forward_planes)


@worker
def forward_columns(
    lo, hi, y, statistics, sums, constants, x, residual, parameters, eps, ddof, activation, stream,
    width, shape,
):  # fmt: skip
    """Batch norm of columns; tile t is the channels t width to (t + 1) width - 1.

    sums        (2, ld), constants (3, ld); `width` is a number of whole vectors
    The other arguments are those of `forward_planes`. s is 1: a column is a channel.
    """
    n, c, _ = shape
    for tile in range(lo, hi):
        first = tile * width
        last = min(first + width, c)
        choose_pivots_of_columns(constants, x, first, last, n, c)
        for attempt in range(2):
            sums[:, first:last] = 0.0
            sum_block(sums, None, x, None, None, constants, (0, n), (first, last), c, None)
            moved = finish_statistics(
                statistics, constants, sums, x, None, n, parameters, first, last, eps, ddof,
                attempt, shape,
            )  # fmt: skip
            if moved == 0:
                break
        normalize_block(y, x, residual, constants, (0, n), (first, last), c, activation, stream)


forward_columns_parallel = parallel(forward_columns)


@worker
def backward_planes(
    lo, hi, dx, dresidual, gradients, sums, constants, dy, x, residual, statistics, parameters,
    ddof, activation, frozen, stream, width, shape,
):  # fmt: skip
    """Gradients of planes; tile t is the channels t width to (t + 1) width - 1.

    lo, hi      tiles
    dx          (n c s,), written, or None; may be dy
    dresidual   (n c s,), written, or None
    gradients   (2, c) float64: dgamma, dbeta, written
    sums        (2, c) float64, scratch
    constants   (7, c) of the data's type, scratch
    dy, x       (n c s,)
    residual    (n c s,) or None
    statistics  (4, c) float64: mean, var, inv_std and the mean's rest
    parameters  (c,) and (c,), float32 or float64: gamma, beta
    activation  None or a tuple of activations.py
    frozen      whether the statistics were given
    stream      whether dx is written past the caches
    shape       (n, c, s)
    """
    n, c, s = shape
    for tile in range(lo, hi):
        first = tile * width
        last = min(first + width, c)
        channel_constants(constants, statistics, parameters, first, last)
        sum_channels(
            sums, dy, x, residual, None, constants, (first, last), (0, n), activation, shape
        )
        finish_gradients(
            gradients, constants, sums, statistics, parameters, first, last, n * s, ddof, frozen
        )
        if dx is None and dresidual is None:
            continue
        for sample in range(n - 1, -1, -1):
            start = (sample * c + first) * s
            end = start + (last - first) * s
            apply_run(
                dx, dresidual, dy, x, residual, None, start, end, constants, first, s, activation,
                frozen, stream, c, s,
            )  # fmt: skip


backward_planes_parallel = parallel(backward_planes)


@worker
def backward_columns(
    lo, hi, dx, dresidual, gradients, sums, constants, dy, x, residual, statistics, parameters,
    ddof, activation, frozen, stream, width, shape,
):  # fmt: skip
    """Gradients of columns; tile t is the channels t width to (t + 1) width - 1.

    sums        (2, ld), constants (7, ld); `width` is a number of whole vectors
    The other arguments are those of `backward_planes`. s is 1: a column is a channel.
    """
    n, c, _ = shape
    for tile in range(lo, hi):
        first = tile * width
        last = min(first + width, c)
        channel_constants(constants, statistics, parameters, first, last)
        sums[:, first:last] = 0.0
        sum_block(sums, dy, x, residual, None, constants, (0, n), (first, last), c, activation)
        finish_gradients(
            gradients, constants, sums, statistics, parameters, first, last, n, ddof, frozen
        )
        if dx is None and dresidual is None:
            continue
        apply_block(
            dx, dresidual, dy, x, residual, None, constants, (0, n), (first, last), c,
            activation, frozen, stream,
        )  # fmt: skip


backward_columns_parallel = parallel(backward_columns)
