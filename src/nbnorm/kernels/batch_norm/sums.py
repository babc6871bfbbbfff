"""The two sums of a channel that forward and backward need, in one sweep.

    sum(u)    and    sum(u v),    v = x - head

forward    u = w v: the deviations from a rough mean and their squares, see moments.py, each w
           times where places have weights
backward   u = dy activation'(z): see gradients.py

`dy` is None in the forward. Lanes add in the data's type for `CHAIN` vectors at most and are then
carried in float64; sums are additive, so a channel may be summed in slices and the slices added.
"""

from __future__ import annotations

from nbnorm.jit.options import inlined, worker
from nbnorm.jit.parallel import parallel
from nbnorm.jit.simd import (
    accumulate,
    accumulate_part,
    fma,
    lanes,
    lanes_of_register,
    load,
    load_part,
    prefetch,
    splat,
    splat_register,
    total,
    widen,
)
from nbnorm.kernels.activations import activation_gradient
from nbnorm.kernels.channels import HEAD, SCALE, SHIFT, SUMMED_ROWS

# The rounding error of a chain of n float32 additions of one sign is 2e-8 n standard errors of the
# sum. Carrying after 16 keeps it below the other errors and costs 10 % of the loop.
CHAIN = 16

# How far ahead, in bytes, the backward asks for rows. AMD EPYC (Zen 5), two threads, channels-last
# of 12 MB and more: without, a backward takes 1.15 to 1.25 times as long; asking 2 KiB ahead gains
# less, 16 KiB costs arrays that fit the last cache a tenth. The forward, with one stream to read,
# gains nothing, and nor do planes.
AHEAD = 4096


@inlined
def weights_at(weights, i, count, zero):
    """The weights ``i : i + count``, or None where there are none."""
    if weights is None:
        return None
    return load_part(weights, i, count, zero)


@inlined
def weights_of_row(weights, row, zero):
    """The weight of a row of columns in every lane, or None where there are none."""
    if weights is None:
        return None
    return splat(zero, weights[row])


@inlined
def gradient_and_deviation(dy, x, residual, w, i, count, head, scale, shift, activation):
    """Vectors u and v of ``x[i : i + count]``; the lanes beyond are 0 in both.

    `w` are weights of the places, for the forward, or None.
    """
    v = load_part(x, i, count, head) - head
    if dy is None:
        if w is None:
            return v, v
        return w * v, v
    z = fma(v, scale, shift)
    if residual is not None:
        z = z + load_part(residual, i, count, shift)
    u = activation_gradient(activation, load_part(dy, i, count, splat(head, 0.0)), z)
    return u, v


@inlined
def sum_plane(dy, x, residual, weights, constants, channel, first, last, activation, shape):
    """sum(u) and sum(u v) over the values first..last-1 of a channel, counted along n and s."""
    _, c, s = shape
    width = lanes(x)
    head = splat(x, constants[HEAD, channel])
    scale = splat(x, constants[SCALE, channel])
    shift = splat(x, constants[SHIFT, channel])
    zero = splat(x, 0.0)
    sums, products = zero, zero
    carried_sums, carried_products = widen(zero), widen(zero)
    sample = first // s
    column = first - sample * s
    left = last - first
    room = CHAIN
    while left > 0:
        count = min(s - column, left, CHAIN * width)
        i = (sample * c + channel) * s + column
        end = i + count
        away = i - (sample * s + column)  # of the values from their weights
        while i + width <= end:
            w = weights_at(weights, i - away, width, zero)
            u, v = gradient_and_deviation(
                dy, x, residual, w, i, width, head, scale, shift, activation
            )
            sums = sums + u
            products = fma(u, v, products)
            i += width
        if i < end:
            w = weights_at(weights, i - away, end - i, zero)
            u, v = gradient_and_deviation(
                dy, x, residual, w, i, end - i, head, scale, shift, activation
            )
            sums = sums + u
            products = fma(u, v, products)
        room -= count // width + 1
        if room <= 0:
            carried_sums = carried_sums + widen(sums)
            carried_products = carried_products + widen(products)
            sums, products = zero, zero
            room = CHAIN
        left -= count
        column += count
        if column == s:
            column = 0
            sample += 1
    return total(carried_sums + widen(sums)), total(carried_products + widen(products))


