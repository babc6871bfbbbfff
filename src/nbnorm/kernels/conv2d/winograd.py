"""Convolutions 3x3 of stride 1 by Winograd's F(4x4, 3x3): a quarter of the multiplications.

Channels lie last in vectors, so that every transform (winograd_transforms.py) reads and writes
whole ones. A window's position is a *tile* here, 4 by 4 pixels of the output. Its 6 by 6 pixels of
the input become 36 numbers a channel, the *points*, and so do the weights; for a block of tiles, 36
products of matrices (tiles, c) (c, k) stand between the transform of the input and that of the
output. All three are in the L2 cache.

Its rounding error is larger than that of a direct convolution, some 2e-5 of the output's rms at
most (5e-5 with 512 channels) against 2e-6; a NaN or an infinity spreads to the pixels of its tile.
"""

from __future__ import annotations

from nbnorm.jit.options import inlined, worker
from nbnorm.jit.parallel import parallel
from nbnorm.jit.simd import lanes, lanes_of_register, load_part, splat, store_part
from nbnorm.kernels.conv2d.direct import depth_at_once
from nbnorm.kernels.conv2d.epilogue import finish
from nbnorm.kernels.conv2d.geometry import (
    Extent,
    Geometry,
    WeightOrder,
    Workspace,
    blocks_of,
    channels_of,
    find_block,
    is_whole,
)
from nbnorm.kernels.conv2d.images import Pixels, copy_input, write_planes
from nbnorm.kernels.conv2d.winograd_transforms import (
    PATCH,
    TILE,
    transform_input,
    transform_output,
    transform_output_gradient,
    transform_weight,
    transform_weight_gradient,
)
from nbnorm.kernels.copies import transpose
from nbnorm.kernels.gemm.epilogue import Epilogue
from nbnorm.kernels.gemm.microkernel import (
    Block,
    Panels,
    Rows,
    multiply_block,
    padded_width,
    panel_width,
)

POINTS = PATCH * PATCH
TAPS = 9

# Numbers left free between the points of an array, and between the tiles of the input's, so that
# they do not begin at addresses that share a set of the caches: transforms of 64 channels took
# twice the time without.
GAP = 16


# Zen 5, two threads: 1.8 ns for each pair of an input and an output channel (256 of each) where the
# points are in caches, but 6 to 10 after a convolution, when both cores have read them: the lines
# of cache that are written cost more than what is worked out. Turning 16 windows at once, 9 squares
# for 16, took 0.92 to 0.98 of the time forward, and one thread took twice as long as two.
@worker
def transform_weights(lo, hi, points, transposed, weight, order, is_reversed, geometry):
    """The points of all weights, packed in panels.

    lo, hi       panels
    points       flat: point after point, each of padded k * c + GAP: depth by depth as `convolve`
                 multiplies at once, in each its panels
    transposed   (panels, 16 * widest panel), scratch
    weight       flat
    order        a `WeightOrder`
    is_reversed  whether the window is turned by 180 degrees, as for the gradient of the input
    geometry     a `Geometry`
    """
    order, geometry = WeightOrder(*order), Geometry(*geometry)
    depth, columns = geometry.c, geometry.k
    register = lanes_of_register(points)
    part = depth_at_once(depth)
    padded = padded_width(points, columns)
    size = padded * depth + GAP
    for panel in range(lo, hi):
        j = 0
        for _ in range(panel):
            j += panel_width(points, columns - j)
        width = panel_width(points, columns - j)
        used = min(width, columns - j)
        corner = (TAPS - 1) * width if is_reversed else 0
        across = -width if is_reversed else width
        for first in range(0, depth, part):
            high = min(part, depth - first)
            for p in range(first, first + high):
                transpose(
                    transposed[panel], 0, width, weight, p * order.c_step + j * order.k_step,
                    order.k_step, used, TAPS, width,
                )  # fmt: skip
                at = first * padded + j * high + (p - first) * width
                for lane in range(0, width, register):
                    transform_weight(
                        points, (at + lane, PATCH * size, size), transposed[panel],
                        (corner + lane, 3 * across, across), (3, 3), register,
                    )  # fmt: skip


transform_weights_parallel = parallel(transform_weights)


