"""Boxes of a network's outputs."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm.interop.darknet import Box, boxes, find_boxes, load_network
from tests.interop.darknet import naive
from tests.interop.darknet.files import cfg_text, image_cfg, written


def yolo(tmp_path, *, classes=2, size=6):
    cfg = image_cfg(5 + classes, size, size, f"yolo classes={classes} anchors={size},{size}")
    return load_network(*written(tmp_path, cfg))


@pytest.mark.parametrize("overlap", [0, 0.2, 0.45, 1])
@pytest.mark.parametrize("threshold", [0, 0.3, 0.6])
def test_boxes_are_darknet_s(tmp_path, rng, threshold, overlap):
    network = yolo(tmp_path)
    x = rng.normal(0, 1.5, (3, 7, 6, 6)).astype(np.float32)
    _, outputs = network.forward(x)
    for sample in range(3):
        centres, sizes, scores = network[0].candidates(outputs[0][sample], (6, 6))
        candidates = [
            (*centres[place], *sizes[place], label, scores[place, label])
            for place, label in np.ndindex(scores.shape)
            if scores[place, label] > threshold
        ]
        truth = naive.distinct(candidates, overlap)
        found = find_boxes(network, outputs, sample, threshold=threshold, overlap=overlap)
        assert len(found) == len(truth) > 0
        np.testing.assert_allclose(found, truth, rtol=1e-12)


def test_boxes_of_several_sections_are_compared_with_one_another(tmp_path):
    cfg = image_cfg(
        6, 2, 2, "yolo classes=1 anchors=1,1", "upsample stride=1", "yolo classes=1 anchors=1,1"
    )
    network = load_network(*written(tmp_path, cfg))
    y = np.zeros((1, 6, 2, 2), np.float32)
    y[0, :, 0, 1] = 0.5, 0.5, 0, 0, 0.9, 0.9
    found = find_boxes(network, {0: y, 2: y}, threshold=0.5)
    assert found == [Box(0.75, 0.25, 0.5, 0.5, 0, pytest.approx(0.81))]
    z = y.copy()
    z[0, 0, 0, 1] = -1  # elsewhere
    assert len(find_boxes(network, {0: y, 2: z}, threshold=0.5)) == 2


def test_sizes_without_end_are_no_boxes(tmp_path):
    network = yolo(tmp_path, classes=1, size=1)
    y = np.float32([[0.5, 0.5, 1e4, 0, 1, 1]]).reshape(1, 6, 1, 1)
    assert find_boxes(network, {0: y}) == []


def test_boxes_of_numbers_only(tmp_path):
    cfg = cfg_text("net inputs=6", "detection side=1 coords=4 num=1 classes=1 sqrt=1")
    network = load_network(*written(tmp_path, cfg))
    y = np.float32([[1, 0.75, 0.5, 0.25, 0.5, 1]])
    assert find_boxes(network, {0: y}) == [Box(0.5, 0.25, 0.25, 1, 0, 0.75)]


def test_the_least_likely_of_very_many_are_left_out(tmp_path, monkeypatch, rng):
    network = yolo(tmp_path, classes=1)
    _, outputs = network.forward(rng.normal(0, 1, (1, 6, 6, 6)).astype(np.float32))
    all_of_them = find_boxes(network, outputs, threshold=0, overlap=1)
    assert len(all_of_them) == 36
    monkeypatch.setattr(boxes, "MOST_CANDIDATES", 10)
    assert find_boxes(network, outputs, threshold=0, overlap=1) == all_of_them[:10]


def test_what_has_no_boxes(tmp_path):
    network = load_network(*written(tmp_path, image_cfg(1, 2, 2, "softmax")))
    with pytest.raises(ValueError, match="find_boxes: network has no boxes; expected one with a"):
        find_boxes(network, {})


@pytest.mark.parametrize("name", ["threshold", "overlap"])
def test_wrong_numbers(tmp_path, name):
    with pytest.raises(ValueError, match=f"find_boxes: {name} is -1; expected a finite number"):
        find_boxes(yolo(tmp_path), {}, **{name: -1})
