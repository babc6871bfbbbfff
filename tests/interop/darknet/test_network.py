"""A network as a whole."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm.interop.darknet import load_network
from tests.interop.darknet import naive
from tests.interop.darknet.cases import CLOSE, image
from tests.interop.darknet.files import image_cfg, written


def test_every_yolo_and_the_last_are_handed_out(tmp_path, rng):
    x = image(rng, 2, 7, 3, 3)
    cfg = image_cfg(7, 3, 3, "yolo classes=2", "upsample stride=1", "yolo classes=2", "softmax")
    net = load_network(*written(tmp_path, cfg))
    for one in (net, net.fold()):
        y, outputs = one.forward(x)
        assert list(outputs) == [0, 2, 3]
        assert outputs[3] is y
        np.testing.assert_allclose(outputs[0], naive.yolo(x, 1, 2, 1, 0), **CLOSE)


def test_a_step_that_others_need_is_not_merged(tmp_path, rng):
    x = image(rng, 1, 2, 3, 3)
    cfg = image_cfg(
        2, 3, 3, "dropout", "convolutional filters=2 activation=linear",
        "shortcut from=0 activation=leaky", "route layers=1,2",
    )  # fmt: skip
    net = load_network(*written(tmp_path, cfg), rng=0)
    folded = net.fold()
    assert folded[2].sources == (1, 0)
    np.testing.assert_array_equal(folded(x), net(x))


def test_a_folded_network_has_arrays_of_its_own(tmp_path, rng):
    x = image(rng, 1, 2, 3, 3)
    sections = "convolutional batch_normalize=1 activation=leaky", "connected", "batchnorm"
    net = load_network(*written(tmp_path, image_cfg(2, 3, 3, *sections)), rng=0)
    folded = net.fold()
    before = folded(x)
    for array in (net.parameters() | net.buffers()).values():
        array[...] += 1
    np.testing.assert_array_equal(folded(x), before)
    assert not np.array_equal(net(x), before)


def test_an_empty_batch(tmp_path):
    cfg = image_cfg(
        2, 6, 6, "convolutional batch_normalize=1 filters=4 activation=leaky", "maxpool stride=2",
        "upsample", "shortcut from=0", "avgpool", "connected output=3", "softmax",
    )  # fmt: skip
    y = load_network(*written(tmp_path, cfg))(np.empty((0, 2, 6, 6), np.float32))
    assert y.shape == (0, 3)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros((1, 2, 3, 4), np.float32), ValueError, r"expected shape \(n, 2, 3, 3\)"),
        (np.zeros((2, 3, 3), np.float32), ValueError, r"expected shape \(n, 2, 3, 3\)"),
        (np.zeros((1, 2, 3, 3)), TypeError, "expected an array of float32"),
        ([[1.0]], TypeError, "expected a NumPy array"),
    ],
)
def test_wrong_inputs(tmp_path, x, error, message):
    net = load_network(*written(tmp_path, image_cfg(2, 3, 3, "avgpool")))
    with pytest.raises(error, match=rf"Network\.forward: x is .*; {message}"):
        net.forward(x)
