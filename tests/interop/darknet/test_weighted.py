"""Sections that hold numbers, against the loops of darknet in float64."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm.interop.darknet import load_network
from tests.interop.darknet import naive
from tests.interop.darknet.cases import CLOSE, assert_channels_close, image, parameters
from tests.interop.darknet.files import image_cfg, written


@pytest.mark.parametrize("dialect", ["pjreddie", "alexeyab"])
def test_convolution_with_batch_norm(run, rng, dialect):
    x, weight = image(rng, 2, 3, 5, 6), image(rng, 4, 3, 3, 3)
    numbers = parameters(rng, 4)
    y = run(
        x, "convolutional batch_normalize=1 filters=4 size=3 pad=1 stride=2 activation=leaky",
        numbers=[numbers, weight], dialect=dialect,
    )  # fmt: skip
    z = naive.convolution(x, weight, (2, 2), padding=1)
    assert_channels_close(y, naive.ACTIVATIONS["leaky"](naive.normalized(z, *numbers, dialect)))


def test_convolution_with_all_its_options(run, rng):
    x, weight, bias = image(rng, 1, 4, 7, 9), image(rng, 6, 2, 3, 3), image(rng, 6)
    y = run(
        x, "convolutional filters=6 groups=2 size=3 pad=1 stride_x=1 stride_y=2 dilation=2 "
        "activation=leaky",
        numbers=[bias, weight], dialect="alexeyab",
    )  # fmt: skip
    z = naive.convolution(x, weight, (2, 1), padding=2, dilation=2, groups=2)
    z += bias[:, np.newaxis, np.newaxis]
    np.testing.assert_allclose(y, naive.ACTIVATIONS["leaky"](z), **CLOSE)


def test_convolution_is_logistic_by_default(run, rng):
    x, weight, bias = image(rng, 2, 3, 2, 2), image(rng, 4, 3, 1, 1), image(rng, 4)
    z = naive.convolution(x, weight) + bias[:, np.newaxis, np.newaxis]
    y = run(x, "convolutional filters=4", numbers=[bias, weight])
    np.testing.assert_allclose(y, naive.logistic(z), **CLOSE)
    numbers = parameters(rng, 4)
    numbers[3, -1] = 1
    y = run(x, "convolutional filters=4 batch_normalize=1", numbers=[numbers, weight])
    truth = naive.logistic(naive.normalized(naive.convolution(x, weight), *numbers, "pjreddie"))
    np.testing.assert_allclose(y, truth, **CLOSE)


@pytest.mark.parametrize("eps", [0.0, 0.5])
@pytest.mark.parametrize("dialect", ["pjreddie", "alexeyab"])
def test_another_eps_stays_in_its_place(run, rng, dialect, eps):
    x = image(rng, 2, 3, 2, 2)
    biases, scales, mean, variance = parameters(rng, 3)
    y = run(x, "batchnorm", numbers=[biases, scales, mean, variance], dialect=dialect, eps=eps)
    column = (slice(None), np.newaxis, np.newaxis)
    variance = variance.astype(np.float64)
    root = np.sqrt(variance) + eps if dialect == "pjreddie" else np.sqrt(variance + eps)
    truth = (x - mean[column]) / root[column] * scales[column] + biases[column]
    assert_channels_close(y, truth)


@pytest.mark.parametrize(("dialect", "momentum"), [("pjreddie", 0.01), ("alexeyab", 0.1)])
def test_layers_train_by_their_dialect(tmp_path, rng, dialect, momentum):
    x = image(rng, 8, 2, 3, 3)
    cfg = image_cfg(2, 3, 3, "batchnorm")
    net = load_network(*written(tmp_path, cfg), dialect=dialect)
    layer = net[0].layer
    assert not layer.training
    layer.train()
    y = net(x)
    mean, var = x.mean((0, 2, 3), np.float64), x.var((0, 2, 3), np.float64, ddof=1)
    truth = naive.normalized(x, [0, 0], [1, 1], mean, var, dialect)  # by m - 1, as both divide
    # In the older dialect sqrt(var + 1e-12) for sqrt(var) + 1e-6: 1e-6 of y.
    np.testing.assert_allclose(y, truth, **CLOSE)
    np.testing.assert_allclose(layer.running_mean, momentum * mean, rtol=1e-6)
    start = layer.running_var - momentum * var
    np.testing.assert_allclose(start, 1 - momentum, rtol=1e-5)
    assert load_network(tmp_path / "test.cfg", momentum=0.25)[0].layer.momentum == 0.25


@pytest.mark.parametrize("dialect", ["pjreddie", "alexeyab"])
def test_connected(run, rng, dialect):
    x, weight = image(rng, 3, 2, 2, 3), image(rng, 5, 12)
    rows = x.reshape(3, 12).astype(np.float64)
    biases, *normalization = parameters(rng, 5)
    y = run(
        x, "connected output=5 batch_normalize=1 activation=relu",
        numbers=[biases, weight, *normalization], dialect=dialect,
    )  # fmt: skip
    truth = naive.normalized(rows @ weight.T, biases, *normalization, dialect)
    assert_channels_close(y, np.maximum(truth, 0))
    y = run(x, "connected output=5", numbers=[biases, weight], dialect=dialect)
    np.testing.assert_allclose(y, naive.logistic(rows @ weight.T + biases), **CLOSE)


def test_convolution_of_what_a_connected_layer_gives(run, rng):
    x = image(rng, 2, 3)
    first, second = image(rng, 4, 3), image(rng, 2, 4, 1, 1)
    sections = "connected output=4 activation=linear", "convolutional filters=2 activation=linear"
    y = run(x, *sections, numbers=[np.zeros(4), first, np.zeros(2), second])
    truth = x.astype(np.float64) @ first.T @ second.reshape(2, 4).T
    np.testing.assert_allclose(y.reshape(2, 2), truth, **CLOSE)


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("dialect", ["pjreddie", "alexeyab"])
def test_batchnorm(run, rng, dialect, biases):
    x = image(rng, 2, 3, 4, 5)
    numbers = parameters(rng, 3)
    if not biases:
        numbers[0] = 0
    y = run(x, "batchnorm", numbers=numbers if biases else numbers[1:], dialect=dialect)
    assert_channels_close(y, naive.normalized(x, *numbers, dialect))


@pytest.mark.parametrize("section", ["convolutional filters=3", "connected output=3"])
@pytest.mark.parametrize("activation", ["linear", "leaky"])
def test_batchnorm_folds_into_what_is_before(tmp_path, rng, section, activation):
    x = image(rng, 2, 2, 4, 4)
    sections = f"{section} activation={activation}", "batchnorm", "softmax"
    net = load_network(*written(tmp_path, image_cfg(2, 4, 4, *sections)), rng=0)
    net.buffers()["1.running_var"][...] = 4
    net.buffers()["1.running_mean"][...] = 0.5, 1, -1
    folded = net.fold()
    is_gone = not any("running_var" in name for name in folded.buffers())
    assert is_gone == (activation == "linear")
    assert folded[1].sources == ((-1,) if is_gone else (0,))
    assert list(folded.parameters())[:2] == [
        f"{int(is_gone)}.{name}" for name in ("weight", "bias")
    ]
    np.testing.assert_allclose(folded(x), net(x), **CLOSE)


@pytest.mark.parametrize(
    ("options", "size", "stride", "pad"),
    [
        ("size=3 pad=1", 3, 1, 1),
        ("size=3 pad=1 stride=2", 3, 2, 1),
        ("size=2", 2, 1, 0),
        ("size=4 stride=3", 4, 3, 0),
        ("", 1, 1, 0),
    ],
)
@pytest.mark.parametrize("activation", ["linear", "leaky", "logistic"])
def test_local(run, rng, options, size, stride, pad, activation):
    x = image(rng, 2, 3, 5, 7)
    high, wide = ((side + 2 * pad - size) // stride + 1 for side in (5, 7))
    biases = image(rng, 4, high, wide)
    weights = image(rng, high * wide, 4, 3 * size**2)
    numbers = [biases, weights]
    y = run(x, f"local filters=4 {options} activation={activation}", numbers=numbers)
    truth = naive.local(x, weights, biases, size, stride, pad)
    np.testing.assert_allclose(y, naive.ACTIVATIONS[activation](truth), **CLOSE)


def test_local_layers_start_random_and_are_saved(tmp_path):
    cfg = image_cfg(2, 4, 4, "local filters=3 size=3 pad=1", "connected output=2")
    one, same = (load_network(*written(tmp_path, cfg), rng=0) for _ in range(2))
    assert list(one.parameters()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    np.testing.assert_array_equal(one.parameters()["0.weight"], same.parameters()["0.weight"])
    assert one.parameters()["0.weight"].std() > 0.1
    one.save_weights(tmp_path / "one.weights")
    again = load_network(tmp_path / "test.cfg", tmp_path / "one.weights")
    for name, array in again.parameters().items():
        np.testing.assert_array_equal(array, one.parameters()[name])
    folded = one.fold()
    one.parameters()["0.weight"][...] = 0
    np.testing.assert_array_equal(folded.parameters()["0.weight"], same.parameters()["0.weight"])


@pytest.mark.parametrize("options", ["size=5 pad=1", "size=1 pad=1", "size=3 pad=2", "pad=-1"])
def test_local_windows_that_darknet_counts_wrong(tmp_path, options):
    with pytest.raises(ValueError, match="expected pad=0, or pad=1 and size=3"):
        load_network(*written(tmp_path, image_cfg(2, 9, 9, f"local {options}")))
