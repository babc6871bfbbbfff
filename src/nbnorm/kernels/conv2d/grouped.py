"""Convolutions whose groups are narrow, depthwise ones above all, in vectors of output channels.

    z[place, k] = sum over taps t, inputs q of k's group of x[place + t, q] weight[t, q, k]

A group of a few channels would leave most of a panel of the multiply empty. Here the channels of
all groups fill the lanes: each number of a lane's group is first laid beside it, q by q
(`_lay_out`), which for a depthwise convolution is the band itself; then every tap and q is one fma.
"""

from __future__ import annotations

from nbnorm.jit.options import driver, inlined, prange, worker
from nbnorm.jit.shuffles import pick
from nbnorm.jit.simd import (
    accumulate,
    fma,
    lanes,
    lanes_of_register,
    load_part,
    splat,
    store_part,
)
from nbnorm.kernels.conv2d.direct import finish
from nbnorm.kernels.conv2d.images import band_count, find_band, place_of, write_pixels
from nbnorm.kernels.copies import transpose

# Places worked out together: as many sums in registers, and each weight is loaded once for all.
PLACES = 4

# Taps whose gradients are summed together.
TAPS = 3


@inlined
def _lay_out(to, source, pixels, groups, inputs, outputs):
    """``to[pixel, q, k] = source[pixel, k // outputs * inputs + q]``."""
    width = lanes_of_register(to)
    c = groups * inputs
    k = groups * outputs
    picked = inputs == outputs and width % inputs == 0 and inputs <= 8
    whole = k - k % width if picked else 0
    for pixel in range(pixels):
        for q in range(inputs):
            at = (pixel * inputs + q) * k
            for j in range(0, whole, width):
                pick(to, at + j, source, pixel * c + j, inputs, q)
            for j in range(whole, k):
                to[at + j] = source[pixel * c + j // outputs * inputs + q]


@worker
def pack_weights(lo, hi, packed, weight, taps, steps, sizes):
    """Lays the weights out as (taps, inputs, k); tile t is group t.

    lo, hi   groups
    packed   (taps * inputs * k,), written
    weight   flat; group g, tap t, input q, output j lies at ``g steps[0] + taps[t] + q steps[1] +
             j steps[2]``
    sizes    (groups, inputs, outputs) of a group
    """
    groups, inputs, outputs = sizes
    for group in range(lo, hi):
        for t in range(taps.size):
            for q in range(inputs):
                for j in range(outputs):
                    packed[(t * inputs + q) * groups * outputs + group * outputs + j] = weight[
                        group * steps[0] + taps[t] + q * steps[1] + j * steps[2]
                    ]


@inlined
def _convolve_places(to, at, step, source, starts, taps, packed, inputs, k, j, count, places):
    """The channels j..j+count-1 of up to PLACES neighbours, at distance `step` in `to`."""
    zero = splat(to, 0.0)
    s0 = s1 = s2 = s3 = zero
    row = j
    for t in range(taps.size):
        tap = taps[t] + j
        for _ in range(inputs):
            weight = load_part(packed, row, count, zero)
            s0 = fma(load_part(source, starts[0] + tap, count, zero), weight, s0)
            s1 = fma(load_part(source, starts[1] + tap, count, zero), weight, s1)
            s2 = fma(load_part(source, starts[2] + tap, count, zero), weight, s2)
            s3 = fma(load_part(source, starts[3] + tap, count, zero), weight, s3)
            row += k
            tap += k
    store_part(to, at + j, s0, count)
    if places > 1:
        store_part(to, at + step + j, s1, count)
    if places > 2:
        store_part(to, at + 2 * step + j, s2, count)
    if places > 3:
        store_part(to, at + 3 * step + j, s3, count)


@inlined
def _find_taps(table, tap_rows, tap_columns, top, left, pitch, size):
    """Where each tap lies, seen from the first pixel of its place."""
    for t in range(tap_rows.size):
        table[t] = ((tap_rows[t] - top) * pitch + tap_columns[t] - left) * size


@worker
def convolve(
    lo, hi, z, x, packed, bands, turned, wide, products, tables, constants, residual, activation,
    sums, pivots, tap_rows, tap_columns, view, out_view, grid, origin, band, sizes, shares,
):  # fmt: skip
    """A convolution by slots, each a share of the bands: see conv_direct.py.

    packed  from `pack_weights`
    wide    (slots, pixels of a band * inputs * k), scratch; 1 for a depthwise convolution
    tables  (slots, taps + PLACES) of int64, scratch
    sizes   (groups, inputs, outputs) of a group
    shares  of the bands
    The other arguments are those of conv_direct.py's `convolve`; bands are copied unless the
    convolution is depthwise.
    """
    n = view[0]
    k = out_view[3]
    channels_last = out_view[4]
    groups, inputs, outputs = sizes
    _, _, _, _, top, left, _ = band
    lanes_ = lanes(z)
    depthwise = inputs == 1 and outputs == 1
    whole = k - k % lanes_
    across = grid[1]
    count = band_count(n, grid, band)
    in_place = channels_last and origin == (0, 1, 0, 1)
    size = inputs * k
    for slot in range(lo, hi):
        begin = count * slot // shares
        taps = tables[slot][: tap_rows.size]
        starts = tables[slot][tap_rows.size :]
        for block in range(begin, count * (slot + 1) // shares):
            image, row, images_here, rows_here = place_of(block, n, grid, band)
            source, pitch, image_step, base = find_band(
                bands[slot], turned[slot], x, view, band, grid, image, row
            )
            if not depthwise:
                pixels = images_here * image_step
                _lay_out(wide[slot], bands[slot], pixels, groups, inputs, outputs)
                source = wide[slot]
            _find_taps(taps, tap_rows, tap_columns, top, left, pitch, size)
            target = z if in_place else products[slot]
            at = (image * grid[0] + row) * across * k if in_place else 0
            for one in range(images_here):
                for i in range(rows_here):
                    start = base + one * image_step + i * grid[2] * pitch
                    for j in range(0, across, PLACES):
                        places = min(PLACES, across - j)
                        for p in range(PLACES):
                            starts[p] = (start + min(j + p, across - 1) * grid[3]) * size
                        for channel in range(0, whole, lanes_):
                            _convolve_places(
                                target, at, k, source, starts, taps, packed, inputs, k, channel,
                                lanes_, places,
                            )  # fmt: skip
                        if whole < k:
                            _convolve_places(
                                target, at, k, source, starts, taps, packed, inputs, k, whole,
                                k - whole, places,
                            )  # fmt: skip
                        at += places * k
            if not in_place:
                write_pixels(
                    z, products[slot], k, out_view, grid, origin, image, row, images_here,
                    rows_here, 0, k,
                )  # fmt: skip
            finish(
                z, constants, residual, activation, sums, pivots, slot, block == begin, image, row,
                images_here, rows_here, 0, k, out_view,
            )  # fmt: skip


@driver
def convolve_parallel(
    slots, z, x, packed, bands, turned, wide, products, tables, constants, residual, activation,
    sums, pivots, tap_rows, tap_columns, view, out_view, grid, origin, band, sizes, shares,
):  # fmt: skip
    """`convolve` over all slots."""
    for slot in prange(slots):
        convolve(
            slot, slot + 1, z, x, packed, bands, turned, wide, products, tables, constants,
            residual, activation, sums, pivots, tap_rows, tap_columns, view, out_view, grid, origin,
            band, sizes, shares,
        )  # fmt: skip


@inlined
def _sum_taps(sums, source, start, step, dz, at, k, taps, t, inputs, q, j, count, across):
    """Adds a row of places to the gradients of up to TAPS taps, channels j..j+count-1."""
    zero = splat(source, 0.0)
    s0 = s1 = s2 = zero
    last = taps.size - 1
    first = start + q * k + j
    a0 = first + taps[t]
    a1 = first + taps[min(t + 1, last)]
    a2 = first + taps[min(t + 2, last)]
    for i in range(across):
        gradient = load_part(dz, at + i * k + j, count, zero)
        s0 = fma(load_part(source, a0 + i * step, count, zero), gradient, s0)
        s1 = fma(load_part(source, a1 + i * step, count, zero), gradient, s1)
        s2 = fma(load_part(source, a2 + i * step, count, zero), gradient, s2)
    accumulate(sums[t * inputs + q], j, s0)
    if t < last:
        accumulate(sums[(t + 1) * inputs + q], j, s1)
    if t + 1 < last:
        accumulate(sums[(t + 2) * inputs + q], j, s2)


@worker
def weight_gradient(
    lo, hi, sums, dz, x, bands, turned, wide, gradients, tables, tap_rows, tap_columns, view,
    dz_view, grid, band, sizes, shares,
):  # fmt: skip
    """The gradient of the weights by slots, each a share of the bands.

    sums       (shares, taps * inputs, stride) float64, written; `stride` is k in whole vectors
    gradients  (slots, places of a band * k), scratch for a dz whose channels lie first
    The other arguments are those of `convolve`.
    """
    n = view[0]
    k = dz_view[3]
    groups, inputs, outputs = sizes
    _, _, _, _, top, left, _ = band
    lanes_ = lanes(x)
    depthwise = inputs == 1 and outputs == 1
    whole = k - k % lanes_
    across = grid[1]
    count = band_count(n, grid, band)
    size = inputs * k
    for slot in range(lo, hi):
        sums[slot] = 0.0
        taps = tables[slot][: tap_rows.size]
        begin = count * slot // shares
        for block in range(begin, count * (slot + 1) // shares):
            image, row, images_here, rows_here = place_of(block, n, grid, band)
            source, pitch, image_step, base = find_band(
                bands[slot], turned[slot], x, view, band, grid, image, row
            )
            if not depthwise:
                pixels = images_here * image_step
                _lay_out(wide[slot], bands[slot], pixels, groups, inputs, outputs)
                source = wide[slot]
            _find_taps(taps, tap_rows, tap_columns, top, left, pitch, size)
            gradient = dz
            at = (image * grid[0] + row) * across * k
            if not dz_view[4]:
                plane = grid[0] * across
                for one in range(images_here):
                    transpose(
                        gradients[slot], one * rows_here * across * k, k, dz,
                        (image + one) * k * plane + row * across, plane, k, rows_here * across,
                        k,
                    )  # fmt: skip
                gradient = gradients[slot]
                at = 0
            for one in range(images_here):
                for i in range(rows_here):
                    start = (base + one * image_step + i * grid[2] * pitch) * size
                    for t in range(0, taps.size, TAPS):
                        for q in range(inputs):
                            for j in range(0, whole, lanes_):
                                _sum_taps(
                                    sums[slot], source, start, grid[3] * size, gradient, at, k,
                                    taps, t, inputs, q, j, lanes_, across,
                                )  # fmt: skip
                            if whole < k:
                                _sum_taps(
                                    sums[slot], source, start, grid[3] * size, gradient, at, k,
                                    taps, t, inputs, q, whole, k - whole, across,
                                )  # fmt: skip
                    at += across * k


@driver
def weight_gradient_parallel(
    slots, sums, dz, x, bands, turned, wide, gradients, tables, tap_rows, tap_columns, view,
    dz_view, grid, band, sizes, shares,
):  # fmt: skip
    """`weight_gradient` over all slots."""
    for slot in prange(slots):
        weight_gradient(
            slot, slot + 1, sums, dz, x, bands, turned, wide, gradients, tables, tap_rows,
            tap_columns, view, dz_view, grid, band, sizes, shares,
        )  # fmt: skip


@worker
def collect_weights(dweight, sums, sizes):
    """Adds the shares of `weight_gradient` in order, into (k, inputs, taps)."""
    groups, inputs, outputs = sizes
    shares, rows, _ = sums.shape
    taps = rows // inputs
    for k in range(groups * outputs):
        for q in range(inputs):
            for t in range(taps):
                result = 0.0
                for share in range(shares):
                    result += sums[share, t * inputs + q, k]
                dweight[(k * inputs + q) * taps + t] = result
