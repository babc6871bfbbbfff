"""y = activation(gamma (x - mean) inv_std + beta + residual), given each channel's statistics.

The mean is never folded into the shift: with mean / std = 1e4 that would cost four of float32's
seven digits. It is subtracted first, as a head in the data's type, where the subtraction is exact
for values near the mean; its float64 tail goes into the shift:

    y = (x - head) scale + shift        head = T(mean), tail = mean - head,
                                        scale = gamma inv_std, shift = beta - tail scale

For float64 data the head is the mean as float64 has it, and the tail what is beyond its digits.
One subtraction, one fma, in a loop that waits for memory; a constant channel is exactly beta.
"""

from __future__ import annotations

from nbnorm.jit.elementary import narrow, square_root
from nbnorm.jit.options import inlined, worker
from nbnorm.jit.parallel import parallel
from nbnorm.jit.simd import (
    blend,
    fma,
    lanes,
    lanes_of_register,
    load_part,
    misalignment,
    select,
    splat,
    splat_register,
    store_part,
    store_stream,
    total,
    widen,
)
from nbnorm.kernels.activations import activate
from nbnorm.kernels.channels import HEAD, SCALE, SHIFT, broadcast_channels, written_rows

# Per activation, channels are as many as a sample has values: worked out one by one, their
# statistics and constants took a quarter of the forward's time.


@inlined
def load_wide(array, i, count, zero):
    """``array[i : i + count]``, of float32 or float64, in float64 lanes, as many as of `zero`."""
    return widen(load_part(array, i, count, narrow(array, zero)))


@inlined
def invert_deviations(statistics, first, last, eps):
    """1 / sqrt(var + eps) of the channels first..last-1; 0 where nothing varies and eps is 0."""
    width = lanes(statistics[0])
    zero = splat(statistics[0], 0.0)
    one = splat(zero, 1.0)
    for channel in range(first, last, width):
        count = min(width, last - channel)
        root = square_root(load_part(statistics[1], channel, count, zero) + splat(zero, eps))
        inv_std = select(root > zero, one / root, root * zero)  # NaN stays NaN
        store_part(statistics[2], channel, inv_std, count)


@inlined
def mean_in_parts(folded, statistics, channel, count):
    """The means of some channels: the heads, in the type of `folded`, and their float64 tails."""
    zero = splat(statistics[0], 0.0)
    mean = load_part(statistics[0], channel, count, zero)
    head = narrow(folded[HEAD], mean)
    return head, (mean - widen(head)) + load_part(statistics[3], channel, count, zero)


@inlined
def channel_constants(folded, statistics, parameters, first, last):
    """Writes head, scale and shift of the channels first..last-1 to `folded`."""
    width = lanes(statistics[0])
    zero = splat(statistics[0], 0.0)
    for channel in range(first, last, width):
        count = min(width, last - channel)
        head, tail = mean_in_parts(folded, statistics, channel, count)
        gamma = load_wide(parameters[0], channel, count, zero)
        beta = load_wide(parameters[1], channel, count, zero)
        scale = gamma * load_part(statistics[2], channel, count, zero)
        shift = beta - tail * scale
        store_part(folded[HEAD], channel, head, count)
        store_part(folded[SCALE], channel, narrow(folded[HEAD], scale), count)
        store_part(folded[SHIFT], channel, narrow(folded[HEAD], shift), count)


