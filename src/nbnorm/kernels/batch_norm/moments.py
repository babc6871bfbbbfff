"""Mean and variance of each channel, in one pass over the data.

Sums of ``x`` and ``x^2`` lose everything when the mean is large, so a kernel sums

    S = sum(x - p)    and    Q = sum((x - p)^2)

for a pivot p, the median of three values of the channel; then mean = p + S / m and
sum((x - mean)^2) = Q - S^2 / m. Where places have weights, the terms of S and Q are w times as
large and m is the sum of the weights. The subtraction costs nothing unless p is more than a few
standard deviations off. `finish_statistics` notices when it is: the pivot moves to the mean just
found and the channel is summed again. What still fails (squares beyond the range of the data's
type, above all) is summed in float64 by `exact_moments`, scaled by a power of two. The pivot is the
channel's `HEAD` until the true head replaces it.

Statistics are (4, c) of float64: mean, var, inv_std, and the rest of the mean: what p + S / m lost
when it was rounded to float64. A mean of 1e12 would cost float64 data eleven digits without.
"""

from __future__ import annotations

import math

from nbnorm.jit.elementary import absolute, narrow
from nbnorm.jit.options import inlined, worker
from nbnorm.jit.simd import lanes, load_part, select, splat, store_part, total, widen
from nbnorm.kernels.batch_norm.normalize import channel_constants, invert_deviations
from nbnorm.kernels.batch_norm.sums import add_slices
from nbnorm.kernels.channels import HEAD, SHIFT, broadcast_channels, reduce_channels

# A pivot four standard deviations off is good enough: the squares are then 17 times the variance,
# and so is their rounding error. Two random values out of three are hardly ever that far off.
PIVOT_TOLERANCE = 16.0

# Mean squares below these lose digits to the underflow of float32, and of float64.
SMALLEST_SQUARE = 1e-30
SMALLEST_SQUARE_OF_DOUBLES = 1e-290


