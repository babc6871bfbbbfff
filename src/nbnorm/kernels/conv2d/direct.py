"""Convolutions as products of matrices that are never laid out: rows are pixels, columns channels.

    z[place, k] = sum over taps t and channels c of x[place + t, c] weight[t, c, k]

The multiply finds the pixels of a row of the product by a table, and the taps of the window by
another, so that nothing is gathered: it reads a band of the input (images.py) as it lies, and the
weights in panels (`pack_weights`). Forward and gradient of the input are the same kernel with other
taps; the gradient of the weights is a product along the places instead.
"""

from __future__ import annotations

from nbnorm.jit.options import driver, inlined, prange, worker
from nbnorm.kernels.batch_norm.moments import begin_sums, choose_pivot
from nbnorm.kernels.batch_norm.normalize import normalize_block, normalize_segment
from nbnorm.kernels.batch_norm.sums import sum_block, sum_plane
from nbnorm.kernels.conv2d.images import band_count, find_band, place_of, write_pixels
from nbnorm.kernels.copies import copy_row, transpose
from nbnorm.kernels.gemm.microkernel import (
    DEPTH,
    Block,
    Panels,
    Rows,
    multiply_block,
    padded_width,
    panel_width,
)

# Output channels in a step; its weights, DEPTH of each, are then half of the second cache.
COLUMNS = 512


# Shares of the output channels begin at multiples of this: at a panel, whatever the registers.
WHOLE = 64