@worker
def fold_given(constants, folded, statistics, given, parameters, eps, spans):
    """Statistics and constants of all channels from a mean and variance that were given.

    constants   (>= 3, ld), folded (>= 3, >= c): head, scale and shift, written
    statistics  (4, c) float64: mean, var and inv_std, written; the mean's rest
    given       (c,) and (c,): mean and var; they may be rows of `statistics`
    parameters  (c,) and (c,): gamma, beta

    Returns whether a variance is negative.
    """
    c = statistics.shape[1]
    width = lanes(statistics[0])
    zero = splat(statistics[0], 0.0)
    one = splat(zero, 1.0)
    negative = zero
    for channel in range(0, c, width):
        count = min(width, c - channel)
        var = load_wide(given[1], channel, count, zero)
        store_part(statistics[0], channel, load_wide(given[0], channel, count, zero), count)
        store_part(statistics[1], channel, var, count)
        negative = negative + select(var < zero, one, zero)
    invert_deviations(statistics, 0, c, eps)
    channel_constants(folded, statistics, parameters, 0, c)
    broadcast_channels(constants, folded, HEAD, SHIFT + 1, spans)
    return total(negative) > 0.0


@inlined
def _normalize(y, x, residual, i, count, head, scale, shift, activation, stream):
    """Normalizes ``x[i : i + count]``: without a mask if count is a whole vector's `lanes`."""
    z = fma(load_part(x, i, count, head) - head, scale, shift)
    if residual is not None:
        z = z + load_part(residual, i, count, shift)
    z = activate(activation, z)
    if stream:
        store_stream(y, i, z)
    else:
        store_part(y, i, z, count)


@inlined
def _of_channel(like, constants, channel):
    """A channel's head, scale and shift, each in all lanes of a vector like another."""
    return (
        splat(like, constants[HEAD, channel]),
        splat(like, constants[SCALE, channel]),
        splat(like, constants[SHIFT, channel]),
    )


@inlined
def normalize_run(y, x, residual, start, end, constants, channel, left, activation, stream, c, s):
    """Normalizes ``x[start:end]``, planes of one channel after the other.

    The first `left` values are what is left of a plane of `channel`; planes of s values follow, of
    c channels in turn.

    All stores but the first and the last are whole registers, and aligned, whatever s is: where a
    plane ends within a register, its lanes take their constants from two channels. Planes of 7 x 7
    took 490 us with a masked store at the end of each, and take 270 (two cores of Zen 5).
    """
    width = lanes(x)
    register = lanes_of_register(x)
    i = start
    aligned = start + misalignment(y, start) % register
    plane_end = start + left
    while i < end:
        stop = min(plane_end, end)
        following = channel + 1 if channel + 1 < c else 0
        head, scale, shift = _of_channel(splat_register(x, 0.0), constants, channel)
        if i >= aligned:
            if i + width <= stop:
                heads, scales, shifts = _of_channel(splat(x, 0.0), constants, channel)
                while i + width <= stop:
                    _normalize(y, x, residual, i, width, heads, scales, shifts, activation, stream)
                    i += width
            while i + register <= stop:
                _normalize(y, x, residual, i, register, head, scale, shift, activation, stream)
                i += register
        if i < stop:
            if i >= aligned and i + register <= end and s >= register:
                others = _of_channel(splat_register(x, 0.0), constants, following)
                head = blend(stop - i, head, others[0])
                scale = blend(stop - i, scale, others[1])
                shift = blend(stop - i, shift, others[2])
                _normalize(y, x, residual, i, register, head, scale, shift, activation, stream)
                i += register
            else:
                count = (stop if i >= aligned else min(stop, aligned)) - i
                _normalize(y, x, residual, i, count, head, scale, shift, activation, False)
                i += count
        if i >= plane_end:
            channel = following
            plane_end += s


@inlined
def _normalize_down(
    y, x, residual, constants, top, bottom, j, count, row_length, activation, stream
):
    """Normalizes the columns j..j+count-1 of a few rows."""
    zero = splat(x, 0.0)
    head = load_part(constants[HEAD], j, count, zero)
    scale = load_part(constants[SCALE], j, count, zero)
    shift = load_part(constants[SHIFT], j, count, zero)
    for row in range(top, bottom):
        i = row * row_length + j
        _normalize(y, x, residual, i, count, head, scale, shift, activation, stream)