@inlined
def choose_pivot(folded, x, channel, shape):
    """Makes the median of three values of a channel its pivot.

    Equal to them if they are equal, so that a constant channel has no deviations at all; and not
    led astray by a single outlier.
    """
    n, c, s = shape
    low = x[channel * s]
    middle = x[(n // 3 * c + channel) * s + s // 3]
    high = x[(2 * n // 3 * c + channel) * s + 2 * s // 3]
    pivot = max(min(low, middle), min(max(low, middle), high))
    folded[HEAD, channel] = pivot if math.isfinite(pivot) else 0.0


@inlined
def _lower(a, b):
    """The lesser of each two lanes."""
    return select(a < b, a, b)


@inlined
def _higher(a, b):
    """The greater of each two lanes."""
    return select(a < b, b, a)


@inlined
def choose_pivots_of_columns(folded, x, first, last, rows, row_length):
    """`choose_pivot` for the columns first..last-1."""
    width = lanes(x)
    zero = splat(x, 0.0)
    middle_row = rows // 3 * row_length
    high_row = 2 * rows // 3 * row_length
    for j in range(first, last, width):
        count = min(width, last - j)
        low = load_part(x, j, count, zero)
        middle = load_part(x, middle_row + j, count, zero)
        high = load_part(x, high_row + j, count, zero)
        pivot = _higher(_lower(low, middle), _lower(_higher(low, middle), high))
        finite = absolute(pivot) < splat(x, math.inf)
        store_part(folded[HEAD], j, select(finite, pivot, zero), count)


@inlined
def _lift(x, mean, channel, shape):
    """A power of two that brings the largest deviation of a channel from `mean` next to 1."""
    n, c, s = shape
    largest = 0.0
    for sample in range(n):
        start = (sample * c + channel) * s
        for i in range(start, start + s):
            largest = max(largest, abs(float(x[i]) - mean))
    if not 0.0 < largest < math.inf:
        return 1.0
    return math.ldexp(1.0, min(-math.frexp(largest)[1], 1000))


@inlined
def exact_moments(x, weights, m, channel, shape):
    """The moments of a channel in float64, value by value: slow and rare.

    Returns the mean, its rest, a power of two, and sum(((x - mean) power)^2).
    """
    n, c, s = shape
    mean = float(x[channel * s])
    if not math.isfinite(mean):
        mean = 0.0
    lift = _lift(x, mean, channel, shape)
    rest = 0.0
    m2 = 0.0
    for _ in range(2):  # the second time from the true mean but for its rounding
        total_d = 0.0
        m2 = 0.0
        for sample in range(n):
            start = (sample * c + channel) * s
            for i in range(start, start + s):
                w = 1.0 if weights is None else float(weights[sample * s + i - start])
                d = (float(x[i]) - mean) * lift
                total_d += w * d
                m2 += w * d * d
        offset = total_d / m
        m2 -= total_d * offset
        rounded = mean + offset / lift
        rest = offset / lift - (rounded - mean)
        mean = rounded
    return mean, rest, lift, m2


@inlined
def _smallest_square(x, eps, m):
    """The least sum of m squares that is good; any, where eps hides what it lacks."""
    smallest = SMALLEST_SQUARE if x.itemsize == 4 else SMALLEST_SQUARE_OF_DOUBLES
    return smallest * m if eps < smallest else 0.0


@inlined
def finish_statistics(
    statistics, folded, sums, x, weights, m, parameters, first, last, eps, ddof, attempt, shape
):
    """Turns S and Q of the channels first..last-1 into their statistics, where they are good.

    statistics  (4, c) mean, var, inv_std and the mean's rest, written
    folded      (>= 3, >= c) the pivot as head, then head, scale and shift, written
    sums        (2, >= c) S and Q about the pivot
    weights     (n s,) of the data's type, or None
    m           values in a channel, or the sum of their weights
    parameters  (c,) and (c,): gamma, beta

    Returns how many channels are to be summed again, their pivots having moved.
    """
    width = lanes(sums[0])
    zero = splat(sums[0], 0.0)
    one = splat(zero, 1.0)
    smallest = splat(zero, _smallest_square(x, eps, m))
    doubtful = zero
    for channel in range(first, last, width):
        count = min(width, last - channel)
        total_s = load_part(sums[0], channel, count, zero)
        total_q = load_part(sums[1], channel, count, smallest)
        offset = total_s / splat(zero, m)
        shifted = total_s * offset
        m2 = total_q - shifted
        # Comparisons with NaN fail: it is doubtful, as inf is.
        good = select(
            shifted <= splat(zero, PIVOT_TOLERANCE) * m2,
            select(m2 < splat(zero, math.inf), select(total_q >= smallest, one, zero), zero),
            zero,
        )
        doubtful = doubtful + (one - good)
        pivot = load_part(folded[HEAD], channel, count, narrow(folded[HEAD], zero))
        var = select(m2 > zero, m2, zero) / splat(zero, m - ddof)
        # pivot + offset, and what that loses (Knuth's sum of two numbers).
        mean = widen(pivot) + offset
        added = mean - widen(pivot)
        rest = (widen(pivot) - (mean - added)) + (offset - added)
        store_part(statistics[0], channel, mean, count)
        store_part(statistics[1], channel, var, count)
        store_part(statistics[3], channel, rest, count)
    invert_deviations(statistics, first, last, eps)
    moved = 0
    if total(doubtful) > 0.0:
        moved = _recompute(statistics, sums, x, weights, m, first, last, eps, ddof, attempt, shape)
    channel_constants(folded, statistics, parameters, first, last)
    return moved


@inlined
def _recompute(statistics, sums, x, weights, m, first, last, eps, ddof, attempt, shape):
    """Moves the pivots of channels in doubt, or sums them exactly. Returns how many moved."""
    smallest = _smallest_square(x, eps, m)
    moved = 0
    for channel in range(first, last):
        total_s, total_q = sums[0, channel], sums[1, channel]
        offset = total_s / m
        m2 = total_q - total_s * offset
        finite = math.isfinite(m2) and total_q >= smallest
        if finite and total_s * offset <= PIVOT_TOLERANCE * m2:
            continue
        if finite and attempt == 0:  # the mean just found is the next head, and pivot
            moved += 1
            continue
        mean, rest, lift, m2 = exact_moments(x, weights, m, channel, shape)
        var = m2 / (m - ddof) if not m2 < 0.0 else 0.0  # NaN stays NaN
        # The deviation is a number of float64 where its square is not.
        root = math.hypot(math.sqrt(var) / lift, math.sqrt(eps))
        statistics[0, channel] = mean
        statistics[1, channel] = var / lift / lift
        statistics[2, channel] = 0.0 if root == 0.0 else 1.0 / root
        statistics[3, channel] = rest
    return moved


@worker
def place_pivots(constants, folded, x, spans, shape):
    """A first pivot for every channel, before its slices are summed."""
    n, c, s = shape
    if s == 1:
        choose_pivots_of_columns(folded, x, 0, c, n, c)
    else:
        for channel in range(c):
            choose_pivot(folded, x, channel, shape)
    broadcast_channels(constants, folded, HEAD, HEAD + 1, spans)


@worker
def settle_slices(
    statistics, constants, folded, sums, x, weights, m, parameters, spans, eps, ddof, attempt, shape
):
    """`finish_statistics` for all channels, from the sums (slices, 2, ld) of their slices."""
    c = shape[1]
    add_slices(sums)
    reduce_channels(sums[0], c, spans)
    moved = finish_statistics(
        statistics, folded, sums[0], x, weights, m, parameters, 0, c, eps, ddof, attempt, shape
    )
    broadcast_channels(constants, folded, HEAD, SHIFT + 1, spans)
    return moved


@inlined
def begin_sums(sums, pivots, x, rows, columns, row_length):
    """A pivot for each of the columns (first, last), from the rows (first, last); sums of 0."""
    block = x[rows[0] * row_length :]
    choose_pivots_of_columns(pivots, block, columns[0], columns[1], rows[1] - rows[0], row_length)
    sums[:, columns[0] : columns[1]] = 0.0


@inlined
def _merge(sums, folded, pivots, counts, c):
    """Adds the sums of all blocks, each about a pivot of its own, to those of the first.

    With the pivot moved by d, sum(v + d) = sum(v) + m d and sum((v + d)^2) = sum(v^2) +
    2 d sum(v) + m d^2 (Chan, Golub and LeVeque 1979), here in float64. Returns how many channels
    lost digits before: the pivots of their blocks were further off than `PIVOT_TOLERANCE` allows.
    """
    doubtful = 0
    for channel in range(c):
        pivot = pivots[0, HEAD, channel]
        folded[HEAD, channel] = pivot
        m = 0.0
        off = 0.0
        for block in range(sums.shape[0]):
            count = float(counts[block])
            rest = sums[block, 0, channel]
            m += count
            off += rest * rest / count
            if block > 0:
                d = float(pivots[block, HEAD, channel]) - float(pivot)
                sums[0, 0, channel] += rest + count * d
                sums[0, 1, channel] += sums[block, 1, channel] + d * (2.0 * rest + count * d)
        m2 = sums[0, 1, channel] - sums[0, 0, channel] * sums[0, 0, channel] / m
        doubtful += 1 if off > PIVOT_TOLERANCE * m2 else 0
    return doubtful


@worker
def settle_blocks(
    statistics, constants, folded, sums, pivots, counts, x, parameters, spans, eps, ddof, shape
):
    """`finish_statistics` for all channels, from sums that a product has taken block by block.

    sums     (blocks, 2, ld)
    pivots   (blocks, 3, ld) of the data's type: what was subtracted, in row HEAD
    counts   (blocks,) of int64: values of a channel in a block

    Returns whether pivots were bad: the statistics are then to be taken anew.
    """
    n, c, s = shape
    doubtful = _merge(sums, folded, pivots, counts, c)
    moved = finish_statistics(
        statistics, folded, sums[0], x, None, n * s, parameters, 0, c, eps, ddof, 0, shape
    )
    broadcast_channels(constants, folded, HEAD, SHIFT + 1, spans)
    return doubtful + moved > 0