@inlined
def _sum_short_planes(
    sums, dy, x, residual, weights, constants, channels, samples, activation, shape
):
    """`sum_channels` for planes that make a chain of registers, or less."""
    _, c, s = shape
    width = lanes_of_register(x)
    zero = splat_register(x, 0.0)
    chained = CHAIN // -(-s // width)
    for top in range(samples[0], samples[1], chained):
        bottom = min(top + chained, samples[1])
        for channel in range(channels[0], channels[1]):
            head = splat_register(x, constants[HEAD, channel])
            scale = splat_register(x, constants[SCALE, channel])
            shift = splat_register(x, constants[SHIFT, channel])
            totals, products = zero, zero
            for sample in range(top, bottom):
                i = (sample * c + channel) * s
                end = i + s
                away = i - sample * s  # of the values from their weights
                while i + width <= end:
                    w = weights_at(weights, i - away, width, zero)
                    u, v = gradient_and_deviation(
                        dy, x, residual, w, i, width, head, scale, shift, activation
                    )
                    totals = totals + u
                    products = fma(u, v, products)
                    i += width
                if i < end:
                    w = weights_at(weights, i - away, end - i, zero)
                    u, v = gradient_and_deviation(
                        dy, x, residual, w, i, end - i, head, scale, shift, activation
                    )
                    totals = totals + u
                    products = fma(u, v, products)
            sums[0, channel] += total(totals)
            sums[1, channel] += total(products)


@inlined
def sum_channels(sums, dy, x, residual, weights, constants, channels, samples, activation, shape):
    """sum(u) and sum(u v) of some channels over some samples, to ``sums[0]`` and ``sums[1]``.

    `channels` and `samples` are (first, last). Memory is read in its order, or nearly so.
    """
    s = shape[2]
    sums[:, channels[0] : channels[1]] = 0.0
    if s <= CHAIN * lanes_of_register(x):
        _sum_short_planes(
            sums, dy, x, residual, weights, constants, channels, samples, activation, shape
        )
        return
    for sample in range(samples[0], samples[1]):
        for channel in range(channels[0], channels[1]):
            a, b = sum_plane(
                dy, x, residual, weights, constants, channel, sample * s, (sample + 1) * s,
                activation, shape,
            )  # fmt: skip
            sums[0, channel] += a
            sums[1, channel] += b


@inlined
def _ask_for(dy, x, i):
    """Asks for the vectors at i of dy and x; of the forward, which has no dy, for none."""
    if dy is not None:
        for j in range(i, i + lanes(x), lanes_of_register(x)):
            prefetch(dy, j)
            prefetch(x, j)