@inlined
def normalize_block(y, x, residual, constants, rows, columns, row_length, activation, stream):
    """Normalizes a block of columns, the last rows first.

    They are the ones still in cache where the statistics have just been summed. `rows` and
    `columns` are (first, last).
    """
    width = lanes(x)
    height = written_rows(x, row_length)
    bottom = rows[1]
    while bottom > rows[0]:
        top = max(bottom - height, rows[0])
        whole = columns[1] - (columns[1] - columns[0]) % width
        for j in range(columns[0], whole, width):
            _normalize_down(
                y, x, residual, constants, top, bottom, j, width, row_length, activation, stream
            )
        if whole < columns[1]:
            _normalize_down(
                y, x, residual, constants, top, bottom, whole, columns[1] - whole, row_length,
                activation, False,
            )  # fmt: skip
        bottom = top


@worker
def normalize_planes(lo, hi, y, x, residual, constants, activation, stream, size, shape):
    """Normalizes planes given their channels' constants, in tiles of `size` values.

    Tile 0 is the last one: where sums were just taken, its values are the ones still in cache.

    lo, hi      tiles
    y           (n c s,), written
    x           (n c s,)
    residual    (n c s,) or None
    constants   (>= 3, c): head, scale, shift
    activation  None or a tuple of activations.py
    stream      whether y is written past the caches
    size        values in a tile
    shape       (n, c, s)
    """
    n, c, s = shape
    tiles = -(-n * c * s // size)
    for tile in range(lo, hi):
        start = (tiles - 1 - tile) * size
        end = min(start + size, n * c * s)
        plane = start // s
        left = (plane + 1) * s - start
        normalize_run(
            y, x, residual, start, end, constants, plane % c, left, activation, stream, c, s
        )


normalize_planes_parallel = parallel(normalize_planes)


@worker
def normalize_columns(lo, hi, y, x, residual, constants, activation, stream, height, row_length):
    """Normalizes rows given their columns' constants, in tiles of `height` rows.

    Tile 0 is the last one: where sums were just taken, its rows are the ones still in the
    last-level cache. `constants` is (>= 3, ld); the other arguments are those of
    `normalize_planes`.
    """
    rows = x.size // row_length
    rest = x.size - rows * row_length
    tiles = max(1, -(-rows // height))
    for tile in range(lo, hi):
        top = (tiles - 1 - tile) * height
        bottom = min(top + height, rows)
        if bottom == rows and rest > 0:
            normalize_block(
                y, x, residual, constants, (rows, rows + 1), (0, rest), row_length, activation,
                False,
            )  # fmt: skip
        normalize_block(
            y, x, residual, constants, (top, bottom), (0, row_length), row_length,
            activation, stream,
        )  # fmt: skip


normalize_columns_parallel = parallel(normalize_columns)


# A small array takes no longer than the two calls of kernels that it would need, or half of it.


@worker
def infer_planes(
    y, statistics, constants, x, residual, given, parameters, eps, activation, size, shape
):
    """`fold_given`, and `normalize_planes` on this thread unless a variance is negative.

    Returns whether one is.
    """
    n, c, s = shape
    negative = fold_given(constants, constants, statistics, given, parameters, eps, (1, 1, 0))
    if not negative:
        tiles = -(-n * c * s // size)
        normalize_planes(0, tiles, y, x, residual, constants, activation, False, size, shape)
    return negative


@worker
def infer_columns(
    y, statistics, constants, folded, x, residual, given, parameters, eps, activation, height,
    spans,
):  # fmt: skip
    """`fold_given`, and `normalize_columns` on this thread unless a variance is negative.

    Returns whether one is.
    """
    span, copies, _ = spans
    row_length = span * copies * statistics.shape[1]
    tiles = max(1, -(-(x.size // row_length) // height))
    negative = fold_given(constants, folded, statistics, given, parameters, eps, spans)
    if not negative:
        normalize_columns(
            0, tiles, y, x, residual, constants, activation, False, height, row_length
        )
    return negative
