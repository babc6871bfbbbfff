"""Convolutions 3x3 of stride 1 by Winograd's F(4x4, 3x3): a quarter of the multiplications.

Channels lie last in vectors, so that every transform (transforms.py) reads and writes whole ones.
For a block of tiles, 36 products of matrices (tiles, c) (c, k) stand between the transform of the
input and that of the output; all three are in the second cache. The products' numbers are called
*points* below.

Its rounding error is larger than that of a direct convolution, some 2e-5 of the output's rms at
most against 2e-6; a NaN or an infinity spreads to the pixels of its tile.
"""

from __future__ import annotations

from nbnorm.jit.options import driver, inlined, prange, worker
from nbnorm.jit.simd import lanes_of_register
from nbnorm.kernels.conv2d.direct import depth_at_once, finish, share_of
from nbnorm.kernels.conv2d.images import band_count, place_of, read_band, write_pixels
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

# Numbers left between the points of an array, and between the tiles of the input's, so that they do
# not begin at addresses that share a set of the caches: transforms of 64 channels took twice the
# time without.
LINE = 16


@worker
def transform_weights(lo, hi, points, weight, turned, steps, backwards, sizes):
    """The points of all weights, packed in panels; tile t is panel t.

    lo, hi     tiles
    points     flat: point after point, each of padded columns * depth + LINE: steps of the depth as
               `convolve` takes them, in each its panels
    weight     flat; the window of depth p, column j lies at ``p steps[0] + j steps[1]``
    turned     (panels, 16 * widest panel), scratch
    backwards  whether the window is turned round, as for the gradient of the input
    sizes      (depth, columns)
    """
    depth, columns = sizes
    lanes = lanes_of_register(points)
    part = depth_at_once(depth)
    padded = padded_width(points, columns)
    size = padded * depth + LINE
    for tile in range(lo, hi):
        j = 0
        for _ in range(tile):
            j += panel_width(points, columns - j)
        width = panel_width(points, columns - j)
        used = min(width, columns - j)
        corner = (TAPS - 1) * width if backwards else 0
        across = -width if backwards else width
        for first in range(0, depth, part):
            high = min(part, depth - first)
            for p in range(first, first + high):
                transpose(
                    turned[tile], 0, width, weight, p * steps[0] + j * steps[1], steps[1], used,
                    TAPS, width,
                )  # fmt: skip
                at = first * padded + j * high + (p - first) * width
                for lane in range(0, width, lanes):
                    transform_weight(
                        points, at + lane, PATCH * size, size, turned[tile], corner + lane,
                        3 * across, across, 3, 3, lanes,
                    )  # fmt: skip


@driver
def transform_weights_parallel(tiles, points, weight, turned, steps, backwards, sizes):
    """`transform_weights` over all tiles."""
    for tile in prange(tiles):
        transform_weights(tile, tile + 1, points, weight, turned, steps, backwards, sizes)


@inlined
def _input_points(points, step, source, c, pitch, image_step, images, rows, columns):
    """The points of a band's tiles: `rows` of tiles by `columns` in each image.

    points   point after point, `step` apart, each (tiles, c + LINE)
    """
    lanes = lanes_of_register(points)
    tile = 0
    for one in range(images):
        for row in range(rows):
            for column in range(columns):
                at = one * image_step + (row * TILE * pitch + column * TILE) * c
                for p in range(0, c, lanes):
                    transform_input(
                        points, tile * (c + LINE) + p, PATCH * step, step, source, at + p,
                        pitch * c, c, PATCH, PATCH, min(lanes, c - p),
                    )  # fmt: skip
                tile += 1