@inlined
def _sum_down(
    sums, dy, x, residual, weights, constants, top, bottom, j, count, row_length, activation
):
    """Adds the sums of the columns j..j+count-1 over a few rows to `sums`."""
    zero = splat(x, 0.0)
    head = load_part(constants[HEAD], j, count, zero)
    scale = load_part(constants[SCALE], j, count, zero)
    shift = load_part(constants[SHIFT], j, count, zero)
    totals = zero
    products = zero
    ahead = row_length * max(1, AHEAD // (row_length * x.itemsize))
    for row in range(top, bottom):
        w = weights_of_row(weights, row, zero)
        i = row * row_length + j
        _ask_for(dy, x, i + ahead)
        u, v = gradient_and_deviation(dy, x, residual, w, i, count, head, scale, shift, activation)
        totals = totals + u
        products = fma(u, v, products)
    accumulate_part(sums[0], j, totals, count)
    accumulate_part(sums[1], j, products, count)


@inlined
def sum_block(sums, dy, x, residual, weights, constants, rows, columns, row_length, activation):
    """Adds sum(u) and sum(u v) of a block of columns to ``sums[0]`` and ``sums[1]``.

    `rows` and `columns` are (first, last).
    """
    width = lanes(x)
    for top in range(rows[0], rows[1], SUMMED_ROWS):
        bottom = min(top + SUMMED_ROWS, rows[1])
        whole = columns[1] - (columns[1] - columns[0]) % width
        for j in range(columns[0], whole, width):
            _sum_down(
                sums, dy, x, residual, weights, constants, top, bottom, j, width, row_length,
                activation,
            )  # fmt: skip
        if whole < columns[1]:
            _sum_down(
                sums, dy, x, residual, weights, constants, top, bottom, whole, columns[1] - whole,
                row_length, activation,
            )  # fmt: skip


@worker
def sum_planes(lo, hi, sums, dy, x, residual, weights, constants, activation, width, shape):
    """The sums of slices of channels, a tile being a slice of `width` channels.

    A slice is of whole samples, or of parts of planes where there are more slices than samples.

    lo, hi      tiles: the first ones are all channels of the first slice
    sums        (slices, 2, c) float64, written
    dy          (n c s,), or None in the forward
    x           (n c s,)
    residual    (n c s,) or None
    weights     (n s,) of the data's type, or None; the backward has none
    constants   (>= 3, c) of the data's type: head, and in the backward scale and shift
    activation  None or a tuple of activations.py
    width       channels in a tile
    shape       (n, c, s)
    """
    n, c, s = shape
    slices = sums.shape[0]
    blocks = -(-c // width)
    for tile in range(lo, hi):
        slice_ = tile // blocks
        first = (tile - slice_ * blocks) * width
        last = min(first + width, c)
        if slices <= n:
            sum_channels(
                sums[slice_], dy, x, residual, weights, constants, (first, last),
                (n * slice_ // slices, n * (slice_ + 1) // slices), activation, shape,
            )  # fmt: skip
        else:
            for channel in range(first, last):
                sums[slice_, 0, channel], sums[slice_, 1, channel] = sum_plane(
                    dy, x, residual, weights, constants, channel, n * s * slice_ // slices,
                    n * s * (slice_ + 1) // slices, activation, shape,
                )  # fmt: skip


sum_planes_parallel = parallel(sum_planes)


@worker
def sum_columns(lo, hi, sums, dy, x, residual, weights, constants, activation, height, row_length):
    """The sums of all columns; tile t is the rows t height to (t + 1) height - 1.

    sums        (tiles, 2, ld) float64, written
    weights     a number for each row, or None
    constants   (>= 3, ld)
    The other arguments are those of `sum_planes`.
    """
    rows = x.size // row_length
    rest = x.size - rows * row_length
    for tile in range(lo, hi):
        top = tile * height
        bottom = min(top + height, rows)
        sums[tile] = 0.0
        sum_block(
            sums[tile], dy, x, residual, weights, constants, (top, bottom), (0, row_length),
            row_length, activation,
        )  # fmt: skip
        if bottom == rows and rest > 0:
            sum_block(
                sums[tile], dy, x, residual, weights, constants, (rows, rows + 1), (0, rest),
                row_length, activation,
            )  # fmt: skip


sum_columns_parallel = parallel(sum_columns)


@inlined
def _add_down(sums, x, top, bottom, columns, row_length):
    """Adds the columns 0..columns-1 of a few rows to `sums`."""
    width = lanes(x)
    zero = splat(x, 0.0)
    whole = columns - columns % width
    for j in range(0, whole, width):
        totals = widen(zero)
        for row in range(top, bottom):
            totals = totals + widen(load(x, row * row_length + j))
        accumulate(sums, j, totals)
    if whole < columns:
        totals = widen(zero)
        for row in range(top, bottom):
            part = load_part(x, row * row_length + whole, columns - whole, zero)
            totals = totals + widen(part)
        accumulate_part(sums, whole, totals, columns - whole)


@worker
def add_columns(lo, hi, sums, x, height, row_length):
    """The sum of each column alone, all in float64: the gradient of a bias.

    lo, hi      tiles: tile t is the rows t height to (t + 1) height - 1
    sums        (tiles, row_length) float64, written
    x           flat; the last row may be cut short
    """
    rows = x.size // row_length
    rest = x.size - rows * row_length
    for tile in range(lo, hi):
        sums[tile] = 0.0
        bottom = min((tile + 1) * height, rows)
        for top in range(tile * height, bottom, SUMMED_ROWS):
            _add_down(sums[tile], x, top, min(top + SUMMED_ROWS, bottom), row_length, row_length)
        if bottom == rows and rest > 0:
            _add_down(sums[tile], x, rows, rows + 1, rest, row_length)


add_columns_parallel = parallel(add_columns)


@inlined
def add_slices(sums):
    """Adds all slices to the first, by halves: the error grows with the logarithm of their number.

    It overwrites the other slices.
    """
    left = sums.shape[0]
    while left > 1:
        half = (left + 1) // 2
        for slice_ in range(half, left):
            for i in range(2):
                for j in range(sums.shape[2]):
                    sums[slice_ - half, i, j] += sums[slice_, i, j]
        left = half