@worker
def convolve(lo, hi, z, x, weights, work, epilogue, activation, geometry):
    """A convolution 3x3 of stride 1 and its epilogue; input blocks are always copied.

    weights   their points, from `transform_weights`
    work      a `Workspace`: input_points of 36 (tiles of a block * (c + GAP) + GAP); output_points
              of 36 (tiles of a block * k of a part + GAP); output_blocks of (pixels of a block * k
              of a part); tap_offsets of one number
    geometry  a `Geometry`, its positions being tiles and its strides 4; its row offsets say where
              each tile's channels begin among the points of the input
    The other arguments are those of direct.py's `convolve`.
    """
    work, epilogue = Workspace(*work), Epilogue(*epilogue)
    geometry = Geometry(*geometry)
    for partition in range(lo, hi):
        part, begin, end = blocks_of(partition, geometry)
        channels = channels_of(partition, geometry)
        if channels[0] == channels[1]:
            continue
        for number in range(begin, end):
            tiles = find_block(number, geometry)
            _read_points(
                work.input_points[partition], work.input_blocks[partition],
                work.transposed[partition], x, tiles, geometry,
            )  # fmt: skip
            _multiply_points(
                work.output_points[partition], work.input_points[partition], weights,
                work.tap_offsets[partition], channels, tiles, geometry,
            )  # fmt: skip
            block = _pixels_of(tiles, geometry)
            _write_tiles(
                z, work.output_blocks[partition], work.output_points[partition], channels, block,
                geometry,
            )  # fmt: skip
            finish(z, epilogue, activation, part, number == begin, channels, block, geometry)


convolve_parallel = parallel(convolve)


@inlined
def _tiles_of_block(geometry):
    """Tiles of a whole block."""
    return geometry.block_images * geometry.block_rows * geometry.columns


@inlined
def _input_step(geometry):
    """Numbers from one point of the input to the next."""
    return _tiles_of_block(geometry) * (geometry.c + GAP) + GAP


@inlined
def _pixels_of(tiles, geometry):
    """The pixels of the output that a block of tiles has."""
    row = tiles.row * TILE
    return Extent(tiles.image, row, tiles.images, min(tiles.rows * TILE, geometry.z_h - row))


@inlined
def _read_points(points, input_block, transposed, x, tiles, geometry):
    """The points of a block's input: point after point, each (tiles, c + GAP)."""
    c = geometry.c
    register = lanes_of_register(points)
    step = _input_step(geometry)
    width = geometry.input_width
    copy_input(input_block, transposed, x, tiles, geometry)
    tile = 0
    for image in range(tiles.images):
        for i in range(tiles.rows):
            for j in range(geometry.columns):
                pixel = (image * geometry.input_height + i * TILE) * width + j * TILE
                for p in range(0, c, register):
                    transform_input(
                        points, (tile * (c + GAP) + p, PATCH * step, step),
                        input_block, (pixel * c + p, width * c, c),
                        (PATCH, PATCH), min(register, c - p),
                    )  # fmt: skip
                tile += 1


@inlined
def _multiply_points(outputs, inputs, weights, tap_offsets, channels, tiles, geometry):
    """The points of a block's output: point after point, each (tiles, channels)."""
    c = geometry.c
    columns = channels[1] - channels[0]
    count = tiles.images * tiles.rows * geometry.columns
    part = depth_at_once(c)
    padded = padded_width(outputs, geometry.k)
    row_offsets = geometry.row_offsets[0 if is_whole(tiles, geometry) else 1]
    for point in range(POINTS):
        to = point * (_tiles_of_block(geometry) * columns + GAP)
        at = point * (padded * c + GAP)
        for p in range(0, c, part):
            high = min(part, c - p)
            tap_offsets[0] = point * _input_step(geometry) + p
            multiply_block(
                Block(outputs, to, columns),
                Rows(inputs, row_offsets, tap_offsets, 1),
                Panels(weights, at + p * padded + channels[0] * high, high),
                count, columns, p > 0,
            )  # fmt: skip


@inlined
def _write_tiles(z, output_block, points, channels, block, geometry):
    """The pixels of a block from its points."""
    w, k = geometry.z_w, geometry.k
    columns = channels[1] - channels[0]
    register = lanes_of_register(z)
    step = _tiles_of_block(geometry) * columns + GAP
    to = z if geometry.z_last else output_block
    ld = k if geometry.z_last else columns
    tile = 0
    for image in range(block.images):
        for i in range(0, block.rows, TILE):
            for j in range(0, w, TILE):
                at = ((image * block.rows + i) * w + j) * columns
                if geometry.z_last:
                    row = (block.image + image) * geometry.z_h + block.row + i
                    at = (row * w + j) * k + channels[0]
                for q in range(0, columns, register):
                    transform_output(
                        to, (at + q, w * ld, ld),
                        points, (tile * columns + q, PATCH * step, step),
                        (block.rows - i, w - j), min(register, columns - q),
                    )  # fmt: skip
                tile += 1
    if not geometry.z_last:
        write_planes(z, output_block, columns, channels, block, geometry)


