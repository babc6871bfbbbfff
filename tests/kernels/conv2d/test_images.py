"""Input blocks read, pixels written, images transposed: against plain slices."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from nbnorm.kernels.conv2d.geometry import Extent
from nbnorm.kernels.conv2d.images import (
    copy_input,
    turn_images,
    turn_images_parallel,
    write_block,
)
from tests.kernels.conv2d.convolutions import Convolution
from tests.kernels.views import DTYPES, integers_in

each_type = pytest.mark.parametrize("dtype", DTYPES)
each_order = pytest.mark.parametrize("last", [True, False], ids=["last", "first"])


def flat(by_pixel, last):
    """Images (n, h, w, c) in memory order."""
    order = (0, 1, 2, 3) if last else (0, 3, 1, 2)
    return np.ascontiguousarray(by_pixel.transpose(order)).reshape(-1)


@each_type
@each_order
@pytest.mark.parametrize("c", [1, 3, 17])
def test_an_input_block_has_zeros_around_the_images(c, last, dtype):
    n, h, w = 3, 5, 4
    images = integers_in((n, h, w, c), dtype)
    images[images == 0] = 1
    margin = 20
    wide = np.zeros((n, h + 2 * margin, w + 2 * margin, c), dtype)
    wide[:, margin : margin + h, margin : margin + w] = images
    transposed = np.full(2 * h * w * c, np.nan, dtype)
    conv = Convolution(n, c, 1, (h, w))
    # Above, below, left and right of the images, beside them, and all at once.
    for many, (row, height), (left, width) in itertools.product(
        (1, 2), ((0, 5), (-2, 4), (3, 6), (-3, 12), (7, 2), (-5, 3)),
        ((0, 4), (-2, 3), (1, 2), (3, 9), (-1, 8), (6, 2), (-9, 4)),
    ):  # fmt: skip
        for image in range(0, n, many):
            taken = min(many, n - image)
            size = taken * height * width * c
            to = np.full(size + 3, np.nan, dtype)
            geometry = conv.geometry(
                last, True, input_height=height, input_width=width, top=row, left=left
            )
            block = Extent(image, 0, taken, 1)
            copy_input(to, transposed, flat(images, last), block, geometry)
            wanted = wide[image : image + taken, margin + row :, margin + left :]
            np.testing.assert_array_equal(to[:size], wanted[:, :height, :width].reshape(-1))
            assert np.isnan(to[size:]).all()


@each_type
@pytest.mark.parametrize(
    ("last", "origin"), [(True, (0, 1, 0, 1)), (True, (1, 2, 2, 3)), (False, (0, 1, 0, 1))], ids=str
)
@pytest.mark.parametrize("channels", [(0, 5), (2, 5), (1, 2)])
def test_pixels_are_written_where_positions_lie(channels, last, origin, dtype):
    n, h, w, c = 3, 8, 9, 5
    row_at, row_step, column_at, column_step = origin
    columns = -(-(w - column_at) // column_step)
    first, until = channels
    block = Extent(image=1, row=1, images=2, rows=2)
    ld = until - first + 2  # with a gap
    source = integers_in((block.images, block.rows, columns, ld), dtype)
    to = np.full(n * h * w * c, np.nan, dtype)
    geometry = Convolution(n, 1, c, (h, w), (1, 1)).geometry(
        True, last, rows=3, columns=columns, z_row=row_at, z_row_step=row_step,
        z_column=column_at, z_column_step=column_step,
    )  # fmt: skip
    write_block(to, source.reshape(-1), ld, channels, block, geometry)
    wanted = np.full((n, h, w, c), np.nan, dtype)
    down = slice(
        row_at + block.row * row_step, row_at + (block.row + block.rows) * row_step, row_step
    )
    across = slice(column_at, w, column_step)
    pixels = wanted[block.image : block.image + block.images, down, across]
    pixels[..., first:until] = source[..., : until - first]
    np.testing.assert_array_equal(to, flat(wanted, last))


@each_type
def test_images_are_transposed(dtype):
    images = integers_in((4, 3, 5, 7), dtype)
    source, shape = flat(images, True), (3, 5, 7)
    wanted = flat(images, False)
    to = np.full_like(wanted, np.nan)
    turn_images(1, 3, to, source, shape)
    inside = slice(wanted.size // 4, wanted.size * 3 // 4)
    np.testing.assert_array_equal(to[inside], wanted[inside])
    assert np.isnan(np.delete(to, inside)).all()
    if dtype == "float32":  # the driver is compiled for one type, as it takes time
        turn_images_parallel(4, to, source, shape)
        np.testing.assert_array_equal(to, wanted)
