"""The gradients of batch norm, given the gradient of its output.

With g = dy activation'(z), where z is computed again from x:

    dbeta = sum(g)        dgamma = sum(g (x - mean)) inv_std        dresidual = g
    dx    = a g + b xh + d                                         xh = (x - mean) inv_std

    a = gamma inv_std     b = -a dgamma / (m - ddof)                d = -a dbeta / m

and b = d = 0 where the statistics were given rather than the batch's. Where places have weights,
b and d are w times as large, and m is the sum of the weights. As in normalize.py the mean
is subtracted as a head in the data's type, its tail carried by constants. (b inv_std would save a
multiplication, which cannot be seen, and underflow float32 for standard deviations from 1e19 on.)
"""

from __future__ import annotations

from nbnorm.jit.elementary import narrow
from nbnorm.jit.options import inlined, worker
from nbnorm.jit.parallel import parallel
from nbnorm.jit.simd import (
    blend,
    fma,
    lanes,
    lanes_of_register,
    load,
    load_part,
    misalignment,
    splat,
    splat_register,
    store_part,
    store_stream,
)
from nbnorm.kernels.batch_norm.normalize import channel_constants, load_wide, mean_in_parts
from nbnorm.kernels.batch_norm.sums import (
    add_slices,
    gradient_and_deviation,
    weights_at,
    weights_of_row,
)
from nbnorm.kernels.channels import (
    DY_SCALE,
    HEAD,
    INV_STD,
    OFFSET,
    SCALE,
    SHIFT,
    XH_SCALE,
    broadcast_channels,
    reduce_channels,
    written_rows,
)


@inlined
def _gradients_of_sums(gradients, folded, sums, statistics, first, last):
    """Turns the sums of the channels first..last-1 into their gradients.

    gradients   (2, c) dgamma, dbeta, written
    folded      of the type of x
    sums        (2, >= c) sum(g) and sum(g (x - head))
    statistics  (4, c)
    """
    width = lanes(sums[0])
    zero = splat(sums[0], 0.0)
    for channel in range(first, last, width):
        count = min(width, last - channel)
        inv_std = load_part(statistics[2], channel, count, zero)
        _, tail = mean_in_parts(folded, statistics, channel, count)
        dbeta = load_part(sums[0], channel, count, zero)
        dgamma = (load_part(sums[1], channel, count, zero) - tail * dbeta) * inv_std
        store_part(gradients[0], channel, dgamma, count)
        store_part(gradients[1], channel, dbeta, count)


@inlined
def _gradient_constants(folded, gradients, statistics, parameters, first, last, m, ddof, frozen):
    """Turns dgamma and dbeta of the channels first..last-1 into the constants of dx.

    folded      (7, >= c) the last four rows: a, inv_std, b, d - b tail inv_std, written
    gradients   (2, c) dgamma, dbeta
    statistics  (4, c); parameters (c,) and (c,)
    """
    width = lanes(gradients[0])
    zero = splat(gradients[0], 0.0)
    values = splat(zero, m)
    free = splat(zero, m - ddof)
    for channel in range(first, last, width):
        count = min(width, last - channel)
        inv_std = load_part(statistics[2], channel, count, zero)
        _, tail = mean_in_parts(folded, statistics, channel, count)
        dgamma = load_part(gradients[0], channel, count, zero)
        dbeta = load_part(gradients[1], channel, count, zero)
        a = load_wide(parameters[0], channel, count, zero) * inv_std
        b = zero if frozen else (zero - a) * dgamma / free
        d = zero if frozen else (zero - a) * dbeta / values
        store_part(folded[DY_SCALE], channel, narrow(folded[HEAD], a), count)
        store_part(folded[INV_STD], channel, narrow(folded[HEAD], inv_std), count)
        store_part(folded[XH_SCALE], channel, narrow(folded[HEAD], b), count)
        store_part(folded[OFFSET], channel, narrow(folded[HEAD], d - b * (tail * inv_std)), count)


@inlined
def finish_gradients(gradients, folded, sums, statistics, parameters, first, last, m, ddof, frozen):
    """Turns the sums of the channels first..last-1 into their gradients and the constants of dx.

    The arguments are those of the two functions above.
    """
    _gradients_of_sums(gradients, folded, sums, statistics, first, last)
    _gradient_constants(folded, gradients, statistics, parameters, first, last, m, ddof, frozen)


@worker
def fold_statistics(constants, folded, statistics, parameters, spans):
    """Head, scale and shift of all channels, before the slices of their gradients are summed."""
    channel_constants(folded, statistics, parameters, 0, statistics.shape[1])
    broadcast_channels(constants, folded, HEAD, SHIFT + 1, spans)


