"""Blocks of images: how a convolution's pixels are found, read and written.

Kernels work on pixels whose channels lie last. An input block is therefore copied to a place in
the L2 cache, with zeros where it reaches beyond the image; where no zeros are needed and channels
lie last already, the input itself serves.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from nbnorm.jit.options import inlined, worker
from nbnorm.jit.parallel import parallel
from nbnorm.kernels.copies import copy_row, transpose


class Pixels(NamedTuple):
    """Where an input block is to be read, channels last; all but the array counted in pixels."""

    flat: Any
    first: int
    row_step: int
    image_step: int


@inlined
def copy_input(to, transposed, x, block, geometry):
    """Copies an input block, with zeros outside the image.

    Pixels whose channels lie first are transposed on the way, in `transposed`.
    """
    h, w, c = geometry.h, geometry.w, geometry.c
    height, width = geometry.input_height, geometry.input_width
    row = block.row * geometry.stride_h + geometry.top
    # The part within the image.
    first = min(max(geometry.left, 0), w)
    inside = max(min(geometry.left + width, w) - first, 0)
    before = min(max(-geometry.left, 0), width) * c
    top = min(max(row, 0), h)
    rows = max(min(row + height, h) - top, 0)
    pixels = x
    start = (block.image * h + top) * w * c
    image_step = h * w * c
    if not geometry.x_last:
        pixels = transposed
        start = 0
        image_step = rows * w * c
        for image in range(block.images):
            begin = ((block.image + image) * c * h + top) * w
            transpose(transposed, image * image_step, c, x, begin, h * w, c, rows * w, c)
    at = 0
    for image in range(block.images):
        for i in range(row - top, row - top + height):
            is_inside = 0 <= i < rows
            if not is_inside or inside < width:
                copy_row(to, at, x, 0, 0, width * c)
            if is_inside:
                begin = start + image * image_step + (i * w + first) * c
                copy_row(to, at + before, pixels, begin, inside * c, inside * c)
            at += width * c


@inlined
def read_input(to, transposed, x, block, geometry):
    """The `Pixels` of an input block, copied if need be."""
    if geometry.copied:
        copy_input(to, transposed, x, block, geometry)
        width = geometry.input_width
        return Pixels(to, 0, width, geometry.input_height * width)
    row = block.image * geometry.h + block.row * geometry.stride_h + geometry.top
    w = geometry.w
    return Pixels(x, row * w + geometry.left, w, geometry.h * w)


@inlined
def tap_step(tap, pixels, geometry):
    """Pixels from the first one of an input block to a tap of the first position."""
    down = geometry.tap_rows[tap] - geometry.top
    return down * pixels.row_step + geometry.tap_columns[tap] - geometry.left


@inlined
def is_in_place(geometry):
    """Whether a block can be worked out where it lies in the output."""
    return (
        geometry.z_last
        and geometry.z_row == 0
        and geometry.z_row_step == 1
        and geometry.z_column == 0
        and geometry.z_column_step == 1
    )


@inlined
def write_block(z, source, ld, channels, block, geometry):
    """Writes a block to the output, some of its channels.

    source    (positions, ld): these channels of each position, from column 0 on
    channels  (first, last + 1)
    """
    if geometry.z_last:
        _write_pixels(z, source, ld, channels, block, geometry)
    else:
        write_planes(z, source, ld, channels, block, geometry)


@inlined
def _write_pixels(z, source, ld, channels, block, geometry):
    """Channels last: pixel by pixel, wherever each lies."""
    count = channels[1] - channels[0]
    at = 0
    for image in range(block.image, block.image + block.images):
        for i in range(block.row, block.row + block.rows):
            row = image * geometry.z_h + geometry.z_row + i * geometry.z_row_step
            start = row * geometry.z_w + geometry.z_column
            for j in range(geometry.columns):
                pixel = start + j * geometry.z_column_step
                copy_row(z, pixel * geometry.k + channels[0], source, at, count, count)
                at += ld


@inlined
def write_planes(z, source, ld, channels, block, geometry):
    """`write_block` for channels that lie first: positions are then neighbours in the output."""
    plane = geometry.z_h * geometry.z_w
    size = block.rows * geometry.z_w
    count = channels[1] - channels[0]
    for image in range(block.images):
        start = ((block.image + image) * geometry.k + channels[0]) * plane
        start += block.row * geometry.z_w
        transpose(z, start, plane, source, image * size * ld, ld, size, count, size)


@worker
def turn_images(lo, hi, to, source, shape):
    """Transposes the images lo to hi - 1 from channels last to channels first.

    `shape` is (h, w, c).
    """
    h, w, c = shape
    size = h * w * c
    for image in range(lo, hi):
        transpose(to, image * size, h * w, source, image * size, c, h * w, c, h * w)


turn_images_parallel = parallel(turn_images)
