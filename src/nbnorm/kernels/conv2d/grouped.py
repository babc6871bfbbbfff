"""Convolutions whose groups are narrow, depthwise ones above all, in vectors of output channels.

    z[pixel, k] = sum over taps t, channels p of k's group of x[pixel + t, p] weight[t, p, k]

A group of a few channels would leave most of a panel of the multiply empty. Here the channels of
all groups fill the lanes: each input channel of a lane's group is first laid beside it, one after
the other (`_expand`), which for a depthwise convolution is the input block itself; then every tap
and input channel is one fma.
"""

from __future__ import annotations

from nbnorm.jit.options import inlined, worker
from nbnorm.jit.parallel import parallel
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
from nbnorm.kernels.conv2d.epilogue import finish
from nbnorm.kernels.conv2d.geometry import (
    Geometry,
    WeightOrder,
    Workspace,
    blocks_of,
    find_block,
)
from nbnorm.kernels.conv2d.images import Pixels, is_in_place, read_input, tap_step, write_block
from nbnorm.kernels.copies import transpose
from nbnorm.kernels.gemm.epilogue import Epilogue

# Pixels worked out together: as many sums in registers, and each weight is loaded once for all.
PIXELS_AT_ONCE = 4

# Taps whose gradients are summed together.
TAPS_AT_ONCE = 3


@worker
def pack_weights(lo, hi, packed, weight, order, geometry):
    """Lays the weights of groups out as (taps, input channels of a group, k).

    lo, hi    groups
    packed    (taps * input channels * k,), written
    weight    flat
    order     a `WeightOrder`
    geometry  a `Geometry`
    """
    order, geometry = WeightOrder(*order), Geometry(*geometry)
    depth = geometry.c // geometry.groups
    columns = geometry.k // geometry.groups
    for group in range(lo, hi):
        for t in range(order.taps.size):
            for p in range(depth):
                to = (t * depth + p) * geometry.k + group * columns
                at = group * order.group_step + order.taps[t] + p * order.c_step
                for j in range(columns):
                    packed[to + j] = weight[at + j * order.k_step]


@worker
def convolve(lo, hi, z, x, packed, work, epilogue, activation, geometry):
    """A convolution of narrow groups and its epilogue.

    Input blocks are copied unless the convolution is depthwise, and partitions have all channels.

    packed  from `pack_weights`
    work    a `Workspace`: input_points of (pixels of an input block * input channels of a group
            * k), a number if depthwise; output_blocks of (positions of a block * k); tap_offsets
            of (taps + PIXELS_AT_ONCE)
    The other arguments are those of direct.py's `convolve`.
    """
    work, epilogue = Workspace(*work), Epilogue(*epilogue)
    geometry = Geometry(*geometry)
    channels = (0, geometry.k)
    for partition in range(lo, hi):
        part, begin, end = blocks_of(partition, geometry)
        for number in range(begin, end):
            block = find_block(number, geometry)
            pixels = _read_expanded(
                work.input_points[partition], work.input_blocks[partition],
                work.transposed[partition], x, block, geometry,
            )  # fmt: skip
            _find_taps(work.tap_offsets[partition], pixels, geometry)
            _convolve_block(
                z, work.output_blocks[partition], pixels, packed, work.tap_offsets[partition],
                block, geometry,
            )  # fmt: skip
            finish(z, epilogue, activation, part, number == begin, channels, block, geometry)


convolve_parallel = parallel(convolve)


@inlined
def _read_expanded(to, input_block, transposed, x, block, geometry):
    """The pixels of an input block, with the channels of each lane's group beside it."""
    pixels = read_input(input_block, transposed, x, block, geometry)
    if geometry.groups == geometry.c and geometry.c == geometry.k:
        return pixels
    _expand(to, input_block, block.images * pixels.image_step, geometry)
    return Pixels(to, 0, pixels.row_step, pixels.image_step)