@worker
def fold_gradient_slices(
    gradients, constants, folded, sums, statistics, parameters, spans, m, ddof, frozen
):
    """`finish_gradients` for all channels, from the sums (slices, 2, ld) of their slices."""
    c = statistics.shape[1]
    add_slices(sums)
    reduce_channels(sums[0], c, spans)
    finish_gradients(gradients, folded, sums[0], statistics, parameters, 0, c, m, ddof, frozen)
    broadcast_channels(constants, folded, DY_SCALE, OFFSET + 1, spans)


@worker
def fold_gradients(constants, folded, gradients, statistics, parameters, spans, m, ddof):
    """The constants of dx from dgamma and dbeta (2, c) of more than x: of all parts of a batch."""
    c = statistics.shape[1]
    _gradient_constants(folded, gradients, statistics, parameters, 0, c, m, ddof, False)
    broadcast_channels(constants, folded, DY_SCALE, OFFSET + 1, spans)


@inlined
def _apply(
    dx, dresidual, dy, x, residual, w, i, count, head, scale, shift, a, r, b, offset, activation,
    frozen, stream,
):  # fmt: skip
    """Writes dx and dresidual, each unless it is None, at ``i : i + count``.

    `w` are weights of the places, or None.
    """
    g, v = gradient_and_deviation(dy, x, residual, None, i, count, head, scale, shift, activation)
    if dresidual is not None:
        store_part(dresidual, i, g, count)
    if dx is not None:
        # b = d = 0 would do for frozen statistics, were it not for 0 * inf.
        if w is None:
            g = a * g if frozen else fma(a, g, fma(b, v * r, offset))
        else:
            g = fma(a, g, w * fma(b, v * r, offset))
        if stream:
            store_stream(dx, i, g)
        else:
            store_part(dx, i, g, count)


@inlined
def _of_channel(like, constants, channel):
    """A channel's constants, each in all lanes of a vector like another."""
    return (
        splat(like, constants[HEAD, channel]),
        splat(like, constants[SCALE, channel]),
        splat(like, constants[SHIFT, channel]),
        splat(like, constants[DY_SCALE, channel]),
        splat(like, constants[INV_STD, channel]),
        splat(like, constants[XH_SCALE, channel]),
        splat(like, constants[OFFSET, channel]),
    )


@inlined
def _blended(count, these, others):
    """The constants of two channels: `count` lanes of the one, then those of the other."""
    return (
        blend(count, these[0], others[0]),
        blend(count, these[1], others[1]),
        blend(count, these[2], others[2]),
        blend(count, these[3], others[3]),
        blend(count, these[4], others[4]),
        blend(count, these[5], others[5]),
        blend(count, these[6], others[6]),
    )


@inlined
def _apply_by(
    of_channel, dx, dresidual, dy, x, residual, weights, i, away, count, activation, frozen, stream
):
    """`_apply` with the constants of a channel in a tuple, and weights `away` places before."""
    head, scale, shift, a, r, b, offset = of_channel
    w = weights_at(weights, i - away, count, head)
    _apply(
        dx, dresidual, dy, x, residual, w, i, count, head, scale, shift, a, r, b, offset,
        activation, frozen, stream,
    )  # fmt: skip


@inlined
def apply_run(
    dx, dresidual, dy, x, residual, weights, start, end, constants, channel, left, activation,
    frozen, stream, c, s,
):  # fmt: skip
    """Writes dx and dresidual at ``start:end``, planes of one channel after the other.

    See `normalize_run`. Weights are those of places, (n s,), or None.
    """
    width = lanes(x)
    register = lanes_of_register(x)
    i = start
    aligned = start if dx is None else start + misalignment(dx, start) % register
    plane_end = start + left
    while i < end:
        stop = min(plane_end, end)
        following = channel + 1 if channel + 1 < c else 0
        away = (plane_end - s) - (plane_end - s) // (c * s) * s  # of values from their weights
        these = _of_channel(splat_register(x, 0.0), constants, channel)
        if i >= aligned:
            if i + width <= stop:
                wide = _of_channel(splat(x, 0.0), constants, channel)
                while i + width <= stop:
                    _apply_by(
                        wide, dx, dresidual, dy, x, residual, weights, i, away, width, activation,
                        frozen, stream,
                    )  # fmt: skip
                    i += width
            while i + register <= stop:
                _apply_by(
                    these, dx, dresidual, dy, x, residual, weights, i, away, register, activation,
                    frozen, stream,
                )  # fmt: skip
                i += register
        if i < stop:
            if weights is None and i >= aligned and i + register <= end and s >= register:
                others = _of_channel(splat_register(x, 0.0), constants, following)
                both = _blended(stop - i, these, others)
                _apply_by(
                    both, dx, dresidual, dy, x, residual, None, i, 0, register, activation, frozen,
                    stream,
                )  # fmt: skip
                i += register
            else:
                count = (stop if i >= aligned else min(stop, aligned)) - i
                _apply_by(
                    these, dx, dresidual, dy, x, residual, weights, i, away, count, activation,
                    frozen, False,
                )  # fmt: skip
                i += count
                if weights is not None and i > aligned:
                    aligned = i if dx is None else i + misalignment(dx, i) % register
        if i >= plane_end:
            channel = following
            plane_end += s


