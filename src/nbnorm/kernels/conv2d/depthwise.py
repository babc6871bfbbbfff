"""Depthwise convolutions: each output channel is of one input channel, and they fill the lanes.

    z[pixel, k] = sum over taps t of x[pixel + t, k] weight[t, k]

Pixels are read where they lie, or from a copy of the block with zeros around it, as the launcher
says: where all taps lie inside, a table says where, once for some rows, and positions at the edges
have a table each.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from nbnorm.jit.options import inlined, worker
from nbnorm.jit.parallel import parallel
from nbnorm.jit.simd import accumulate, fma, lanes, load_part, splat, splat_half, store_part
from nbnorm.kernels.conv2d.epilogue import finish
from nbnorm.kernels.conv2d.geometry import Geometry, Workspace, blocks_of, find_block
from nbnorm.kernels.conv2d.grouped import TAPS_AT_ONCE, read_gradient
from nbnorm.kernels.conv2d.images import copy_input, write_block
from nbnorm.kernels.copies import transpose
from nbnorm.kernels.gemm.epilogue import Epilogue

# Rows that are worked out together. One below the other, because their taps share pixels that are
# then fetched from the L2 cache once: of one row after the other, each pixel is for each row anew.
ROWS_AT_ONCE = 4

# Positions whose products are added in the data's type before float64 takes their sum: whole rows,
# one at least. Of rows of 7, float64 would cost as much as the products.
POSITIONS_AT_ONCE = 64


class Source(NamedTuple):
    """Where the pixels of a block are to be read: channels last, rows and columns of the image.

    Pixel (row, column) of the block's image i is pixel
    ``first + i image_step + (row - top) row_step + column - left`` of `flat`, zero where it is not
    from (top, left) to (bottom - 1, right - 1).
    """

    flat: Any
    first: Any
    image_step: Any
    row_step: Any
    top: Any
    left: Any
    bottom: Any
    right: Any


class Pass(NamedTuple):
    """Some taps of the window, at the positions that they are worked out for.

    rows, columns    of positions
    z_row, z_column  the first pixel of the output that they make; the geometry has the steps
    begin, end       taps of the geometry: those from begin to end - 1
    """

    rows: Any
    columns: Any
    z_row: Any
    z_column: Any
    begin: Any
    end: Any


class Target(NamedTuple):
    """Where a block is to be written: at ``first + image image_step + i row_step + j column_step``.

    Steps count numbers; (i, j) is a position of the block's image.
    """

    flat: Any
    first: Any
    image_step: Any
    row_step: Any
    column_step: Any


class Taps(NamedTuple):
    """The taps of a position: where each one's pixel begins, whether it is inside, its weights."""

    starts: Any
    inside: Any
    weights: Any


class Weights(NamedTuple):
    """The weights of the window, (its taps, k) flat, and which of these rows a tap has."""

    flat: Any
    rows: Any


@worker
def pack_weights(packed, weight, window, k):
    """Lays the weights (k, window) out as (window, k)."""
    transpose(packed, 0, k, weight, 0, window, k, window, k)


@inlined
def _read(input_block, transposed, x, block, geometry):
    """The `Source` of a block: the image itself, or a copy of what it needs."""
    if not geometry.copied:
        h, w = geometry.h, geometry.w
        return Source(x, block.image * h * w, h * w, w, 0, 0, h, w)
    copy_input(input_block, transposed, x, block, geometry)
    height, width = geometry.input_height, geometry.input_width
    top, left = block.row * geometry.stride_h + geometry.top, geometry.left
    return Source(
        input_block, 0, height * width, width, top, left, top + height, left + width
    )  # fmt: skip


@inlined
def _pixel(source, image, row, column):
    """Where a pixel lies, and whether it is inside; 0 if it is not."""
    inside = source.top <= row < source.bottom and source.left <= column < source.right
    pixel = 0
    if inside:
        pixel = source.first + image * source.image_step + column - source.left
        pixel += (row - source.top) * source.row_step
    return pixel, inside


