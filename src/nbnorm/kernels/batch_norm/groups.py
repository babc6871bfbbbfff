"""Gradients where several channels share their statistics: group norm, a sample at a time.

Of a group of m values, with G and H the sums of gamma dbeta and gamma dgamma over its channels,

    dx = a g + b xh + d      a = gamma inv_std      b = -inv_std H / m      d = -inv_std G / m

so that gradients.py writes dx, given these constants for its own.
"""

from __future__ import annotations

from nbnorm.jit.options import worker
from nbnorm.kernels.channels import (
    DY_SCALE,
    HEAD,
    INV_STD,
    OFFSET,
    XH_SCALE,
    broadcast_channels,
)


@worker
def fold_group_gradients(
    constants, folded, gradients, statistics, gamma, spans, channels_of_group, m
):
    """The constants of dx of channels whose neighbours share statistics.

    constants, folded   (7, >= c), the last four rows written: see channels.py
    gradients           (2, c) float64: dgamma, dbeta
    statistics          (4, c) float64, the same for all channels of a group
    gamma               (c,)
    channels_of_group   neighbours in a group
    m                   values in a group
    """
    c = statistics.shape[1]
    for first in range(0, c, channels_of_group):
        along_xh = 0.0
        along_one = 0.0
        for channel in range(first, first + channels_of_group):
            along_xh += gamma[channel] * gradients[0, channel]
            along_one += gamma[channel] * gradients[1, channel]
        inv_std = statistics[2, first]
        b = -inv_std * along_xh / m
        d = -inv_std * along_one / m
        for channel in range(first, first + channels_of_group):
            # As in gradients.py, xh is taken about the head, and its tail is in the offset.
            tail = (statistics[0, channel] - folded[HEAD, channel]) + statistics[3, channel]
            folded[DY_SCALE, channel] = gamma[channel] * inv_std
            folded[INV_STD, channel] = inv_std
            folded[XH_SCALE, channel] = b
            folded[OFFSET, channel] = d - b * (tail * inv_std)
    broadcast_channels(constants, folded, DY_SCALE, OFFSET + 1, spans)
