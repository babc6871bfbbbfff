"""Sections with a state: sequences against one step after the other in float64."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm.interop.darknet import load_network
from tests.interop.darknet import naive
from tests.interop.darknet.cases import CLOSE, image, parameters
from tests.interop.darknet.files import cfg_text, image_cfg, packed, written

STEPS, BATCH = 4, 3
DIALECTS = pytest.mark.parametrize("dialect", ["pjreddie", "alexeyab"])
NORMALIZED = pytest.mark.parametrize("normalized", [0, 1])


class Numbers:
    """Layers drawn one after the other, as functions, and their numbers in a file's order."""

    def __init__(self, rng, normalized, dialect):
        self.rng, self.normalized, self.dialect = rng, normalized, dialect
        self.file = []

    def connected(self, k, c, activation="linear"):
        biases, *normalization = self._parameters(k)
        weight = image(self.rng, k, c) / np.float32(np.sqrt(c))
        self.file += [biases, weight, *(normalization if self.normalized else [])]

        def function(x):
            z = x.astype(np.float64) @ weight.T
            return self._activated(z, biases, normalization, activation)

        return function

    def convolution(self, k, c, size, activation):
        biases, *normalization = self._parameters(k)
        weight = image(self.rng, k, c, size, size) / np.float32(np.sqrt(c) * size)
        self.file += [biases, *(normalization if self.normalized else []), weight]

        def function(x):
            z = naive.convolution(x, weight, padding=size // 2)
            return self._activated(z, biases, normalization, activation)

        return function

    def _parameters(self, k):
        numbers = parameters(self.rng, k)
        numbers[3, -1] = 1
        return numbers

    def _activated(self, z, biases, normalization, activation):
        if self.normalized:
            z = naive.normalized(z, biases, *normalization, self.dialect)
        else:
            z = z + np.reshape(biases, (-1, *(1,) * (z.ndim - 2)))
        return naive.ACTIVATIONS[activation](z)


@DIALECTS
@NORMALIZED
@pytest.mark.parametrize("shortcut", [0, 1])
def test_rnn(run, rng, dialect, normalized, shortcut):
    x = image(rng, STEPS, BATCH, 6)
    hidden = 5 if dialect == "pjreddie" else 4  # the original has one number for both
    numbers = Numbers(rng, normalized, dialect)
    layers = [
        numbers.connected(*sizes, "leaky") for sizes in ((hidden, 6), (hidden, hidden), (5, hidden))
    ]
    y = run(
        x, f"rnn output=5 hidden={hidden} batch_normalize={normalized} activation=leaky "
        f"shortcut={shortcut}",
        numbers=numbers.file, dialect=dialect, lead=2,
    )  # fmt: skip
    truth = naive.elman(x, np.zeros((BATCH, hidden)), *layers, shortcut)
    np.testing.assert_allclose(y, truth, **CLOSE)


@pytest.mark.parametrize(("logistic", "own"), [(0, "tanh"), (1, "logistic"), (2, "loggy")])
def test_the_state_of_an_rnn_may_have_its_own_activation(run, rng, logistic, own):
    x = image(rng, STEPS, BATCH, 6)
    numbers = Numbers(rng, False, "alexeyab")
    layers = [
        numbers.connected(4, 6, "tanh"), numbers.connected(4, 4, own),
        numbers.connected(5, 4, "tanh"),
    ]  # fmt: skip
    section = f"rnn output=5 hidden=4 activation=tanh logistic={logistic}"
    y = run(x, section, numbers=numbers.file, dialect="alexeyab", lead=2)
    truth = naive.elman(x, np.zeros((BATCH, 4)), *layers, False)
    np.testing.assert_allclose(y, truth, **CLOSE)


@DIALECTS
@NORMALIZED
@pytest.mark.parametrize("shortcut", [0, 1])
def test_crnn(run, rng, dialect, normalized, shortcut):
    x = image(rng, STEPS, BATCH, 2, 4, 5)
    numbers = Numbers(rng, normalized, dialect)
    layers = [numbers.convolution(*sizes, 3, "leaky") for sizes in ((3, 2), (3, 3), (4, 3))]
    sizes = "output=4 hidden=3 pad=1"
    if dialect == "pjreddie":
        sizes = "output_filters=4 hidden_filters=3"
    y = run(
        x, f"crnn {sizes} batch_normalize={normalized} activation=leaky shortcut={shortcut}",
        numbers=numbers.file, dialect=dialect, lead=2,
    )  # fmt: skip
    truth = naive.elman(x, np.zeros((BATCH, 3, 4, 5)), *layers, shortcut)
    np.testing.assert_allclose(y, truth, **CLOSE)


@NORMALIZED
@pytest.mark.parametrize(("dialect", "tanh"), [("pjreddie", 0), ("pjreddie", 1), ("alexeyab", 0)])
def test_gru(run, rng, dialect, normalized, tanh):
    x = image(rng, STEPS, BATCH, 6)
    numbers = Numbers(rng, normalized, dialect)

    def of_input():
        return {gate: numbers.connected(5, 6) for gate in "zrh"}

    def of_state():
        return {gate: numbers.connected(5, 5) for gate in "zrh"}

    if dialect == "pjreddie":  # the state's come first in its files
        states, inputs = of_state(), of_input()
    else:
        inputs, states = of_input(), of_state()
    y = run(
        x, f"gru output=5 batch_normalize={normalized}" + " tanh=1" * tanh,
        numbers=numbers.file, dialect=dialect, lead=2,
    )  # fmt: skip
    activation = np.tanh if tanh else naive.logistic
    truth = naive.gru(x, np.zeros((BATCH, 5)), inputs, states, activation)
    np.testing.assert_allclose(y, truth, **CLOSE)


@DIALECTS
@NORMALIZED
def test_lstm(run, rng, dialect, normalized):
    x = image(rng, STEPS, BATCH, 6)
    numbers = Numbers(rng, normalized, dialect)
    order = "ifog" if dialect == "pjreddie" else "figo"
    states = {gate: numbers.connected(5, 5) for gate in order}
    inputs = {gate: numbers.connected(5, 6) for gate in order}
    y = run(
        x, f"lstm output=5 batch_normalize={normalized}",
        numbers=numbers.file, dialect=dialect, lead=2,
    )  # fmt: skip
    truth = naive.lstm(x, np.zeros((BATCH, 5)), inputs, states)
    np.testing.assert_allclose(y, truth, **CLOSE)


@pytest.mark.parametrize("kind", ["rnn output=4 hidden=4", "gru output=4", "lstm output=4"])
def test_a_batch_is_sequences_of_one_step(tmp_path, rng, kind):
    x = image(rng, BATCH, 6)
    net = load_network(*written(tmp_path, cfg_text("net inputs=6", kind, "softmax")), rng=0)
    assert net.is_recurrent
    np.testing.assert_array_equal(net(x), net(x[np.newaxis])[0])
    np.testing.assert_array_equal(net(x), net(x))  # nothing is kept from call to call


def test_layers_around_take_every_step(tmp_path, rng):
    """Steps and sequences are one batch to what has no state."""
    x = image(rng, STEPS, BATCH, 2, 4, 4)
    cfg = image_cfg(
        2, 4, 4, "convolutional filters=3 size=3 pad=1", "maxpool stride=2", "lstm output=4",
        "connected output=6", "softmax",
    )  # fmt: skip
    net = load_network(*written(tmp_path, cfg), rng=0)
    y = net(x)
    before = net[1].forward(net[0].forward(x.reshape(-1, 2, 4, 4)))
    states = net[2].forward(before.reshape(STEPS, BATCH, 12))
    truth = net[4].forward(net[3].forward(states.reshape(-1, 4)))
    np.testing.assert_array_equal(y, truth.reshape(STEPS, BATCH, 6))


@pytest.mark.parametrize("shape", [(0, 3, 6), (4, 0, 6), (0, 6)])
def test_sequences_of_nothing(tmp_path, shape):
    net = load_network(*written(tmp_path, cfg_text("net inputs=6", "gru output=2", "softmax")))
    assert net(np.empty(shape, np.float32)).shape == (*shape[:-1], 2)


def test_sequences_are_refused_where_there_is_no_state(tmp_path):
    net = load_network(*written(tmp_path, cfg_text("net inputs=6", "connected output=2")))
    with pytest.raises(ValueError, match=r"Network\.forward: x .*; expected shape \(n, 6\)$"):
        net(np.zeros((2, 3, 6), np.float32))
    net = load_network(*written(tmp_path, cfg_text("net inputs=6", "gru output=2")))
    with pytest.raises(ValueError, match=r"expected shape \(n, 6\) or \(steps, n, 6\)$"):
        net(np.zeros((2, 3, 5), np.float32))


def test_layers_have_names(tmp_path):
    cfg = cfg_text("net inputs=2", "rnn output=3 batch_normalize=1", "connected output=1")
    net = load_network(*written(tmp_path, cfg))
    assert net[0].layer is None
    names = [
        f"0.{part}.{name}"
        for part in ("input", "self", "output")
        for name in ("weight", "gamma", "beta")
    ]
    assert sorted(net.parameters())[:9] == sorted(names)
    assert "0.self.running_mean" in net.buffers()
    assert not net.fold().buffers()


def test_a_file_in_the_old_order_of_weights(tmp_path, rng):
    """Connected weights (in, out), in a layer with a state too."""
    cfg = cfg_text("net inputs=2", "rnn output=3 hidden=3")
    weights = [image(rng, 3, 2), image(rng, 3, 3), image(rng, 3, 3)]
    numbers = [one for weight in weights for one in ([0, 0, 0], weight.T)]
    file = packed(*numbers, version=(1001, 0, 0))
    file = file[:16] + file[20:]  # `seen` has 32 bits
    net = load_network(*written(tmp_path, cfg, file), dialect="pjreddie")
    for name, weight in zip(("input", "self", "output"), weights, strict=True):
        np.testing.assert_array_equal(net.parameters()[f"0.{name}.weight"], weight)
    net.save_weights(tmp_path / "again.weights")
    assert (tmp_path / "again.weights").read_bytes() == file


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (
            cfg_text("net inputs=2", "rnn output=3 hidden=2"),
            r"layer 0 \[rnn\]: hidden is 2; expected 3, as output",
        ),
        (
            image_cfg(2, 4, 4, "crnn output=2"),
            r"the state would be of \(2, 2\) pixels; expected \(4, 4\)",
        ),
        (image_cfg(2, 4, 4, "crnn output=2 pad=1 stride=2"), r"\(2, 2\) pixels; expected \(4, 4\)"),
        (image_cfg(2, 4, 4, "crnn output=2 xnor=1"), "xnor is '1'; expected 0"),
        (cfg_text("net inputs=2", "crnn output=2"), "what comes before is 2 numbers"),
        (cfg_text("net inputs=2", "lstm output=0"), "output is 0; expected 1 or more"),
        (cfg_text("net inputs=2", "gru dontload=1"), "dontload is '1'; expected 0"),
        (cfg_text("net inputs=2", "gru output=1000000000"), "expected at most 536870912 numbers"),
        (
            cfg_text("net inputs=2", "lstm output=100000"),
            r"state_i.weights would be of shape \(100000, 100000\), and all layers so far hold",
        ),
    ],
)
def test_states_that_do_not_fit(tmp_path, cfg, message):
    with pytest.raises(ValueError, match=message):
        load_network(*written(tmp_path, cfg))