@inlined
def _inside(offsets, begin, end, stride, first, last, count):
    """The positions a..b-1 of `count`, down or across, all of whose taps lie from first to last-1.

    offsets  pixels from a position to each tap, of which those from `begin` to `end` - 1 are taken
    """
    low = high = 0
    if begin < end:
        low = high = offsets[begin]
    for t in range(begin, end):
        low = min(low, offsets[t])
        high = max(high, offsets[t])
    a = min(max(-(-(first - low) // stride), 0), count)
    return a, max(a, min((last - 1 - high) // stride + 1, count))


@worker
def convolve(lo, hi, z, x, packed, taps, passes, work, epilogue, activation, geometry):
    """A depthwise convolution and its epilogue.

    Partitions have all channels. With several passes channels of the output lie last.

    packed  from `pack_weights`
    taps    (taps,) of int64: the number in the window of each tap of the geometry
    passes  (passes, 6) of int64: a `Pass` each; one without taps writes zeros
    work    a `Workspace` with output_blocks of (positions of a block * k), and tap_offsets of
            (3 * taps)
    The other arguments are those of direct.py's `convolve`.
    """
    work, epilogue = Workspace(*work), Epilogue(*epilogue)
    geometry, weights = Geometry(*geometry), Weights(packed, taps)
    channels = (0, geometry.k)
    count = taps.size
    for partition in range(lo, hi):
        part, begin, end = blocks_of(partition, geometry)
        output_block, offsets = work.output_blocks[partition], work.tap_offsets[partition]
        taps_ = Taps(offsets[:count], offsets[count : 2 * count], offsets[2 * count :])
        for number in range(begin, end):
            block = find_block(number, geometry)
            source = _read(
                work.input_blocks[partition], work.transposed[partition], x, block, geometry
            )
            for i in range(passes.shape[0]):
                pass_ = Pass(
                    passes[i, 0], passes[i, 1], passes[i, 2], passes[i, 3], passes[i, 4],
                    passes[i, 5],
                )  # fmt: skip
                to = _target(z, output_block, pass_, block, geometry)
                _convolve_block(to, source, weights, pass_, taps_, block, geometry)
            if not geometry.z_last:
                write_block(z, output_block, geometry.k, channels, block, geometry)
            finish(z, epilogue, activation, part, number == begin, channels, block, geometry)


convolve_parallel = parallel(convolve)


@inlined
def _target(z, output_block, pass_, block, geometry):
    """Where a pass writes: the output where its channels lie last, else a block of its own."""
    k = geometry.k
    if geometry.z_last:
        row_step = geometry.z_w * k
        first = (block.image * geometry.z_h + pass_.z_row) * row_step + pass_.z_column * k
        return Target(
            z, first, geometry.z_h * row_step, geometry.z_row_step * row_step,
            geometry.z_column_step * k,
        )  # fmt: skip
    row_step = pass_.columns * k
    return Target(output_block, -block.row * row_step, block.rows * row_step, row_step, k)


@inlined
def _convolve_block(to, source, weights, pass_, taps, block, geometry):
    """A pass over a block: rows together where all taps lie inside, down, and others by position.

    The last rows of the inside are worked out together with some before them once more.
    """
    inside = _inside(
        geometry.tap_rows, pass_.begin, pass_.end, geometry.stride_h, source.top, source.bottom,
        pass_.rows,
    )  # fmt: skip
    columns = _inside(
        geometry.tap_columns, pass_.begin, pass_.end, geometry.stride_w, source.left, source.right,
        pass_.columns,
    )  # fmt: skip
    end = min(block.row + block.rows, pass_.rows)
    first = max(inside[0], block.row)
    last = min(inside[1], end)
    for image in range(block.images):
        i = block.row
        while i < end:
            if i < first or i >= last or last - first < ROWS_AT_ONCE:
                for j in range(pass_.columns):
                    _convolve_position(to, source, weights, pass_, taps, image, i, j, geometry)
                i += 1
            else:
                i = min(i, last - ROWS_AT_ONCE)
                _convolve_rows(to, source, weights, pass_, taps, image, i, columns, geometry)
                i += ROWS_AT_ONCE


@inlined
def _convolve_rows(to, source, weights, pass_, taps, image, i, columns, geometry):
    """ROWS_AT_ONCE rows, whose taps all lie inside in the columns columns[0]..columns[1]-1."""
    k = geometry.k
    width = lanes(to.flat) // 2
    count = pass_.end - pass_.begin
    for j in range(columns[0]):
        for row in range(i, i + ROWS_AT_ONCE):
            _convolve_position(to, source, weights, pass_, taps, image, row, j, geometry)
    for t in range(count):
        tap = pass_.begin + t
        row = i * geometry.stride_h + geometry.tap_rows[tap] - source.top
        pixel = source.first + image * source.image_step + row * source.row_step
        taps.starts[t] = (pixel + geometry.tap_columns[tap] - source.left) * k
        taps.weights[t] = weights.rows[tap] * k
    used = Taps(taps.starts[:count], taps.inside[:count], taps.weights[:count])
    apart = geometry.stride_h * source.row_step * k
    start = to.first + image * to.image_step + i * to.row_step
    whole = k - k % width
    for j in range(columns[0], columns[1]):
        at = start + j * to.column_step
        beside = j * geometry.stride_w * k
        for channel in range(0, whole, width):
            _convolve_channels(
                to.flat, at + channel, to.row_step, source.flat, beside + channel, apart,
                weights.flat, channel, used, width,
            )  # fmt: skip
        if whole < k:
            _convolve_channels(
                to.flat, at + whole, to.row_step, source.flat, beside + whole, apart,
                weights.flat, whole, used, k - whole,
            )  # fmt: skip
    for j in range(columns[1], pass_.columns):
        for row in range(i, i + ROWS_AT_ONCE):
            _convolve_position(to, source, weights, pass_, taps, image, row, j, geometry)


@inlined
def _convolve_channels(
    to, at, step, x, beside, apart, weight, channel, taps, count
):  # fmt: skip
    """Some channels of ROWS_AT_ONCE neighbours, `step` apart in the output, `apart` in the input.

    Each tap of the first one lies `beside` its place in `taps`.
    """
    zero = splat_half(to, 0.0)
    s0 = s1 = s2 = s3 = zero
    for t in range(taps.starts.size):
        start = taps.starts[t] + beside
        w = load_part(weight, taps.weights[t] + channel, count, zero)
        s0 = fma(load_part(x, start, count, zero), w, s0)
        s1 = fma(load_part(x, start + apart, count, zero), w, s1)
        s2 = fma(load_part(x, start + 2 * apart, count, zero), w, s2)
        s3 = fma(load_part(x, start + 3 * apart, count, zero), w, s3)
    store_part(to, at, s0, count)
    store_part(to, at + step, s1, count)
    store_part(to, at + 2 * step, s2, count)
    store_part(to, at + 3 * step, s3, count)


@inlined
def _convolve_position(to, source, weights, pass_, taps, image, i, j, geometry):
    """One position, any of whose taps may lie outside."""
    k = geometry.k
    width = lanes(to.flat) // 2
    count = pass_.end - pass_.begin
    for t in range(count):
        tap = pass_.begin + t
        row = i * geometry.stride_h + geometry.tap_rows[tap]
        column = j * geometry.stride_w + geometry.tap_columns[tap]
        pixel, inside = _pixel(source, image, row, column)
        taps.starts[t] = pixel * k
        taps.inside[t] = inside
        taps.weights[t] = weights.rows[tap] * k
    used = Taps(taps.starts[:count], taps.inside[:count], taps.weights[:count])
    at = to.first + image * to.image_step + i * to.row_step + j * to.column_step
    whole = k - k % width
    for channel in range(0, whole, width):
        _convolve_pixel(to.flat, at + channel, source.flat, weights.flat, channel, used, width)
    if whole < k:
        _convolve_pixel(to.flat, at + whole, source.flat, weights.flat, whole, used, k - whole)


@inlined
def _convolve_pixel(to, at, x, weight, channel, taps, count):
    """Some channels of one pixel. A tap outside is multiplied too: its weight may be no number."""
    zero = splat_half(to, 0.0)
    s = zero
    for t in range(taps.starts.size):
        w = load_part(weight, taps.weights[t] + channel, count, zero)
        if taps.inside[t]:
            s = fma(load_part(x, taps.starts[t] + channel, count, zero), w, s)
        else:
            s = fma(zero, w, s)
    store_part(to, at, s, count)


@worker
def weight_gradient(lo, hi, sums, dz, x, work, geometry):
    """The gradient of the weights of a depthwise convolution, summed over each part of the blocks.

    sums  (parts of the blocks, taps, ld) float64, written; `ld` is k in whole vectors
    dz    the gradient of the output, flat
    work  a `Workspace` with output_points of (positions of a block * k) for dz, a number where its
          channels lie last
    The other arguments are those of `convolve`.
    """
    work, geometry = Workspace(*work), Geometry(*geometry)
    for partition in range(lo, hi):
        part, begin, end = blocks_of(partition, geometry)
        sums[part] = 0.0
        for number in range(begin, end):
            block = find_block(number, geometry)
            source = _read(
                work.input_blocks[partition], work.transposed[partition], x, block, geometry
            )
            gradient = read_gradient(work.output_points[partition], dz, block, geometry)
            _sum_block(sums[part], source, gradient, block, geometry)


weight_gradient_parallel = parallel(weight_gradient)


@inlined
def _sum_block(sums, source, gradient, block, geometry):
    """Adds a block to the gradients of all weights.

    All taps of some channels, then the next channels: their pixels are then in the L1 cache.
    """
    k = geometry.k
    width = lanes(source.flat)
    whole = k - k % width
    rows = max(1, POSITIONS_AT_ONCE // geometry.columns)
    for image in range(block.images):
        for first in range(0, block.rows, rows):
            some = (first, min(first + rows, block.rows))
            for channel in range(0, whole, width):
                for t in range(0, geometry.tap_rows.size, TAPS_AT_ONCE):
                    _sum_taps(
                        sums, t, source, gradient, image, some, block, channel, width, geometry
                    )  # fmt: skip
            if whole < k:
                for t in range(0, geometry.tap_rows.size, TAPS_AT_ONCE):
                    _sum_taps(
                        sums, t, source, gradient, image, some, block, whole, k - whole, geometry
                    )  # fmt: skip


@inlined
def _sum_taps(sums, t, source, gradient, image, rows, block, channel, count, geometry):
    """Some rows of a block's image, for up to TAPS_AT_ONCE taps of `count` channels."""
    k = geometry.k
    zero = splat(source.flat, 0.0)
    s0 = s1 = s2 = zero
    last = geometry.tap_rows.size - 1
    taps = (t, min(t + 1, last), min(t + 2, last))
    end = taps[2] + 1
    down = _inside(
        geometry.tap_rows, t, end, geometry.stride_h, source.top, source.bottom, geometry.rows
    )
    across = _inside(
        geometry.tap_columns, t, end, geometry.stride_w, source.left, source.right,
        geometry.columns,
    )  # fmt: skip
    step = geometry.stride_w * k
    for i in range(rows[0], rows[1]):
        row = block.row + i
        begin, stop = across if down[0] <= row < down[1] else (0, 0)
        pixel = gradient.first + image * gradient.image_step + i * gradient.row_step
        at = pixel * k + channel
        for j in range(begin):
            s0, s1, s2 = _sum_position(
                (s0, s1, s2), gradient.flat, at, source, image, row, j, taps, channel, count,
                geometry,
            )  # fmt: skip
        if begin < stop:
            a0 = _tap_pixel(source, image, row, begin, taps[0], geometry)[0] * k + channel
            a1 = _tap_pixel(source, image, row, begin, taps[1], geometry)[0] * k + channel
            a2 = _tap_pixel(source, image, row, begin, taps[2], geometry)[0] * k + channel
            for j in range(stop - begin):
                dz = load_part(gradient.flat, at + (begin + j) * k, count, zero)
                s0 = fma(load_part(source.flat, a0 + j * step, count, zero), dz, s0)
                s1 = fma(load_part(source.flat, a1 + j * step, count, zero), dz, s1)
                s2 = fma(load_part(source.flat, a2 + j * step, count, zero), dz, s2)
        for j in range(stop, geometry.columns):
            s0, s1, s2 = _sum_position(
                (s0, s1, s2), gradient.flat, at, source, image, row, j, taps, channel, count,
                geometry,
            )  # fmt: skip
    accumulate(sums[t], channel, s0)
    if t < last:
        accumulate(sums[t + 1], channel, s1)
    if t + 1 < last:
        accumulate(sums[t + 2], channel, s2)


@inlined
def _tap_pixel(source, image, i, j, tap, geometry):
    """Where the pixel of a tap at a position lies, and whether it is inside; 0 if it is not."""
    row = i * geometry.stride_h + geometry.tap_rows[tap]
    return _pixel(source, image, row, j * geometry.stride_w + geometry.tap_columns[tap])


@inlined
def _sum_position(sums, dz, at, source, image, i, j, taps, channel, count, geometry):
    """Adds a position at an edge to the sums of three taps; zeros outside are multiplied too."""
    zero = splat(source.flat, 0.0)
    gradient = load_part(dz, at + j * geometry.k, count, zero)
    x0 = _load_tap(source, image, i, j, taps[0], channel, count, geometry)
    x1 = _load_tap(source, image, i, j, taps[1], channel, count, geometry)
    x2 = _load_tap(source, image, i, j, taps[2], channel, count, geometry)
    return fma(x0, gradient, sums[0]), fma(x1, gradient, sums[1]), fma(x2, gradient, sums[2])


@inlined
def _load_tap(source, image, i, j, tap, channel, count, geometry):
    """Channels of a tap's pixel at a position; zeros outside."""
    vector = splat(source.flat, 0.0)
    pixel, inside = _tap_pixel(source, image, i, j, tap, geometry)
    if inside:
        vector = load_part(source.flat, pixel * geometry.k + channel, count, vector)
    return vector