@worker
def weight_gradient(lo, hi, products, dz, x, work, geometry):
    """The points of the gradient of the weights, summed over each part of the blocks.

    products  (parts of the blocks, 36, c k + GAP) flat, written
    dz        the gradient of the output, flat
    work      as in `convolve`, but with output_points of 36 (tiles of a block * width + GAP) for
              each panel of dz, and no output_blocks; transposed has room for a block of dz too
    geometry  as in `convolve`, but its row offsets are the input channels
    The other arguments are those of `convolve`.
    """
    work, geometry = Workspace(*work), Geometry(*geometry)
    for partition in range(lo, hi):
        part, begin, end = blocks_of(partition, geometry)
        channels = channels_of(partition, geometry)
        if channels[0] == channels[1]:
            continue
        for number in range(begin, end):
            tiles = find_block(number, geometry)
            _read_points(
                work.input_points[partition], work.input_blocks[partition],
                work.transposed[partition], x, tiles, geometry,
            )  # fmt: skip
            _read_gradient_points(
                work.output_points[partition], work.transposed[partition], dz, channels,
                _pixels_of(tiles, geometry), geometry,
            )  # fmt: skip
            _multiply_gradients(
                products, part, work.input_points[partition], work.output_points[partition],
                work.tap_offsets[partition], channels, tiles, number > begin, geometry,
            )  # fmt: skip


weight_gradient_parallel = parallel(weight_gradient)


@inlined
def _read_gradient_points(points, transposed, dz, channels, block, geometry):
    """The points of a block of dz, packed in panels."""
    w, ld = geometry.z_w, geometry.k
    plane = geometry.z_h * w
    first, last = channels
    pixels = Pixels(dz, block.image * plane + block.row * w, w, plane)
    if not geometry.z_last:
        size = block.rows * w
        count = last - first
        for image in range(block.images):
            start = ((block.image + image) * ld + first) * plane + block.row * w
            at = image * size * count
            transpose(transposed, at, count, dz, start, plane, count, size, count)
        pixels = Pixels(transposed, 0, w, size)
        first, last, ld = 0, count, count
    _transform_gradient(points, pixels, ld, first, last, block, geometry)


@inlined
def _transform_gradient(points, pixels, ld, first, last, block, geometry):
    """The points of a block's pixels, panel after panel, each (36, tiles of a block * width + GAP).

    pixels  of dz, each of `ld` channels; the channels first..last-1 are taken
    """
    w = geometry.z_w
    j = first
    start = 0
    while j < last:
        width = panel_width(points, last - j)
        step = _tiles_of_block(geometry) * width + GAP
        to = start
        for image in range(block.images):
            for i in range(0, block.rows, TILE):
                for column in range(0, w, TILE):
                    pixel = pixels.first + image * pixels.image_step + i * w + column
                    _transform_gradient_tile(
                        points, to, step, width, pixels.flat, pixel * ld + j, (w * ld, ld),
                        (block.rows - i, w - column), last - j,
                    )  # fmt: skip
                    to += width
        start += POINTS * step
        j += width


@inlined
def _transform_gradient_tile(points, to, step, width, dz, at, steps, size, used):
    """The points of a tile in a panel: of `used` channels, and zeros for those up to `width`."""
    register = lanes_of_register(points)
    for lane in range(0, width, register):
        count = max(min(register, used - lane), 0)
        transform_output_gradient(
            points, (to + lane, PATCH * step, step), dz,
            (min(at + lane, dz.size), steps[0], steps[1]), size, count,
        )  # fmt: skip
        for point in range(POINTS):
            for q in range(count, register):
                points[to + lane + point * step + q] = 0.0


@inlined
def _multiply_gradients(
    products, part, inputs, gradients, tap_offsets, channels, tiles, more, geometry
):
    """A block's products at each point, input by output channels; added if there are `more`."""
    c, k = geometry.c, geometry.k
    count = tiles.images * tiles.rows * geometry.columns
    j, last = channels
    start = 0
    while j < last:
        width = panel_width(products, last - j)
        step = _tiles_of_block(geometry) * width + GAP
        for point in range(POINTS):
            tap_offsets[0] = point * _input_step(geometry)
            to = (part * POINTS + point) * (c * k + GAP) + j
            multiply_block(
                Block(products, to, k),
                Rows(inputs, geometry.row_offsets[0], tap_offsets, c + GAP),
                Panels(gradients, start + point * step, count),
                c, min(width, last - j), more,
            )  # fmt: skip
        start += POINTS * step
        j += width


@worker
def return_weights(lo, hi, spread, products, parts, sizes):
    """The gradient of the weights from its points, by input channels.

    lo, hi    input channels
    spread    (9, c, k) flat, written
    products  (parts, 36, c k + GAP) flat from `weight_gradient`; added up in the first part
    sizes     (c, k)
    """
    c, k = sizes
    width = lanes(products)
    register = lanes_of_register(products)
    zero = splat(products, 0.0)
    size = c * k + GAP
    for p in range(lo, hi):
        for point in range(POINTS if parts > 1 else 0):
            for j in range(0, k, width):
                at = point * size + p * k + j
                added = load_part(products, at, k - j, zero)
                for part in range(1, parts):
                    beside = part * POINTS * size + at
                    added = added + load_part(products, beside, k - j, zero)
                store_part(products, at, added, k - j)
        for j in range(0, k, register):
            transform_weight_gradient(
                spread, (p * k + j, 3 * c * k, c * k), products, (p * k + j, PATCH * size, size),
                (PATCH, PATCH), min(register, k - j),
            )  # fmt: skip


return_weights_parallel = parallel(return_weights)