@inlined
def _expand(to, source, pixels, geometry):
    """``to[pixel, p, k] = source[pixel, p of k's group]``."""
    c, k = geometry.c, geometry.k
    depth = c // geometry.groups
    columns = k // geometry.groups
    width = lanes_of_register(to)
    is_picked = depth == columns and width % depth == 0 and depth <= 8
    whole = k - k % width if is_picked else 0
    for pixel in range(pixels):
        for p in range(depth):
            at = (pixel * depth + p) * k
            for j in range(0, whole, width):
                pick(to, at + j, source, pixel * c + j, depth, p)
            for j in range(whole, k):
                to[at + j] = source[pixel * c + j // columns * depth + p]


@inlined
def _find_taps(tap_offsets, pixels, geometry):
    """Where each tap lies, seen from the first pixel of its position."""
    size = geometry.c // geometry.groups * geometry.k
    for t in range(geometry.tap_rows.size):
        tap_offsets[t] = tap_step(t, pixels, geometry) * size


@inlined
def _convolve_block(z, output_block, pixels, packed, tap_offsets, block, geometry):
    """All channels of a block, in place if they can be."""
    k = geometry.k
    taps = tap_offsets[: geometry.tap_rows.size]
    starts = tap_offsets[geometry.tap_rows.size :]
    in_place = is_in_place(geometry)
    to = z if in_place else output_block
    at = (block.image * geometry.rows + block.row) * geometry.columns * k if in_place else 0
    for image in range(block.images):
        for i in range(block.rows):
            row = image * pixels.image_step + i * geometry.stride_h * pixels.row_step
            _convolve_row(to, at, pixels, pixels.first + row, packed, taps, starts, geometry)
            at += geometry.columns * k
    if not in_place:
        write_block(z, output_block, k, (0, k), block, geometry)


@inlined
def _convolve_row(to, at, pixels, start, packed, taps, starts, geometry):
    """A row of positions, the first of which begins at pixel `start`."""
    k = geometry.k
    depth = geometry.c // geometry.groups
    lanes_ = lanes(to)
    whole = k - k % lanes_
    last = geometry.columns - 1
    for j in range(0, geometry.columns, PIXELS_AT_ONCE):
        count = min(PIXELS_AT_ONCE, geometry.columns - j)
        for i in range(PIXELS_AT_ONCE):
            starts[i] = (start + min(j + i, last) * geometry.stride_w) * depth * k
        for channel in range(0, whole, lanes_):
            _convolve_pixels(
                to, at, k, pixels.flat, starts, taps, packed, depth, channel, lanes_, count
            )
        if whole < k:
            _convolve_pixels(
                to, at, k, pixels.flat, starts, taps, packed, depth, whole, k - whole, count
            )
        at += count * k


@inlined
def _convolve_pixels(to, at, k, source, starts, taps, packed, depth, channel, lanes_, count):
    """The channels channel..channel+lanes_-1 of up to PIXELS_AT_ONCE neighbours."""
    zero = splat(to, 0.0)
    s0 = s1 = s2 = s3 = zero
    row = channel
    for t in range(taps.size):
        tap = taps[t] + channel
        for _ in range(depth):
            weight = load_part(packed, row, lanes_, zero)
            s0 = fma(load_part(source, starts[0] + tap, lanes_, zero), weight, s0)
            s1 = fma(load_part(source, starts[1] + tap, lanes_, zero), weight, s1)
            s2 = fma(load_part(source, starts[2] + tap, lanes_, zero), weight, s2)
            s3 = fma(load_part(source, starts[3] + tap, lanes_, zero), weight, s3)
            row += k
            tap += k
    store_part(to, at + channel, s0, lanes_)
    if count > 1:
        store_part(to, at + k + channel, s1, lanes_)
    if count > 2:
        store_part(to, at + 2 * k + channel, s2, lanes_)
    if count > 3:
        store_part(to, at + 3 * k + channel, s3, lanes_)


@worker
def weight_gradient(lo, hi, sums, dz, x, work, geometry):
    """The gradient of the weights, summed over each part of the blocks.

    sums  (parts of the blocks, taps * input channels of a group, ld) float64, written; `ld` is k in
          whole vectors
    dz    the gradient of the output, flat
    work  as in `convolve`, but with output_points of (positions of a block * k) for dz, a number
          where its channels lie last; and no output_blocks
    The other arguments are those of `convolve`.
    """
    work, geometry = Workspace(*work), Geometry(*geometry)
    for partition in range(lo, hi):
        part, begin, end = blocks_of(partition, geometry)
        sums[part] = 0.0
        for number in range(begin, end):
            block = find_block(number, geometry)
            pixels = _read_expanded(
                work.input_points[partition], work.input_blocks[partition],
                work.transposed[partition], x, block, geometry,
            )  # fmt: skip
            _find_taps(work.tap_offsets[partition], pixels, geometry)
            gradient = read_gradient(work.output_points[partition], dz, block, geometry)
            _sum_block(sums[part], pixels, gradient, work.tap_offsets[partition], block, geometry)


weight_gradient_parallel = parallel(weight_gradient)


@inlined
def read_gradient(to, dz, block, geometry):
    """The `Pixels` of a block of dz, transposed if need be."""
    w, k = geometry.columns, geometry.k
    plane = geometry.rows * w
    size = block.rows * w
    if geometry.z_last:
        return Pixels(dz, (block.image * geometry.rows + block.row) * w, w, size)
    for image in range(block.images):
        start = (block.image + image) * k * plane + block.row * w
        transpose(to, image * size * k, k, dz, start, plane, k, size, k)
    return Pixels(to, 0, w, size)


@inlined
def _sum_block(sums, pixels, gradient, tap_offsets, block, geometry):
    """Adds a block to the gradients of all weights, row by row of positions."""
    k = geometry.k
    taps = tap_offsets[: geometry.tap_rows.size]
    size = geometry.c // geometry.groups * k
    at = gradient.first * k
    for image in range(block.images):
        for i in range(block.rows):
            row = image * pixels.image_step + i * geometry.stride_h * pixels.row_step
            start = (pixels.first + row) * size
            _sum_row(sums, pixels.flat, start, gradient.flat, at, taps, geometry)
            at += geometry.columns * k


@inlined
def _sum_row(sums, source, start, dz, at, taps, geometry):
    """Adds a row of positions to the gradients of all weights."""
    k = geometry.k
    lanes_ = lanes(source)
    whole = k - k % lanes_
    for t in range(0, taps.size, TAPS_AT_ONCE):
        for p in range(geometry.c // geometry.groups):
            for channel in range(0, whole, lanes_):
                _sum_taps(
                    sums, t, p, source, start, dz, at, taps, channel, lanes_, geometry
                )  # fmt: skip
            if whole < k:
                _sum_taps(
                    sums, t, p, source, start, dz, at, taps, whole, k - whole, geometry
                )  # fmt: skip


@inlined
def _sum_taps(sums, t, p, source, start, dz, at, taps, channel, count, geometry):
    """The same for up to TAPS_AT_ONCE taps of input channel p, channels channel..+count-1."""
    k = geometry.k
    depth = geometry.c // geometry.groups
    step = geometry.stride_w * depth * k
    zero = splat(source, 0.0)
    s0 = s1 = s2 = zero
    last = taps.size - 1
    first = start + p * k + channel
    a0 = first + taps[t]
    a1 = first + taps[min(t + 1, last)]
    a2 = first + taps[min(t + 2, last)]
    for i in range(geometry.columns):
        gradient = load_part(dz, at + i * k + channel, count, zero)
        s0 = fma(load_part(source, a0 + i * step, count, zero), gradient, s0)
        s1 = fma(load_part(source, a1 + i * step, count, zero), gradient, s1)
        s2 = fma(load_part(source, a2 + i * step, count, zero), gradient, s2)
    accumulate(sums[t * depth + p], channel, s0)
    if t < last:
        accumulate(sums[(t + 1) * depth + p], channel, s1)
    if t + 1 < last:
        accumulate(sums[(t + 2) * depth + p], channel, s2)


@worker
def collect_weights(dweight, sums, sizes):
    """Adds the parts of `weight_gradient` in order.

    dweight  (k, input channels of a group, taps) flat, written
    sums     (parts, taps * input channels, ld)
    sizes    (groups, input channels, output channels) of a group
    """
    groups, depth, columns = sizes
    parts, rows, _ = sums.shape
    taps = rows // depth
    for k in range(groups * columns):
        for p in range(depth):
            for t in range(taps):
                result = 0.0
                for part in range(parts):
                    result += sums[part, t * depth + p, k]
                dweight[(k * depth + p) * taps + t] = result