@inlined
def _apply_down(
    dx, dresidual, dy, x, residual, weights, constants, top, bottom, j, count, row_length,
    activation, frozen, stream,
):  # fmt: skip
    """Writes dx and dresidual in the columns j..j+count-1 of a few rows."""
    head = load(constants[HEAD], j)
    scale = load(constants[SCALE], j)
    shift = load(constants[SHIFT], j)
    a = load(constants[DY_SCALE], j)
    r = load(constants[INV_STD], j)
    b = load(constants[XH_SCALE], j)
    offset = load(constants[OFFSET], j)
    for row in range(top, bottom):
        w = weights_of_row(weights, row, head)
        _apply(
            dx, dresidual, dy, x, residual, w, row * row_length + j, count, head, scale, shift, a,
            r, b, offset, activation, frozen, stream,
        )  # fmt: skip


@inlined
def apply_block(
    dx, dresidual, dy, x, residual, weights, constants, rows, columns, row_length, activation,
    frozen, stream,
):  # fmt: skip
    """Writes dx and dresidual of a block of columns, the last rows first: see `normalize_block`."""
    width = lanes(x)
    height = written_rows(x, row_length)
    bottom = rows[1]
    while bottom > rows[0]:
        top = max(bottom - height, rows[0])
        whole = columns[1] - (columns[1] - columns[0]) % width
        for j in range(columns[0], whole, width):
            _apply_down(
                dx, dresidual, dy, x, residual, weights, constants, top, bottom, j, width,
                row_length, activation, frozen, stream,
            )  # fmt: skip
        if whole < columns[1]:
            _apply_down(
                dx, dresidual, dy, x, residual, weights, constants, top, bottom, whole,
                columns[1] - whole, row_length, activation, frozen, False,
            )  # fmt: skip
        bottom = top


@worker
def apply_planes(
    lo, hi, dx, dresidual, dy, x, residual, weights, constants, activation, frozen, stream, size,
    shape,
):  # fmt: skip
    """Writes dx and dresidual of planes, in tiles of `size` values of which tile 0 is the last.

    dx          (n c s,), written, or None; may be dy
    dresidual   (n c s,), written, or None
    dy, x       (n c s,)
    residual    (n c s,) or None
    weights     (n s,) of the data's type, or None
    constants   (7, c): see channels.py
    activation  None or a tuple of activations.py
    frozen      whether the statistics were given
    stream      whether dx is written past the caches
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
        apply_run(
            dx, dresidual, dy, x, residual, weights, start, end, constants, plane % c, left,
            activation, frozen, stream, c, s,
        )  # fmt: skip


apply_planes_parallel = parallel(apply_planes)


@worker
def apply_columns(
    lo, hi, dx, dresidual, dy, x, residual, weights, constants, activation, frozen, stream, height,
    row_length,
):  # fmt: skip
    """Writes dx and dresidual of rows, in tiles of `height` rows of which tile 0 is the last.

    `constants` is (7, ld), and `weights` has a number for each row or is None; the other arguments
    are those of `apply_planes`.
    """
    rows = x.size // row_length
    rest = x.size - rows * row_length
    tiles = max(1, -(-rows // height))
    for tile in range(lo, hi):
        top = (tiles - 1 - tile) * height
        bottom = min(top + height, rows)
        if bottom == rows and rest > 0:
            apply_block(
                dx, dresidual, dy, x, residual, weights, constants, (rows, rows + 1), (0, rest),
                row_length, activation, frozen, False,
            )  # fmt: skip
        apply_block(
            dx, dresidual, dy, x, residual, weights, constants, (top, bottom), (0, row_length),
            row_length, activation, frozen, stream,
        )  # fmt: skip


apply_columns_parallel = parallel(apply_columns)
