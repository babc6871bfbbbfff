"""Mean and variance of each channel, in one pass over the data.

Sums of ``x`` and ``x^2`` lose everything when the mean is large, so a kernel sums

    S = sum(x - p)    and    Q = sum((x - p)^2)

for a pivot p, a rough mean taken from four values of the channel; then mean = p + S / m and
sum((x - mean)^2) = Q - S^2 / m, where the subtraction costs nothing unless p is more than a few
standard deviations off. `settle` notices when it is: the pivot moves to the mean just found and
the channel is summed again. What still fails (squares beyond float32's range, above all) is summed
in float64 by `exact_moments`. The pivot is the channel's `HEAD` until the true head replaces it.
"""

from __future__ import annotations

import math

from nbnorm.jit.options import inlined, worker
from nbnorm.kernels.layout import HEAD, gathered, spread
from nbnorm.kernels.normalize import fold_channel
from nbnorm.kernels.sums import add_slices

# A pivot four standard deviations off is good enough: the squares are then 17 times the variance,
# and so is their rounding error. Four random values are never that far off.
PIVOT_TOLERANCE = 16.0

# Mean squares below this lose digits to float32's underflow.
SMALLEST_SQUARE = 1e-30


@inlined
def place_pivot(constants, x, channel, spans, shape):
    """Makes the mean of four values of a channel its pivot: equal to them if they are equal."""
    n, c, s = shape
    first = x[channel * s]
    rest = first - first
    for i in range(1, 4):
        rest += x[((i * n // 4) * c + channel) * s + i * s // 4] - first
    pivot = float(first + rest / 4)
    spread(constants[HEAD], pivot if math.isfinite(pivot) else 0.0, channel, spans)


@inlined
def exact_moments(x, channel, shape):
    """The mean and sum((x - mean)^2) of a channel in float64, value by value: slow and rare."""
    n, c, s = shape
    mean = float(x[channel * s])
    if not math.isfinite(mean):
        mean = 0.0
    m2 = 0.0
    for _ in range(2):  # the second time from the true mean but for its rounding
        rest = 0.0
        m2 = 0.0
        for sample in range(n):
            start = (sample * c + channel) * s
            for i in range(start, start + s):
                d = x[i] - mean
                rest += d
                m2 += d * d
        offset = rest / (n * s)
        mean += offset
        m2 -= rest * offset
    return mean, m2


@inlined
def settle(
    statistics, constants, sums, x, parameters, channels, spans, eps, ddof, attempt, shape
):
    """Turns S and Q of some channels into their statistics and constants, where they are good.

    statistics  (3, c) mean, var, inv_std, written
    constants   (>= 3, stride) the pivot as head, then head, scale and shift, written
    sums        (2, stride) S and Q about the pivot
    parameters  (2, c) gamma, beta
    channels    (first, last)

    Returns how many channels are to be summed again, their pivots having moved.
    """
    m = shape[0] * shape[2]
    smallest = SMALLEST_SQUARE if x.itemsize == 4 and eps < SMALLEST_SQUARE else 0.0
    moved = 0
    for channel in range(channels[0], channels[1]):
        total_s = gathered(sums[0], channel, spans)
        total_q = gathered(sums[1], channel, spans)
        offset = total_s / m
        mean = constants[HEAD, channel * spans[0]] + offset
        m2 = total_q - total_s * offset
        if not math.isfinite(m2) or total_q < m * smallest:
            mean, m2 = exact_moments(x, channel, shape)
        elif total_s * offset > PIVOT_TOLERANCE * m2:
            if attempt == 0:
                spread(constants[HEAD], mean, channel, spans)
                moved += 1
                continue
            mean, m2 = exact_moments(x, channel, shape)
        var = max(m2, 0.0) / (m - ddof)
        inv_std = inverse_deviation(var, eps)
        statistics[0, channel] = mean
        statistics[1, channel] = var
        statistics[2, channel] = inv_std
        fold_channel(
            constants, channel, mean, inv_std, parameters[0, channel], parameters[1, channel], spans
        )
    return moved


@inlined
def inverse_deviation(var, eps):
    """1 / sqrt(var + eps), and 0 where a channel does not vary and eps is 0."""
    return 1.0 / math.sqrt(var + eps) if var + eps != 0.0 else 0.0


@worker
def place_pivots(constants, x, spans, shape):
    """A first pivot for every channel, before its slices are summed."""
    for channel in range(shape[1]):
        place_pivot(constants, x, channel, spans, shape)


@worker
def settle_slices(statistics, constants, sums, x, parameters, spans, eps, ddof, attempt, shape):
    """`settle` for all channels, from the sums (slices, 2, stride) of their slices."""
    add_slices(sums)
    return settle(
        statistics, constants, sums[0], x, parameters, (0, shape[1]), spans, eps, ddof, attempt,
        shape,
    )  # fmt: skip
