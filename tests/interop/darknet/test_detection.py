"""Sections that predict boxes."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm.interop.darknet import load_network
from tests.interop.darknet import naive
from tests.interop.darknet.cases import CLOSE, image
from tests.interop.darknet.files import cfg_text, image_cfg, written


@pytest.mark.parametrize("new_coords", [0, 1])
@pytest.mark.parametrize(("mask", "anchors"), [("", 2), ("mask=1 ", 1)])
def test_yolo(run, rng, mask, anchors, new_coords):
    x = 3 * image(rng, 2, anchors * 8, 3, 5)
    y = run(x, f"yolo {mask}num=2 classes=3 scale_x_y=1.2 new_coords={new_coords}")
    np.testing.assert_allclose(y, naive.yolo(x, anchors, 3, 1.2, new_coords), **CLOSE)


@pytest.mark.parametrize("mask", ["", "mask=0,1 ", "mask=1,0 "])
def test_gaussian_yolo(run, rng, mask):
    x = 3 * image(rng, 2, 2 * 12, 3, 5)
    y = run(x, f"Gaussian_yolo {mask}num=2 classes=3 scale_x_y=1.2")
    np.testing.assert_allclose(y, naive.gaussian_yolo(x, 2, 3, 1.2), **CLOSE)


@pytest.mark.parametrize("softmax", [0, 1])
@pytest.mark.parametrize("dialect", ["pjreddie", "alexeyab"])
def test_region(run, rng, softmax, dialect):
    x = 3 * image(rng, 2, 2 * 8, 3, 5)
    y = run(x, f"region num=2 classes=3 softmax={softmax}", dialect=dialect)
    truth = naive.region(x, 2, 3, softmax, dialect == "pjreddie")
    np.testing.assert_allclose(y, truth, **CLOSE)


@pytest.mark.parametrize("softmax", [0, 1])
def test_detection(run, rng, softmax):
    x = 3 * image(rng, 2, 4 * (2 * 5 + 3))
    y = run(x, f"detection side=2 num=2 coords=4 classes=3 softmax={softmax}")
    np.testing.assert_allclose(y, naive.detection(x, 2, 3, softmax), **CLOSE)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            "region num=2 classes=3",
            r"has 8 channels; expected 2 \(5 \+ 3\) = 16, by num and classes",
        ),
        ("region classes=3 coords=5", "coords is 5; expected 4"),
        ("region classes=3 background=1", "background is '1'; expected 0: not supported"),
        ("region classes=3 tree=a.tree", "tree is 'a.tree'; expected none: not supported"),
        ("yolo num=1000000000", "num is 1000000000; expected at most 1024"),
        ("yolo classes=3 anchors=1,x", "anchors is 'x'; expected numbers"),
        ("yolo classes=3 anchors=1,inf", "anchors is '1,inf'; expected finite numbers"),
        ("Gaussian_yolo classes=3", r"has 8 channels; expected 1 \(9 \+ 3\) = 12, by mask"),
        (
            "Gaussian_yolo classes=3 yolo_point=left_top",
            "yolo_point is 'left_top'; expected 'center'",
        ),
        (
            "detection side=2 coords=4",
            r"has 72 numbers; expected 2\^2 \(1 \(1 \+ 4\) \+ 1\) = 24, by side",
        ),
        ("detection side=2", "coords is 1; expected 4"),
        ("detection side=2000000000 coords=4", "expected .* = 24000000000000000000, by side"),
    ],
)
def test_detections_that_do_not_fit(tmp_path, section, message):
    with pytest.raises(ValueError, match=message):
        load_network(*written(tmp_path, image_cfg(8, 3, 3, section)))


# --- candidates -----------------------------------------------------------------------------


def candidates_of(tmp_path, cfg, y, image_size):
    (step,) = load_network(*written(tmp_path, cfg))
    centres, sizes, scores = step.candidates(y, image_size)
    return np.concatenate([centres, sizes, scores], axis=1)


@pytest.mark.parametrize("new_coords", [0, 1])
def test_candidates_of_yolo(tmp_path, rng, new_coords):
    y = rng.random((2 * 8, 3, 4), np.float32)
    cfg = image_cfg(
        16, 3, 4, f"yolo classes=3 num=3 mask=2,0 anchors=1,2,3,4,5,6 new_coords={new_coords}"
    )
    truth = []
    for anchor, i, j in np.ndindex(2, 3, 4):
        e = y[8 * anchor : 8 * anchor + 8, i, j].astype(np.float64)
        width, height = ((5, 6), (1, 2))[anchor]
        factors = 4 * e[2:4] ** 2 if new_coords else np.exp(e[2:4])
        size = factors[0] * width / 128, factors[1] * height / 96  # of the input
        truth.append([(j + e[0]) / 4, (i + e[1]) / 3, *size, *(e[4] * e[5:])])
    np.testing.assert_allclose(candidates_of(tmp_path, cfg, y, (96, 128)), truth)


def test_candidates_of_gaussian_yolo(tmp_path, rng):
    y = rng.random((2 * 11, 3, 4), np.float32)
    cfg = image_cfg(22, 3, 4, "Gaussian_yolo classes=2 num=2 anchors=1,2,3,4")
    truth = []
    for anchor, i, j in np.ndindex(2, 3, 4):
        e = y[11 * anchor : 11 * anchor + 11, i, j].astype(np.float64)
        width, height = ((1, 2), (3, 4))[anchor]
        size = np.exp(e[4]) * width / 128, np.exp(e[6]) * height / 96
        score = e[8] * e[9:] * (1 - (e[1] + e[3] + e[5] + e[7]) / 4)
        truth.append([(j + e[0]) / 4, (i + e[2]) / 3, *size, *score])
    np.testing.assert_allclose(candidates_of(tmp_path, cfg, y, (96, 128)), truth)


def test_candidates_of_region(tmp_path, rng):
    y = rng.random((2 * 7, 3, 4), np.float32)
    cfg = image_cfg(14, 3, 4, "region classes=2 num=2 anchors=1,2,3,4 softmax=1")
    truth = []
    for anchor, i, j in np.ndindex(2, 3, 4):
        e = y[7 * anchor : 7 * anchor + 7, i, j].astype(np.float64)
        width, height = ((1, 2), (3, 4))[anchor]
        size = np.exp(e[2]) * width / 4, np.exp(e[3]) * height / 3  # in pixels of the output
        truth.append([(j + e[0]) / 4, (i + e[1]) / 3, *size, *(e[4] * e[5:])])
    np.testing.assert_allclose(candidates_of(tmp_path, cfg, y, (96, 128)), truth)


@pytest.mark.parametrize("sqrt", [0, 1])
def test_candidates_of_detection(tmp_path, rng, sqrt):
    side, boxes, classes = 3, 2, 2
    y = rng.random(side**2 * (boxes * 5 + classes), np.float32)
    section = f"detection side={side} num={boxes} classes={classes} coords=4 sqrt={sqrt}"
    truth = []
    for cell, box in np.ndindex(side**2, boxes):
        score = y[side**2 * classes + cell * boxes + box] * y[cell * classes :][:classes].astype(
            float
        )
        x0, y0, w, h = y[side**2 * (classes + boxes) + (cell * boxes + box) * 4 :][:4].astype(float)
        size = (w**2, h**2) if sqrt else (w, h)
        truth.append([(x0 + cell % side) / side, (y0 + cell // side) / side, *size, *score])
    cfg = cfg_text(f"net inputs={len(y)}", section)
    np.testing.assert_allclose(candidates_of(tmp_path, cfg, y, (96, 128)), truth)
