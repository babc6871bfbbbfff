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
from nbnorm.kernels.copies import copy_row, transpose


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
    top = min(max(row, 0), h)
    rows = max(min(row + height, h) - top, 0)
    pixels = source
    start = (image * h + top) * w * c
    image_step = h * w * c
    if not last:
        pixels = turned
        start = 0
        image_step = rows * w * c
        for one in range(min(images, n - image)):
            begin = ((image + one) * c * h + top) * w
            transpose(turned, one * image_step, c, source, begin, h * w, c, rows * w, c)
    at = 0
    for one in range(min(images, n - image)):
        for i in range(row - top, row - top + height):
            there = 0 <= i < rows
            if not there or inside < width:
                copy_row(to, at, source, 0, 0, width * c)
            if there:
                line = start + one * image_step + (i * w + first) * c
                copy_row(to, at + before, pixels, line, inside * c, inside * c)
            at += width * c


@inlined
def place_of(block, n, grid, band):
    """Where band number `block` lies: its first image and row of the grid, and how many it has."""
    down = -(-grid[0] // band[1])
    image = block // down * band[0]
    row = block % down * band[1]
    return image, row, min(band[0], n - image), min(band[1], grid[0] - row)


@inlined
def band_count(n, grid, band):
    """How many bands there are."""
    return -(-n // band[0]) * -(-grid[0] // band[1])


@inlined
def find_band(to, turned, source, view, band, grid, image, row):
    """The array to read a band from, copied first if need be, and where in it.

    Returns the array, its pixels from row to row and from image to image, and the band's first.
    """
    _, h, w, _, _ = view
    _, _, height, width, top, left, copied = band
    line = row * grid[2] + top
    if copied:
        read_band(to, turned, source, view, band, image, line)
        return to, width, height * width, 0
    return source, w, h * w, (image * h + line) * w + left


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
    if not channels_last:  # places are neighbours in the output
        size = rows * columns
        for one in range(images):
            start = (((image + one) * c + first) * h + row) * w
            begin = one * size * row_length
            transpose(to, start, h * w, source, begin, row_length, size, last - first, size)
        return
    at = 0
    for one in range(image, image + images):
        for i in range(row, row + rows):
            start = (one * h + row_at + i * row_step) * w + column_at
            for j in range(columns):
                begin = (start + j * column_step) * c + first
                copy_row(to, begin, source, at, last - first, last - first)
                at += row_length


@worker
def turn_images(lo, hi, to, source, view):
    """Copies the images lo to hi - 1 from channels last to channels first."""
    _, h, w, c, _ = view
    size = h * w * c
    for image in range(lo, hi):
        transpose(to, image * size, h * w, source, image * size, c, h * w, c, h * w)


@driver
def turn_images_parallel(images, to, source, view):
    """`turn_images` over all images."""
    for image in prange(images):
        turn_images(image, image + 1, to, source, view)
