"""Bands of images, tables of places, pixels written: against plain slices."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from nbnorm.kernels.conv2d.images import (
    read_band,
    turn_images,
    turn_images_parallel,
    write_pixels,
)
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
def test_a_band_has_zeros_around_the_images(c, last, dtype):
    n, h, w = 3, 5, 4
    images = integers_in((n, h, w, c), dtype)
    images[images == 0] = 1
    margin = 20
    wide = np.zeros((n, h + 2 * margin, w + 2 * margin, c), dtype)
    wide[:, margin : margin + h, margin : margin + w] = images
    turned = np.full(2 * h * w * c, np.nan, dtype)
    # Above, below, left and right of the images, beside them, and all at once.
    for many, (row, height), (left, width) in itertools.product(
        (1, 2), ((0, 5), (-2, 4), (3, 6), (-3, 12), (7, 2), (-5, 3)),
        ((0, 4), (-2, 3), (1, 2), (3, 9), (-1, 8), (6, 2), (-9, 4)),
    ):  # fmt: skip
        for image in range(0, n, many):
            taken = min(many, n - image)
            size = taken * height * width * c
            to = np.full(size + 3, np.nan, dtype)
            band = (many, 1, height, width, row, left, True)
            read_band(to, turned, flat(images, last), (n, h, w, c, last), band, image, row)
            wanted = wide[image : image + taken, margin + row :, margin + left :]
            np.testing.assert_array_equal(to[:size], wanted[:, :height, :width].reshape(-1))
            assert np.isnan(to[size:]).all()


@each_type
@pytest.mark.parametrize(
    ("last", "steps"), [(True, (0, 1, 0, 1)), (True, (1, 2, 2, 3)), (False, (0, 1, 0, 1))], ids=str
)
@pytest.mark.parametrize("channels", [(0, 5), (2, 5), (1, 2)])
def test_pixels_are_written_where_the_grid_says(channels, last, steps, dtype):
    n, h, w, c = 3, 8, 9, 5
    row_at, row_step, column_at, column_step = steps
    columns = -(-(w - column_at) // column_step)
    first, until = channels
    image, images, row, rows = 1, 2, 1, 2
    places = integers_in((images, rows, columns, until - first + 2), dtype)  # with a gap
    to = np.full(n * h * w * c, np.nan, dtype)
    write_pixels(
        to, places.reshape(-1), until - first + 2, (n, h, w, c, last), (3, columns, 1, 1), steps,
        image, row, images, rows, first, until,
    )  # fmt: skip
    wanted = np.full((n, h, w, c), np.nan, dtype)
    down = slice(row_at + row * row_step, row_at + (row + rows) * row_step, row_step)
    across = slice(column_at, w, column_step)
    pixels = wanted[image : image + images, down, across]
    pixels[..., first:until] = places[..., : until - first]
    np.testing.assert_array_equal(to, flat(wanted, last))


@each_type
def test_images_are_turned(dtype):
    images = integers_in((4, 3, 5, 7), dtype)
    source, view = flat(images, True), (4, 3, 5, 7, True)
    wanted = flat(images, False)
    to = np.full_like(wanted, np.nan)
    turn_images(1, 3, to, source, view)
    inside = slice(wanted.size // 4, wanted.size * 3 // 4)
    np.testing.assert_array_equal(to[inside], wanted[inside])
    assert np.isnan(np.delete(to, inside)).all()
    if dtype == "float32":  # the driver is compiled for one type, as it takes time
        turn_images_parallel(4, to, source, view)
        np.testing.assert_array_equal(to, wanted)
