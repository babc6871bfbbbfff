"""Where several channels share their statistics: group norm.

A group's channels lie side by side: its statistics are those of one long plane, and its channels
have scales and shifts of their own. With G and H the sums of gamma dbeta and gamma dgamma over the
channels of a group of m values,

    dx = a g + b xh + d      a = gamma inv_std      b = -inv_std H / m      d = -inv_std G / m

so that gradients.py writes dx, given these constants for its own.
"""

from __future__ import annotations

from nbnorm.jit.options import inlined, worker
from nbnorm.jit.parallel import parallel
from nbnorm.kernels.batch_norm.gradients import apply_run, finish_gradients
from nbnorm.kernels.batch_norm.moments import choose_pivot, finish_statistics
from nbnorm.kernels.batch_norm.normalize import channel_constants, normalize_run
from nbnorm.kernels.batch_norm.sums import sum_channels
from nbnorm.kernels.channels import (
    DY_SCALE,
    HEAD,
    INV_STD,
    OFFSET,
    SCALE,
    SHIFT,
    XH_SCALE,
    broadcast_channels,
)


@inlined
def _spread(constants, statistics, folded, parameters, first, last, channels_of_group):
    """Writes head, scale and shift of all channels of the groups first..last-1."""
    for group in range(first, last):
        head = folded[HEAD, group]
        tail = (statistics[0, group] - head) + statistics[3, group]
        for channel in range(group * channels_of_group, (group + 1) * channels_of_group):
            scale = parameters[0][channel] * statistics[2, group]
            constants[HEAD, channel] = head
            constants[SCALE, channel] = scale
            constants[SHIFT, channel] = parameters[1][channel] - tail * scale


@worker
def forward_groups(
    lo, hi, y, statistics, sums, folded, constants, x, residual, ones, parameters, eps, activation,
    stream, width, channels_of_group, shape,
):  # fmt: skip
    """Group norm of planes; tile t is the groups t width to (t + 1) width - 1.

    lo, hi      tiles
    y           (c s,), written
    statistics  (4, groups) float64: mean, var, inv_std and the mean's rest, written
    sums        (2, groups) float64, scratch
    folded      (3, groups) of the data's type, scratch
    constants   (3, c) of the data's type, scratch
    x           (c s,)
    residual    (c s,) or None
    ones        (groups,) of 1 and (groups,) of 0, float64
    parameters  (c,) and (c,) float64: gamma, beta
    activation  None or a tuple of activations.py
    stream      whether y is written past the caches
    shape       (1, c, s)
    """
    _, c, s = shape
    of_groups = 1, c // channels_of_group, channels_of_group * s
    for tile in range(lo, hi):
        first = tile * width
        last = min(first + width, of_groups[1])
        for group in range(first, last):
            choose_pivot(folded, x, group, of_groups)
        for attempt in range(2):
            sum_channels(sums, None, x, None, None, folded, (first, last), (0, 1), None, of_groups)
            moved = finish_statistics(
                statistics, folded, sums, x, None, of_groups[2], ones, first, last, eps, 0,
                attempt, of_groups,
            )  # fmt: skip
            if moved == 0:
                break
        _spread(constants, statistics, folded, parameters, first, last, channels_of_group)
        normalize_run(
            y, x, residual, first * of_groups[2], last * of_groups[2], constants,
            first * channels_of_group, s, activation, stream, c, s,
        )  # fmt: skip


forward_groups_parallel = parallel(forward_groups)


@inlined
def _share_gradients(constants, gradients, statistics, gamma, channels, channels_of_group, m):
    """Writes the constants of dx of the channels of some groups, from their dgamma and dbeta.

    constants   (7, >= c) the last four rows, written
    statistics  (4, c), the same for all channels of a group
    channels    (first, last)
    """
    for first in range(channels[0], channels[1], channels_of_group):
        along_xh = 0.0
        along_one = 0.0
        for channel in range(first, first + channels_of_group):
            along_xh += gamma[channel] * gradients[0, channel]
            along_one += gamma[channel] * gradients[1, channel]
        inv_std = statistics[2, first]
        b = -inv_std * along_xh / m
        d = -inv_std * along_one / m
        # As in gradients.py, xh is taken about the head, and its tail is in the offset.
        tail = (statistics[0, first] - constants[HEAD, first]) + statistics[3, first]
        for channel in range(first, first + channels_of_group):
            constants[DY_SCALE, channel] = gamma[channel] * inv_std
            constants[INV_STD, channel] = inv_std
            constants[XH_SCALE, channel] = b
            constants[OFFSET, channel] = d - b * (tail * inv_std)


@worker
def fold_group_gradients(
    constants, folded, gradients, statistics, gamma, spans, channels_of_group, m
):
    """The constants of dx of all channels, from sums over slices of them.

    constants, folded   (7, >= c), the last four rows written: see channels.py
    gradients           (2, c) float64: dgamma, dbeta
    statistics          (4, c) float64, the same for all channels of a group
    gamma               (c,)
    channels_of_group   neighbours in a group
    m                   values in a group
    """
    channels = 0, statistics.shape[1]
    _share_gradients(folded, gradients, statistics, gamma, channels, channels_of_group, m)
    broadcast_channels(constants, folded, DY_SCALE, OFFSET + 1, spans)


@worker
def backward_groups(
    lo, hi, dx, dresidual, gradients, sums, constants, dy, x, residual, statistics, parameters,
    activation, stream, width, channels_of_group, shape,
):  # fmt: skip
    """Gradients of planes in groups; tile t is the groups t width to (t + 1) width - 1.

    The arguments are those of `backward_planes` in fused.py, with n = 1; the statistics (4, c) are
    the same for all channels of a group.
    """
    _, c, s = shape
    for tile in range(lo, hi):
        first = tile * width * channels_of_group
        last = min(first + width * channels_of_group, c)
        channel_constants(constants, statistics, parameters, first, last)
        sum_channels(
            sums, dy, x, residual, None, constants, (first, last), (0, 1), activation, shape
        )
        finish_gradients(
            gradients, constants, sums, statistics, parameters, first, last, s, 0, True
        )
        if dx is None and dresidual is None:
            continue
        _share_gradients(
            constants, gradients, statistics, parameters[0], (first, last), channels_of_group,
            channels_of_group * s,
        )  # fmt: skip
        apply_run(
            dx, dresidual, dy, x, residual, None, first * s, last * s, constants, first, s,
            activation, False, stream, c, s,
        )  # fmt: skip


backward_groups_parallel = parallel(backward_groups)
