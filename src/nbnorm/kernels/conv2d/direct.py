"""Convolutions as matrix products whose left-hand matrix is never laid out.

    z[pixel, k] = sum over taps t and channels c of x[pixel + t, c] weight[t, c, k]

Rows of the product are output pixels, columns are output channels. The multiply finds the pixels of
a row by one table of offsets and the taps of the window by another (indirection, where im2col would
gather), so it reads an input block as it lies, and the weights in panels (`pack_weights`). The
gradient of the input is the same product with other taps; that of the weights is a product along
the pixels instead.
"""

from __future__ import annotations

from nbnorm.jit.options import inlined, worker
from nbnorm.jit.parallel import parallel
from nbnorm.jit.simd import lanes, lanes_of_register, load_part, splat, store
from nbnorm.kernels.conv2d.epilogue import finish
from nbnorm.kernels.conv2d.geometry import (
    Geometry,
    WeightOrder,
    Workspace,
    blocks_of,
    channels_of,
    find_block,
    is_whole,
)
from nbnorm.kernels.conv2d.images import is_in_place, read_input, tap_step, write_block
from nbnorm.kernels.copies import copy_row, transpose
from nbnorm.kernels.gemm.epilogue import Epilogue
from nbnorm.kernels.gemm.microkernel import (
    DEPTH,
    Block,
    Panels,
    Rows,
    multiply_block,
    padded_width,
    panel_width,
)

# Output channels multiplied at once; their weights, DEPTH of each, are half of the L2 cache.
CHANNELS_AT_ONCE = 512


