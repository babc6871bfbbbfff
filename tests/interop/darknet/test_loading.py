"""What a file of weights fills: all layers, or the first of them."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest

from nbnorm.interop.darknet import load_network
from tests.interop.darknet.files import cfg_text, image_cfg, packed, written

LAYERS = (
    "connected output=2 activation=linear",
    "dropout",
    "batchnorm",
    "connected output=3 activation=linear",
    "softmax",
)
CFG = cfg_text("net inputs=2", *LAYERS)
FIRST = [1, 2], [[3, 4], [5, 6]]
SECOND = [7, 8], [9, 10], [11, 12]  # scales, mean, variance
THIRD = [13, 14, 15], np.arange(6)
PLAIN = cfg_text("net inputs=2", LAYERS[0], "dropout", LAYERS[3], "softmax")


def loads(paths, **options):
    """Load without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_network(*paths, rng=0, **options)


def assert_filled(net, start, filled):
    """The layers of these indices have the file's numbers; the others are as they start."""
    numbers = {"0.weight": FIRST[1], "0.bias": FIRST[0], "2.gamma": SECOND[0]}
    numbers |= {"3.bias": THIRD[0], "3.weight": np.reshape(THIRD[1], (3, 2))}
    for name, array in net.parameters().items():
        truth = numbers.get(name, np.zeros(2)) if int(name[0]) in filled else start[name]
        np.testing.assert_array_equal(array, truth)


@pytest.fixture
def start(tmp_path):
    (cfg,) = written(tmp_path, CFG)
    return load_network(cfg, rng=0, batchnorm_biases=False).parameters()


@pytest.mark.parametrize(
    ("upto", "filled"), [(1, {0}), (2, {0}), (3, {0, 2}), (4, {0, 2, 3}), (5, {0, 2, 3})]
)
def test_the_first_layers_of_a_whole_file(tmp_path, start, upto, filled):
    paths = written(tmp_path, CFG, packed(*FIRST, *SECOND, *THIRD))
    net = loads(paths, upto=upto, batchnorm_biases=False)
    assert_filled(net, start, filled)


@pytest.mark.parametrize(
    ("numbers", "upto", "filled"),
    [(FIRST, 1, {0}), (FIRST, 2, {0}), ((*FIRST, *SECOND), 3, {0, 2})],
)
def test_the_file_of_a_backbone_by_the_number_of_its_layers(tmp_path, start, numbers, upto, filled):
    paths = written(tmp_path, CFG, packed(*numbers))
    assert_filled(loads(paths, upto=upto, batchnorm_biases=False), start, filled)


@pytest.mark.parametrize(
    ("numbers", "count", "filled"), [(FIRST, 2, {0}), ((*FIRST, *SECOND), 3, {0, 2})]
)
def test_the_file_of_a_backbone_by_its_length(tmp_path, start, numbers, count, filled):
    """Layers without numbers that follow are counted in."""
    paths = written(tmp_path, CFG, packed(*numbers))
    message = (
        f"{str(paths[1])!r} has the numbers of {count} layers of 5, the first; the others start "
        f"random (upto={count} says so without a warning)"
    )
    with pytest.warns(UserWarning, match=re.escape(message)) as caught:
        net = load_network(*paths, rng=0)
    assert caught[0].filename == __file__
    assert_filled(net, start, filled)


def test_the_length_tells_biases_of_a_backbone_too(tmp_path):
    biases = [16, 17]
    paths = written(tmp_path, CFG, packed(*FIRST, biases, *SECOND))
    with pytest.warns(UserWarning, match="has the numbers of 3 layers of 5"):
        net = load_network(*paths)
    np.testing.assert_array_equal(net.parameters()["2.beta"], biases)


@pytest.mark.parametrize("size", [0, 1, 4, 23, 25, 28])
def test_what_is_the_file_of_no_backbone(tmp_path, size):
    """Not even of none: a file that ends after its header."""
    paths = written(tmp_path, PLAIN, packed(*FIRST, 0)[: 20 + size])
    message = r"layer [02] \[connected\]: (biases|weights) at byte \d+ has \d+ bytes to the end"
    with pytest.raises(ValueError, match=message):
        load_network(*paths)


def test_a_whole_network_is_saved(tmp_path, start):
    paths = written(tmp_path, CFG, packed(*FIRST))
    net = loads(paths, upto=1, batchnorm_biases=False)
    net.save_weights(tmp_path / "whole.weights")
    again = loads([paths[0], tmp_path / "whole.weights"])
    for name, array in net.parameters().items():
        np.testing.assert_array_equal(again.parameters()[name], array)
    assert again.header == net.header


def test_variances_of_layers_that_are_not_filled(tmp_path):
    """They are no file's, and so are not turned into another dialect's."""
    cfg = image_cfg(1, 1, 1, *["convolutional batch_normalize=1 filters=1 activation=linear"] * 2)
    paths = written(tmp_path, cfg, packed([0], [1], [0], [4], [1]))
    net = loads(paths, upto=1)
    np.testing.assert_array_equal(net.buffers()["0.running_var"], [4 + 2e-6 * 2])
    np.testing.assert_array_equal(net.buffers()["1.running_var"], [1])


@pytest.mark.parametrize(
    ("upto", "error", "expected"),
    [
        (0, ValueError, "an int from 1 to 5, the number of layers"),
        (6, ValueError, "an int from 1 to 5, the number of layers"),
        (1.0, TypeError, "an int from 1 to 5, the number of layers"),
        (True, TypeError, "an int from 1 to 5, the number of layers"),
    ],
)
def test_wrong_numbers_of_layers(tmp_path, upto, error, expected):
    paths = written(tmp_path, CFG, packed(*FIRST))
    with pytest.raises(error, match=f"load_network: upto is {upto}; expected {expected}"):
        load_network(*paths, upto=upto)


def test_layers_of_no_file(tmp_path):
    (cfg,) = written(tmp_path, CFG)
    with pytest.raises(ValueError, match="upto is 1; expected None without a file of weights"):
        load_network(cfg, upto=1)


def test_a_file_that_ends_before_the_layers_asked_for(tmp_path):
    paths = written(tmp_path, PLAIN, packed(*FIRST))
    message = r"layer 2 \[connected\]: biases at byte 44 has 0 bytes to the end; expected 12"
    with pytest.raises(ValueError, match=message):
        load_network(*paths, upto=3)


def test_a_file_that_becomes_shorter_while_it_is_read(tmp_path, monkeypatch):
    paths = written(tmp_path, PLAIN, packed(*FIRST, *THIRD))
    monkeypatch.setattr("nbnorm.interop.darknet.weights.length_of", lambda path: 80)
    paths[1].write_bytes(paths[1].read_bytes()[:-4])
    with pytest.raises(ValueError, match="weights at byte 56 has 5 of 6 numbers"):
        load_network(*paths)