@worker
def convolve(
    lo, hi, z, x, weights, bands, turned, inputs, outputs, products, lines, tables, constants,
    residual, activation, sums, pivots, view, out_view, grid, band, shares,
):  # fmt: skip
    """A convolution by slots, as conv_direct.py's; the places of its grid are tiles.

    weights   the points of the weights, from `transform_weights`
    inputs    (slots, 36 (tiles of a band * (c + LINE) + LINE)), scratch
    outputs   (slots, 36 (tiles of a band * k of a share + LINE)), scratch
    products  (slots, pixels of a band * k of a share), scratch where channels do not lie last
    lines     (2, tiles in whole tiles of the multiply) of int64: where each one's channels begin
              among the points, for a whole band and for the last one
    tables    (slots, 1) of int64, scratch
    The other arguments are those of conv_direct.py's `convolve`; bands are always copied.
    """
    n, _, _, c, _ = view
    _, h, w, k, channels_last = out_view
    images, rows, height, width, top, _, _ = band
    lanes = lanes_of_register(z)
    part = depth_at_once(c)
    padded = padded_width(z, k)
    size = padded * c + LINE
    count = band_count(n, grid, band)
    across = grid[1]
    room = images * rows * across
    in_step = room * (c + LINE) + LINE
    for slot in range(lo, hi):
        share = slot // shares[1]
        first, last = share_of(k, slot - share * shares[1], shares[1])
        if first == last:
            continue
        columns = last - first
        out_step = room * columns + LINE
        table = tables[slot]
        begin = count * share // shares[0]
        for block in range(begin, count * (share + 1) // shares[0]):
            image, row, images_here, rows_here = place_of(block, n, grid, band)
            tiles = images_here * rows_here * across
            read_band(bands[slot], turned[slot], x, view, band, image, row * TILE + top)
            _input_points(
                inputs[slot], in_step, bands[slot], c, width, height * width * c, images_here,
                rows_here, across,
            )  # fmt: skip
            begins = lines[0 if tiles == room else 1]
            for point in range(POINTS):
                for p in range(0, c, part):
                    high = min(part, c - p)
                    table[0] = point * in_step + p
                    multiply_block(
                        Block(outputs[slot], point * out_step, columns),
                        Rows(inputs[slot], begins, table, 1),
                        Panels(weights, point * size + p * padded + first * high, high),
                        tiles, columns, p > 0,
                    )  # fmt: skip
            pixel_rows = min(rows_here * TILE, h - row * TILE)
            target = z if channels_last else products[slot]
            step = k if channels_last else columns
            tile = 0
            for one in range(images_here):
                for i in range(0, pixel_rows, TILE):
                    for j in range(0, w, TILE):
                        at = ((one * pixel_rows + i) * w + j) * columns
                        if channels_last:
                            pixel = ((image + one) * h + row * TILE + i) * w + j
                            at = pixel * k + first
                        for q in range(0, columns, lanes):
                            transform_output(
                                target, at + q, w * step, step, outputs[slot],
                                tile * columns + q, PATCH * out_step, out_step, pixel_rows - i,
                                w - j, min(lanes, columns - q),
                            )  # fmt: skip
                        tile += 1
            if not channels_last:
                write_pixels(
                    z, products[slot], columns, out_view, (h, w, 1, 1), (0, 1, 0, 1), image,
                    row * TILE, images_here, pixel_rows, first, last,
                )  # fmt: skip
            finish(
                z, constants, residual, activation, sums, pivots, share, block == begin, image,
                row * TILE, images_here, pixel_rows, first, last, out_view,
            )  # fmt: skip


@driver
def convolve_parallel(
    slots, z, x, weights, bands, turned, inputs, outputs, products, lines, tables, constants,
    residual, activation, sums, pivots, view, out_view, grid, band, shares,
):  # fmt: skip
    """`convolve` over all slots."""
    for slot in prange(slots):
        convolve(
            slot, slot + 1, z, x, weights, bands, turned, inputs, outputs, products, lines, tables,
            constants, residual, activation, sums, pivots, view, out_view, grid, band, shares,
        )  # fmt: skip


@inlined
def _gradient_points(points, dz, k, first, last, w, pixel, images, image_step, rows, room):
    """The points of a band of dz, packed in panels: panel after panel, (36, room, width) each.

    points     LINE numbers are left between the points of a panel
    dz         channels last; `pixel` is the first one, its first channel `first` of k
    image_step from image to image
    rows       of pixels
    """
    lanes = lanes_of_register(points)
    j = first
    start = 0
    while j < last:
        width = panel_width(points, last - j)
        step = room * width + LINE
        tile = 0
        for one in range(images):
            for i in range(0, rows, TILE):
                for column in range(0, w, TILE):
                    at = (pixel + one * image_step + i * w + column) * k
                    for lane in range(0, width, lanes):
                        count = max(min(lanes, last - j - lane), 0)
                        to = start + tile * width + lane
                        transform_output_gradient(
                            points, to, PATCH * step, step, dz,
                            min(at + j + lane, dz.size), w * k, k, rows - i, w - column, count,
                        )  # fmt: skip
                        for point in range(POINTS):
                            for q in range(count, lanes):
                                points[to + point * step + q] = 0.0
                    tile += 1
        start += POINTS * step
        j += width


@worker
def weight_gradient(
    lo, hi, products, dz, x, bands, turned, inputs, gradients, channels, tables, view, dz_view,
    grid, band, shares,
):  # fmt: skip
    """The points of the gradient of the weights by slots, as in `convolve`.

    products   (shares[0], 36, c k + LINE) flat, written: the sum over the bands of each share
    dz         the gradient of the output, flat
    gradients  (slots, 36 (tiles of a band * width + LINE) for each panel), scratch
    channels   (c in whole tiles of the multiply,) of int64: 0, 1, 2, ..., the last one repeated
    tables     (slots, 1) of int64, scratch
    The other arguments are those of `convolve`; `turned` has room for a band of dz too.
    """
    n, _, _, c, _ = view
    _, h, w, k, channels_last = dz_view
    images, rows, height, width, top, _, _ = band
    count = band_count(n, grid, band)
    across = grid[1]
    room = images * rows * across
    in_step = room * (c + LINE) + LINE
    size = c * k + LINE
    for slot in range(lo, hi):
        share = slot // shares[1]
        first, last = share_of(k, slot - share * shares[1], shares[1])
        if first == last:
            continue
        table = tables[slot]
        begin = count * share // shares[0]
        for block in range(begin, count * (share + 1) // shares[0]):
            image, row, images_here, rows_here = place_of(block, n, grid, band)
            tiles = images_here * rows_here * across
            pixel_rows = min(rows_here * TILE, h - row * TILE)
            read_band(bands[slot], turned[slot], x, view, band, image, row * TILE + top)
            _input_points(
                inputs[slot], in_step, bands[slot], c, width, height * width * c, images_here,
                rows_here, across,
            )  # fmt: skip
            if channels_last:
                _gradient_points(
                    gradients[slot], dz, k, first, last, w, (image * h + row * TILE) * w,
                    images_here, h * w, pixel_rows, room,
                )  # fmt: skip
            else:
                for one in range(images_here):
                    transpose(
                        turned[slot], one * pixel_rows * w * (last - first), last - first, dz,
                        (((image + one) * k + first) * h + row * TILE) * w, h * w, last - first,
                        pixel_rows * w, last - first,
                    )  # fmt: skip
                _gradient_points(
                    gradients[slot], turned[slot], last - first, 0, last - first, w, 0,
                    images_here, pixel_rows * w, pixel_rows, room,
                )  # fmt: skip
            j = first
            start = 0
            while j < last:
                panel = panel_width(products, last - j)
                step = room * panel + LINE
                for point in range(POINTS):
                    table[0] = point * in_step
                    to = (share * POINTS + point) * size + j
                    multiply_block(
                        Block(products, to, k),
                        Rows(inputs[slot], channels, table, c + LINE),
                        Panels(gradients[slot], start + point * step, tiles),
                        c, min(panel, last - j), block > begin,
                    )  # fmt: skip
                start += POINTS * step
                j += panel


@driver
def weight_gradient_parallel(
    slots, products, dz, x, bands, turned, inputs, gradients, channels, tables, view, dz_view,
    grid, band, shares,
):  # fmt: skip
    """`weight_gradient` over all slots."""
    for slot in prange(slots):
        weight_gradient(
            slot, slot + 1, products, dz, x, bands, turned, inputs, gradients, channels, tables,
            view, dz_view, grid, band, shares,
        )  # fmt: skip


@worker
def return_weights(lo, hi, spread, products, shares, sizes):
    """The gradient of the weights from its points, (9, c, k); tile t is input channel t.

    spread    (9, c, k) flat, written
    products  (shares, 36, c k + LINE) flat from `weight_gradient`; added up in the first share
    sizes     (c, k)
    """
    c, k = sizes
    lanes = lanes_of_register(products)
    size = c * k + LINE
    for p in range(lo, hi):
        for point in range(POINTS):
            at = point * size + p * k
            for share in range(1, shares):
                for j in range(at, at + k):
                    products[j] += products[share * POINTS * size + j]
        for j in range(0, k, lanes):
            transform_weight_gradient(
                spread, p * k + j, 3 * c * k, c * k, products, p * k + j, PATCH * size, size,
                PATCH, PATCH, min(lanes, k - j),
            )  # fmt: skip


@driver
def return_weights_parallel(tiles, spread, products, shares, sizes):
    """`return_weights` over all tiles."""
    for tile in prange(tiles):
        return_weights(tile, tile + 1, spread, products, shares, sizes)
