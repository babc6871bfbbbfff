"""Pictures in and out."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from nbnorm.interop.darknet import Box, pictures

RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture
def flag():
    """Red on the left half, blue on the right, twice as wide as high."""
    picture = Image.new("RGB", (64, 32), RED)
    picture.paste(BLUE, (32, 0, 64, 32))
    return picture


def test_a_stretched_picture(flag):
    place = pictures.placed(flag, (3, 8, 8), letterbox=False)
    assert place.x.shape == (1, 3, 8, 8)
    assert place.x.dtype == np.float32
    np.testing.assert_allclose(place.x[0, :, :, 0], [[1] * 8, [0] * 8, [0] * 8], atol=0.01)
    np.testing.assert_allclose(place.x[0, :, :, 7], [[0] * 8, [0] * 8, [1] * 8], atol=0.01)
    assert place[1:] == (0, 0, 1, 1)


def test_a_picture_that_keeps_its_proportions(flag):
    place = pictures.placed(flag, (3, 8, 8), letterbox=True)
    assert place[1:] == (0, 0.25, 1, 0.5)
    np.testing.assert_array_equal(place.x[0, :, :2], 0.5)
    np.testing.assert_array_equal(place.x[0, :, 6:], 0.5)
    np.testing.assert_allclose(place.x[0, 0, 2:6, 0], 1, atol=0.01)
    # A box of the input's middle is the whole picture.
    box = pictures.on_picture(Box(0.5, 0.5, 1, 0.5, 0, 1), place)
    assert box[:4] == (0.5, 0.5, 1, 1)
    upright = pictures.placed(flag.rotate(90, expand=True), (3, 8, 8), letterbox=True)
    assert upright[1:] == (0.25, 0, 0.5, 1)


def test_a_grey_network(flag):
    place = pictures.placed(flag, (1, 4, 4), letterbox=False)
    np.testing.assert_allclose(place.x[0, 0, :, 0], 76 / 255, atol=0.01)  # of red


@pytest.mark.parametrize("shape", [(9,), (4, 8, 8)])
def test_networks_that_take_no_pictures(flag, shape):
    with pytest.raises(ValueError, match="expected an image of 1 or 3 channels"):
        pictures.placed(flag, shape, letterbox=False)


def test_boxes_are_drawn_where_they_are(flag):
    drawn = pictures.draw(flag, [Box(0.75, 0.5, 0.25, 0.5, 0, 0.9)], ["thing"])
    changed = (np.asarray(drawn) != np.asarray(flag)).any(axis=2)
    assert changed[8, 40:56].all()  # the box from 40, 8 to 56, 24
    assert changed[24, 40:56].all()
    assert changed[8:24, 40].all()
    assert not changed[:7].any()
    assert not changed[25:].any()
    assert not changed[:, :39].any()


def test_boxes_are_cut_at_the_edges(flag):
    assert pictures.corners(Box(0, 0.5, 4, 9, 0, 1), 64, 32) == (0, 0, 63, 31)
    pictures.draw(flag, [Box(0, 0.5, 4, 9, 3, 1), Box(2, 2, 0, 0, 4, 1)], [])


def test_names():
    assert pictures.name_of(1, ["cat", "dog"]) == "dog"
    assert pictures.name_of(2, ["cat", "dog"]) == "class 2"


def test_a_file_is_read_as_rgb(tmp_path, flag):
    for mode in ("RGB", "L", "RGBA", "P", "CMYK"):
        path = tmp_path / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
        flag.convert(mode).save(path)
        assert pictures.read_picture(path).mode == "RGB"


def test_a_picture_that_is_far_too_large(tmp_path, flag, monkeypatch):
    flag.save(tmp_path / "flag.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"flag\.png': .*2048 pixels"):
        pictures.read_picture(tmp_path / "flag.png")