@inlined
def taps_at_once(taps, depth):
    """Taps of the window multiplied at once: several where channels are few."""
    return max(1, min(taps, DEPTH // depth))


@inlined
def depth_at_once(depth):
    """Channels of a tap multiplied at once: equal parts of at most DEPTH."""
    return -(-depth // (-(-depth // DEPTH)))


@worker
def pack_weights(lo, hi, packed, transposed, weight, order, geometry):
    """Packs the weights of all groups in the order in which `convolve` multiplies by them.

    lo, hi      panels: p is panel ``p % panels`` of group ``p // panels``
    packed      (groups, taps * input channels * padded output channels), of a group; written
    transposed  (panels * groups, window * widest panel), scratch; the window in whole registers
    weight      flat
    order       a `WeightOrder`
    geometry    a `Geometry`
    """
    order, geometry = WeightOrder(*order), Geometry(*geometry)
    taps = order.taps
    depth = geometry.c // geometry.groups
    columns = geometry.k // geometry.groups
    panels = transposed.shape[0] // geometry.groups
    together = taps_at_once(taps.size, depth)
    part = depth_at_once(depth)
    padded = padded_width(packed[0], columns)
    for panel in range(lo, hi):
        group = panel // panels
        j = 0
        for _ in range(panel - group * panels):
            j += panel_width(packed[0], columns - j)
        width = panel_width(packed[0], columns - j)
        used = min(width, columns - j)
        to = packed[group]
        start = group * order.group_step + j * order.k_step
        if order.c_step == 1:  # the window is a single tap
            for p in range(0, depth, part):
                high = min(part, depth - p)
                transpose(
                    to, p * padded + j * high, width, weight, start + p, order.k_step, used, high,
                    width,
                )  # fmt: skip
            continue
        for p in range(depth):
            begin = start + p * order.c_step
            first = p // part * part
            high = min(part, depth - first)
            if order.k_step > 1:
                transpose(
                    transposed[panel], 0, width, weight, begin, order.k_step, used, order.window,
                    width,
                )  # fmt: skip
            for t in range(taps.size):
                low = t // together * together
                beside = min(together, taps.size - low)
                at = (
                    (low * depth + first) * padded + j * beside * high
                    + ((t - low) * high + p - first) * width
                )  # fmt: skip
                if order.k_step > 1:
                    copy_row(to, at, transposed[panel], taps[t] * width, width, width)
                else:
                    copy_row(to, at, weight, begin + taps[t], used, width)


pack_weights_parallel = parallel(pack_weights)


@worker
def convolve(lo, hi, z, x, packed, work, epilogue, activation, geometry):
    """A convolution and its epilogue.

    lo, hi      partitions
    z           the output, flat; written where the window's positions lie in it
    x           the input, flat
    packed      from `pack_weights`
    work        a `Workspace`: output_blocks of (positions of a block * output channels at once),
                tap_offsets of (taps)
    epilogue    an `Epilogue`; its blocks are the parts of the blocks
    activation  None or a tuple of activations.py
    geometry    a `Geometry`; its row offsets say where positions begin in the input block
    """
    work, epilogue = Workspace(*work), Epilogue(*epilogue)
    geometry = Geometry(*geometry)
    group_k = geometry.k // geometry.groups
    for partition in range(lo, hi):
        part, begin, end = blocks_of(partition, geometry)
        lowest, highest = channels_of(partition, geometry)
        for number in range(begin, end):
            block = find_block(number, geometry)
            pixels = read_input(
                work.input_blocks[partition], work.transposed[partition], x, block, geometry
            )
            for group in range(geometry.groups):
                for first in range(lowest, highest, CHANNELS_AT_ONCE):
                    last = min(first + CHANNELS_AT_ONCE, highest)
                    channels = (group * group_k + first, group * group_k + last)
                    _convolve_block(
                        z, work.output_blocks[partition], pixels, packed[group],
                        work.tap_offsets[partition], channels, block, geometry,
                    )  # fmt: skip
                    finish(
                        z, epilogue, activation, part, number == begin, channels, block, geometry
                    )


convolve_parallel = parallel(convolve)


@inlined
def _convolve_block(z, output_block, pixels, packed, tap_offsets, channels, block, geometry):
    """Some output channels of one group in a block: multiplied in place if they can be."""
    in_place = is_in_place(geometry)
    to = z
    ld = geometry.k
    offset = (block.image * geometry.rows + block.row) * geometry.columns * ld + channels[0]
    if not in_place:
        to = output_block
        ld = channels[1] - channels[0]
        offset = 0
    _multiply_taps(Block(to, offset, ld), pixels, packed, tap_offsets, channels, block, geometry)
    if not in_place:
        write_block(z, output_block, ld, channels, block, geometry)


@inlined
def _multiply_taps(to, pixels, packed, tap_offsets, channels, block, geometry):
    """The product of a block's pixels and a group's weights, summed over the taps."""
    taps = geometry.tap_rows.size
    depth = geometry.c // geometry.groups
    columns = geometry.k // geometry.groups
    group = channels[0] // columns
    first = channels[0] - group * columns
    count = channels[1] - channels[0]
    together = taps_at_once(taps, depth)
    part = depth_at_once(depth)
    padded = padded_width(to.array, columns)
    positions = block.images * block.rows * geometry.columns
    row_offsets = geometry.row_offsets[0 if is_whole(block, geometry) else 1]
    done = 0
    for tap in range(0, taps, together):
        used = min(together, taps - tap)
        for p in range(0, depth, part):
            high = min(part, depth - p)
            for t in range(used):
                pixel = pixels.first + tap_step(tap + t, pixels, geometry)
                tap_offsets[t] = pixel * geometry.c + group * depth + p
            multiply_block(
                to,
                Rows(pixels.flat, row_offsets, tap_offsets[:used], 1),
                Panels(packed, done * padded + first * used * high, high),
                positions, count, done > 0,
            )  # fmt: skip
            done += used * high


@worker
def weight_gradient(lo, hi, products, dz, x, work, geometry):
    """The gradient of a convolution's weights, summed over each part of the blocks.

    lo, hi    partitions
    products  (parts of the blocks, groups, taps, c / groups, k / groups) flat: written
    dz        the gradient of the output, flat
    x         the input, flat
    work      a `Workspace`: output_points of (positions of a block * padded k / groups) for dz,
              tap_offsets of (rows of a block)
    geometry  a `Geometry`; its row offsets are the input channels of a group
    """
    work, geometry = Workspace(*work), Geometry(*geometry)
    for partition in range(lo, hi):
        part, begin, end = blocks_of(partition, geometry)
        channels = channels_of(partition, geometry)
        if channels[0] == channels[1]:
            continue
        for number in range(begin, end):
            block = find_block(number, geometry)
            pixels = read_input(
                work.input_blocks[partition], work.transposed[partition], x, block, geometry
            )
            for group in range(geometry.groups):
                _pack_gradient(work.output_points[partition], dz, group, channels, block, geometry)
                for tap in range(geometry.tap_rows.size):
                    _multiply_gradient(
                        products, part, pixels, work.output_points[partition],
                        work.tap_offsets[partition], group, tap, channels, block, number > begin,
                        geometry,
                    )  # fmt: skip


weight_gradient_parallel = parallel(weight_gradient)


@inlined
def _pack_gradient(to, dz, group, channels, block, geometry):
    """Packs a block of dz, some channels of a group, in panels of all positions of the block."""
    k, w = geometry.k, geometry.z_w
    plane = geometry.z_h * w
    positions = block.images * block.rows * w
    first = group * (k // geometry.groups) + channels[0]
    last = first + channels[1] - channels[0]
    j = first
    while j < last:
        width = panel_width(to, last - j)
        used = min(width, last - j)
        at = (j - first) * positions
        for image in range(block.image, block.image + block.images):
            if geometry.z_last:
                start = image * plane + block.row * w
                for i in range(start, start + block.rows * w):
                    copy_row(to, at, dz, i * k + j, used, width)
                    at += width
            else:
                start = (image * k + j) * plane + block.row * w
                transpose(to, at, width, dz, start, plane, used, block.rows * w, width)
                at += block.rows * w * width
        j += width


@inlined
def _multiply_gradient(
    products, part, pixels, panels, tap_offsets, group, tap, channels, block, more, geometry
):
    """The gradient of one tap in a block, input by output channels; added if there are `more`.

    The sum is along the positions: each row of them is a tap of the multiply.
    """
    taps = geometry.tap_rows.size
    depth = geometry.c // geometry.groups
    columns = geometry.k // geometry.groups
    start = pixels.first + tap_step(tap, pixels, geometry)
    for image in range(block.images):
        for i in range(block.rows):
            row = start + image * pixels.image_step + i * geometry.stride_h * pixels.row_step
            tap_offsets[image * block.rows + i] = row * geometry.c + group * depth
    to = ((part * geometry.groups + group) * taps + tap) * depth * columns + channels[0]
    multiply_block(
        Block(products, to, columns),
        Rows(
            pixels.flat, geometry.row_offsets[0], tap_offsets[: block.images * block.rows],
            geometry.stride_w * geometry.c,
        ),
        Panels(panels, 0, geometry.columns),
        depth, channels[1] - channels[0], more,
    )  # fmt: skip


# Weights of each output channel that a tile collects.
COLLECTED = 128


@worker
def collect_weights(lo, hi, dweight, squares, products, sizes):
    """Adds the parts of `weight_gradient` in order, output channels first.

    lo, hi    tiles: t is `COLLECTED` weights of each channel, and as many output channels of a
              group as a vector has lanes; in order of the group, then of these channels
    dweight   (k, c / groups, taps), written
    squares   (tiles, lanes of a register * lanes) of the data's type, scratch
    products  of the sizes, flat
    sizes     (parts, groups, taps, c / groups, k / groups)
    """
    parts, groups, taps, depth, columns = sizes
    size = groups * taps * depth * columns
    length = depth * taps
    width = lanes(dweight)
    height = lanes_of_register(dweight)
    zero = splat(dweight, 0.0)
    down = -(-length // COLLECTED)
    across = -(-columns // width)
    for tile in range(lo, hi):
        group = tile // (across * down)
        j = (tile // down - group * across) * width
        used = min(width, columns - j)
        begin = tile % down * COLLECTED
        end = min(begin + COLLECTED, length)
        for first in range(begin, end, height):
            # By whole squares: number by number, collecting took more than half of the gradient of
            # (8, 960, 7, 7) to 160 channels by one pixel, 946 us, now 368 (Zen 5, two threads).
            count = min(height, end - first)
            for i in range(count):
                p = (first + i) // taps
                tap = first + i - p * taps
                at = ((group * taps + tap) * depth + p) * columns + j
                added = load_part(products, at, used, zero)
                for part in range(1, parts):
                    added = added + load_part(products, part * size + at, used, zero)
                store(squares[tile], i * width, added)
            to = (group * columns + j) * length + first
            transpose(dweight, to, length, squares[tile], 0, width, count, used, count)


collect_weights_parallel = parallel(collect_weights)