@inlined
def taps_at_once(taps, depth):
    """Taps of the window in a step: several where channels are few."""
    return max(1, min(taps, DEPTH // depth))


@inlined
def depth_at_once(depth):
    """Channels of a tap in a step: equal parts of at most DEPTH."""
    return -(-depth // (-(-depth // DEPTH)))


@inlined
def share_of(columns, piece, pieces):
    """The columns first..last-1 of one of so many pieces: whole panels."""
    first = columns * piece // pieces // WHOLE * WHOLE
    last = columns * (piece + 1) // pieces // WHOLE * WHOLE
    return first, (columns if piece + 1 == pieces else last)


@worker
def pack_weights(lo, hi, packed, weight, turned, taps, steps, sizes):
    """Packs the weights of all groups in the order of `convolve`'s steps.

    lo, hi   panels: tile t is panel ``t % panels`` of group ``t // panels``
    packed   (groups, taps * depth * padded columns), written
    weight   flat; group g, tap t, depth p, column j lies at ``g steps[0] + taps[t] + p steps[1] +
             j steps[2]``
    turned   (panels * groups, window * widest panel), scratch; the window in whole registers
    sizes    (depth, columns, panels, window): the last, how many taps lie together in `weight`
    """
    depth, columns, panels, window = sizes
    count = taps_at_once(taps.size, depth)
    part = depth_at_once(depth)
    padded = padded_width(packed[0], columns)
    for tile in range(lo, hi):
        group = tile // panels
        j = 0
        for _ in range(tile - group * panels):
            j += panel_width(packed[0], columns - j)
        width = panel_width(packed[0], columns - j)
        used = min(width, columns - j)
        to = packed[group]
        start = group * steps[0] + j * steps[2]
        if steps[1] == 1:  # one tap, which is all of its step
            for p in range(0, depth, part):
                high = min(part, depth - p)
                transpose(
                    to, p * padded + j * high, width, weight, start + p, steps[2], used, high, width
                )
            continue
        for p in range(depth):
            first = p // part * part
            high = min(part, depth - first)
            if steps[2] > 1:
                transpose(
                    turned[tile], 0, width, weight, start + p * steps[1], steps[2], used, window,
                    width,
                )  # fmt: skip
            for t in range(taps.size):
                low = t // count * count
                together = min(count, taps.size - low)
                at = (
                    (low * depth + first) * padded + j * together * high
                    + ((t - low) * high + p - first) * width
                )  # fmt: skip
                if steps[2] > 1:
                    copy_row(to, at, turned[tile], taps[t] * width, width, width)
                else:
                    copy_row(to, at, weight, start + p * steps[1] + taps[t], used, width)


@driver
def pack_weights_parallel(tiles, packed, weight, turned, taps, steps, sizes):
    """`pack_weights` over all tiles."""
    for tile in prange(tiles):
        pack_weights(tile, tile + 1, packed, weight, turned, taps, steps, sizes)


@worker
def convolve(
    lo, hi, z, x, packed, bands, turned, products, lines, tables, constants, residual, activation,
    sums, pivots, tap_rows, tap_columns, view, out_view, grid, origin, band, groups, shares,
):  # fmt: skip
    """A convolution by slots, each a share of the bands and a share of the output channels.

    Slot t has share ``t // shares[1]`` of the bands and share ``t % shares[1]`` of the channels.

    lo, hi      slots
    z           the output, flat, written at the grid's places
    x           the input, flat
    packed      (groups, taps * c * padded k) from `pack_weights`
    bands       (slots, pixels of a band * c of all groups), scratch; 1 where none is copied
    turned      (slots, pixels * c), scratch, for inputs whose channels lie first
    products    (slots, places * k of a group), scratch, for outputs that are not written in place
    lines       (2, places in whole tiles) of int64: where each place of a band begins in its input,
                of a whole band and of the last one
    tables      (slots, taps) of int64, scratch
    constants   (>= 3, stride): head, scale and shift, to be applied to z in place; or None
    residual    of z's shape, or None
    activation  None or a tuple of activations.py
    sums        (shares[0], 2, stride) float64, written, or None: sum(v) and sum(v^2) of each
                channel in each share of the bands, where v = z - pivot
    pivots      (shares[0], 3, stride) of the data's type, written in row HEAD, or None
    tap_rows, tap_columns   (taps,) of int64: see images.py, as for the rest
    view, out_view, grid, origin, band
    groups      of channels
    shares      (of the bands, of the output channels)
    """
    n, _, _, c, _ = view
    _, _, _, k, channels_last = out_view
    _, _, _, _, top, left, _ = band
    taps = tap_rows.size
    depth = c // groups
    columns = k // groups
    together = taps_at_once(taps, depth)
    part = depth_at_once(depth)
    padded = padded_width(z, columns)
    count = band_count(n, grid, band)
    whole = band[0] * band[1] * grid[1]
    in_place = channels_last and origin == (0, 1, 0, 1)
    for slot in range(lo, hi):
        share = slot // shares[1]
        piece = slot - share * shares[1]
        table = tables[slot]
        lowest, highest = share_of(columns, piece, shares[1])
        begin = count * share // shares[0]
        for block in range(begin, count * (share + 1) // shares[0]):
            image, row, images_here, rows_here = place_of(block, n, grid, band)
            places = images_here * rows_here * grid[1]
            source, pitch, _, base = find_band(
                bands[slot], turned[slot], x, view, band, grid, image, row
            )
            begins = lines[0 if places == whole else 1]
            for group in range(groups):
                for first in range(lowest, highest, COLUMNS):
                    last = min(first + COLUMNS, highest)
                    channel = group * columns + first
                    target = z
                    step = k
                    start = (image * grid[0] + row) * grid[1] * k + channel
                    if not in_place:
                        target = products[slot]
                        step = last - first
                        start = 0
                    done = 0
                    for tap in range(0, taps, together):
                        used = min(together, taps - tap)
                        for p in range(0, depth, part):
                            high = min(part, depth - p)
                            for t in range(used):
                                table[t] = (
                                    (base + (tap_rows[tap + t] - top) * pitch
                                     + tap_columns[tap + t] - left) * c
                                    + group * depth + p
                                )  # fmt: skip
                            multiply_block(
                                Block(target, start, step),
                                Rows(source, begins, table[:used], 1),
                                Panels(packed[group], done * padded + first * used * high, high),
                                places, last - first, done > 0,
                            )  # fmt: skip
                            done += used * high
                    if not in_place:
                        write_pixels(
                            z, target, step, out_view, grid, origin, image, row, images_here,
                            rows_here, channel, channel + last - first,
                        )  # fmt: skip
                    finish(
                        z, constants, residual, activation, sums, pivots, share, block == begin,
                        image, row, images_here, rows_here, channel, channel + last - first,
                        out_view,
                    )  # fmt: skip


@inlined
def finish(
    z, constants, residual, activation, sums, pivots, share, begins, image, row, images, rows,
    first, last, out_view,
):  # fmt: skip
    """What follows the product: constants applied, sums taken."""
    n, h, w, k, channels_last = out_view
    plane = h * w
    if channels_last:
        taken = ((image * h + row) * w, (image * h + row) * w + images * rows * w)
        if constants is not None:
            normalize_block(z, z, residual, constants, taken, (first, last), k, activation, False)
        if sums is not None:
            if begins:
                begin_sums(sums[share], pivots[share], z, taken, (first, last), k)
            sum_block(sums[share], None, z, None, pivots[share], taken, (first, last), k, None)
    else:
        length = rows * w
        if constants is not None:
            for one in range(image, image + images):
                for channel in range(first, last):
                    start = (one * k + channel) * plane + row * w
                    normalize_segment(
                        z, z, residual, start, length, constants, channel, activation, False
                    )
        if sums is not None:
            begin = image * plane + row * w
            end = begin + images * length
            for channel in range(first, last):
                if begins:
                    shape = (1, 1, length)
                    start = (image * k + channel) * plane + row * w
                    choose_pivot(pivots[share][:, channel:], z[start:], 0, shape)
                    sums[share, 0, channel] = 0.0
                    sums[share, 1, channel] = 0.0
                s, q = sum_plane(
                    None, z, None, pivots[share], channel, begin, end, None, (n, k, plane)
                )
                sums[share, 0, channel] += s
                sums[share, 1, channel] += q


@driver
def convolve_parallel(
    slots, z, x, packed, bands, turned, products, lines, tables, constants, residual, activation,
    sums, pivots, tap_rows, tap_columns, view, out_view, grid, origin, band, groups, shares,
):  # fmt: skip
    """`convolve` over all slots."""
    for slot in prange(slots):
        convolve(
            slot, slot + 1, z, x, packed, bands, turned, products, lines, tables, constants,
            residual, activation, sums, pivots, tap_rows, tap_columns, view, out_view, grid,
            origin, band, groups, shares,
        )  # fmt: skip


@inlined
def _pack_gradient(to, dz, view, first, last, image, row, images, rows):
    """Packs a band of dz, some of its channels, in panels of all places of the band."""
    _, h, w, k, channels_last = view
    places = images * rows * w
    j = first
    while j < last:
        width = panel_width(to, last - j)
        used = min(width, last - j)
        at = (j - first) * places
        for one in range(image, image + images):
            if channels_last:
                start = (one * h + row) * w
                for i in range(start, start + rows * w):
                    copy_row(to, at, dz, i * k + j, used, width)
                    at += width
            else:
                start = (one * k + j) * h * w + row * w
                transpose(to, at, width, dz, start, h * w, used, rows * w, width)
                at += rows * w * width
        j += width


@worker
def weight_gradient(
    lo, hi, products, dz, x, bands, turned, panels, channels, tables, tap_rows, tap_columns, view,
    dz_view, grid, band, groups, shares,
):  # fmt: skip
    """The gradient of a convolution's weights by slots, as in `convolve`.

    products  (shares[0], groups, taps, c / groups, k / groups) flat: written, the sum over the
              bands of each share
    dz        the gradient of the output, flat
    panels    (slots, places * padded k / groups), scratch
    channels  (channels of a group in whole tiles,) of int64: 0, 1, 2, ..., the last one repeated
    tables    (slots, rows of places of a band) of int64, scratch
    The other arguments are those of `convolve`.
    """
    n, _, _, c, _ = view
    k = dz_view[3]
    _, _, _, _, top, left, _ = band
    taps = tap_rows.size
    depth = c // groups
    columns = k // groups
    count = band_count(n, grid, band)
    for slot in range(lo, hi):
        share = slot // shares[1]
        piece = slot - share * shares[1]
        lowest, highest = share_of(columns, piece, shares[1])
        if lowest == highest:
            continue
        table = tables[slot]
        begin = count * share // shares[0]
        for block in range(begin, count * (share + 1) // shares[0]):
            image, row, images_here, rows_here = place_of(block, n, grid, band)
            source, pitch, image_step, base = find_band(
                bands[slot], turned[slot], x, view, band, grid, image, row
            )
            for group in range(groups):
                channel = group * columns
                _pack_gradient(
                    panels[slot], dz, dz_view, channel + lowest, channel + highest, image, row,
                    images_here, rows_here,
                )  # fmt: skip
                for tap in range(taps):
                    start = base + (tap_rows[tap] - top) * pitch + tap_columns[tap] - left
                    for one in range(images_here):
                        for i in range(rows_here):
                            line = start + one * image_step + i * grid[2] * pitch
                            table[one * rows_here + i] = line * c + group * depth
                    to = ((share * groups + group) * taps + tap) * depth * columns + lowest
                    multiply_block(
                        Block(products, to, columns),
                        Rows(source, channels, table[: images_here * rows_here], grid[3] * c),
                        Panels(panels[slot], 0, grid[1]),
                        depth, highest - lowest, block > begin,
                    )  # fmt: skip


@driver
def weight_gradient_parallel(
    slots, products, dz, x, bands, turned, panels, channels, tables, tap_rows, tap_columns, view,
    dz_view, grid, band, groups, shares,
):  # fmt: skip
    """`weight_gradient` over all slots."""
    for slot in prange(slots):
        weight_gradient(
            slot, slot + 1, products, dz, x, bands, turned, panels, channels, tables, tap_rows,
            tap_columns, view, dz_view, grid, band, groups, shares,
        )  # fmt: skip


# Output channels that are collected together: a cache line of them, so that each is read once.
COLLECTED = 16


@worker
def collect_weights(lo, hi, dweight, products, sizes):
    """Adds the shares of `weight_gradient` in order.

    lo, hi    tiles: tile t is the output channels COLLECTED t, ... of all groups
    dweight   (k, c / groups, taps), written
    products  (shares, groups, taps, c / groups, k / groups)
    sizes     (shares, groups, taps, c / groups, k / groups)
    """
    shares, groups, taps, depth, columns = sizes
    size = groups * taps * depth * columns
    for first in range(lo * COLLECTED, min(hi * COLLECTED, groups * columns), COLLECTED):
        last = min(first + COLLECTED, groups * columns)
        for p in range(depth):
            for tap in range(taps):
                for channel in range(first, last):
                    group = channel // columns
                    line = (group * taps + tap) * depth + p
                    at = line * columns + channel - group * columns
                    result = products[at]
                    for share in range(1, shares):
                        result += products[share * size + at]
                    dweight[(channel * depth + p) * taps + tap] = result


@driver
def collect_weights_parallel(tiles, dweight, products, sizes):
    """`collect_weights` over all tiles."""
    for tile in prange(tiles):
        collect_weights(tile, tile + 1, dweight, products, sizes)
