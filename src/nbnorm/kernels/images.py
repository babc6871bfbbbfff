"""Images under a sliding window: how a convolution's pixels are found, read and written.

Kernels of convolutions work on images whose channels lie last. A *band* is a piece of the input
with all its channels: the rows that a few rows of the output are worked out from, or all rows of
several small images, with zeros where the window reaches beyond the image. It is a copy in the
second cache; where no zeros are needed and channels lie last, the input itself serves.

`view` = (n, h, w, c, last): an array of n images h by w of c channels, which lie last, or first.

`grid` = (rows, columns, down, across): places of the window. Place (i, j) and tap t see the pixel
(i down + tap_rows[t], j across + tap_columns[t]) of the input. A forward has a place for each pixel
of the output, down and across are its strides. A gradient of the input with stride has a grid of
its own for each remainder of its pixels by the stride, with down = across = 1.

`band` = (images, rows, height, width, top, left, copied): the places of a band are `images` by
`rows` by all columns of the grid; each image takes height by width pixels of it, whose first is
pixel (i down + top, left) of the input.
"""

from __future__ import annotations

from nbnorm.jit.options import driver, inlined, prange, worker
from nbnorm.jit.simd import lanes, load_part, splat, store, store_part
from nbnorm.kernels.microkernel import lanes_of_register, transpose_tile


@inlined
def fill_zeros(to, at, count):
    """Writes zeros."""
    width = lanes(to)
    zero = splat(to, 0.0)
    i = 0
    while i + width <= count:
        store(to, at + i, zero)
        i += width
    if i < count:
        store_part(to, at + i, zero, count - i)


@inlined
def copy_run(to, to_at, source, at, count):
    """Copies a run of numbers."""
    width = lanes(to)
    zero = splat(to, 0.0)
    i = 0
    while i + width <= count:
        store(to, to_at + i, load_part(source, at + i, width, zero))
        i += width
    if i < count:
        store_part(to, to_at + i, load_part(source, at + i, count - i, zero), count - i)


@inlined
def transpose(to, to_at, to_step, source, at, step, rows, columns):
    """``to[to_at + j to_step + i] = source[at + i step + j]``."""
    lanes = lanes_of_register(to)
    whole_rows = rows - rows % lanes
    whole_columns = columns - columns % lanes
    for i in range(0, whole_rows, lanes):
        for j in range(0, whole_columns, lanes):
            transpose_tile(to, to_at + j * to_step + i, to_step, source, at + i * step + j, step)
        for k in range(i, i + lanes):
            for j in range(whole_columns, columns):
                to[to_at + j * to_step + k] = source[at + k * step + j]
    for i in range(whole_rows, rows):
        for j in range(columns):
            to[to_at + j * to_step + i] = source[at + i * step + j]


@inlined
def read_band(to, turned, source, view, band, image, row):
    """Copies a band that begins in an image, at a row of the input; zeros outside the image.

    Images whose channels lie first are turned on the way, in `turned`.
    """
    n, h, w, c, last = view
    images, _, height, width, _, left, _ = band
    first = min(max(left, 0), w)
    inside = max(min(left + width, w) - first, 0)
    before = min(max(-left, 0), width) * c
    after = width * c - before - inside * c
    above = min(max(-row, 0), height)
    top = min(row + above, h)
    bottom = max(min(row + height, h), top)
    below = height - above - (bottom - top)
    at = 0
    for one in range(image, min(image + images, n)):
        pixels = source
        start = (one * h + top) * w * c
        if not last:
            transpose(turned, 0, c, source, (one * c * h + top) * w, h * w, c, (bottom - top) * w)
            pixels = turned
            start = 0
        fill_zeros(to, at, above * width * c)
        at += above * width * c
        for i in range(bottom - top):
            fill_zeros(to, at, before)
            copy_run(to, at + before, pixels, start + (i * w + first) * c, inside * c)
            fill_zeros(to, at + before + inside * c, after)
            at += width * c
        fill_zeros(to, at, below * width * c)
        at += below * width * c


@inlined
def list_places(table, places, pitch, c, images, image_step, rows, grid):
    """Where each place of a band begins in its input: entry 0 on; whole tiles are filled up."""
    _, columns, down, across = grid
    i = 0
    for one in range(images):
        for row in range(rows):
            start = one * image_step + row * down * pitch * c
            for column in range(columns):
                table[i] = start + column * across * c
                i += 1
    for j in range(places, table.size):
        table[j] = table[places - 1]


@inlined
def write_pixels(to, source, row_length, view, grid, origin, image, row, images, rows, first, last):
    """Writes the channels first..last-1 of a band's places to the images of an output.

    source   (places, row_length): the channels of each place, from column 0 on
    view     of the output
    origin   (row, rows apart, column, columns apart): where the grid's places lie in the output
    """
    _, h, w, c, channels_last = view
    columns = grid[1]
    row_at, row_step, column_at, column_step = origin
    at = 0
    for one in range(image, image + images):
        if not channels_last:  # places are neighbours in the output
            start = ((one * c + first) * h + row) * w
            transpose(to, start, h * w, source, at, row_length, rows * columns, last - first)
            at += rows * columns * row_length
            continue
        for i in range(row, row + rows):
            start = (one * h + row_at + i * row_step) * w + column_at
            for j in range(columns):
                begin = (start + j * column_step) * c + first
                copy_run(to, begin, source, at, last - first)
                at += row_length


@worker
def turn_images(lo, hi, to, source, view):
    """Copies the images lo to hi - 1 from channels last to channels first."""
    _, h, w, c, _ = view
    size = h * w * c
    for image in range(lo, hi):
        transpose(to, image * size, h * w, source, image * size, c, h * w, c)


@driver
def turn_images_parallel(images, to, source, view):
    """`turn_images` over all images."""
    for image in prange(images):
        turn_images(image, image + 1, to, source, view)
