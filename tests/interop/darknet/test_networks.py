"""Whole networks: tiny YOLOv3 and ResNet-18 as examples/darknet has them."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nbnorm.interop.darknet import load_network

EXAMPLES = Path(__file__).parents[3] / "examples"
SCRIPT = EXAMPLES / "darknet_networks.py"
TINY_YOLO = EXAMPLES / "darknet" / "yolov3-tiny.cfg"
RESNET = EXAMPLES / "darknet" / "resnet18.cfg"
SIZE = 64  # pixels, for time: both networks divide by 32


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("darknet_networks", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=[TINY_YOLO, RESNET], ids=lambda path: path.stem)
def network(request, example):
    """A network with statistics of a batch of noise, through a file of weights."""
    return example.saved_and_loaded(request.param, np.random.default_rng(2015), size=SIZE)[0]


def test_tiny_yolo_is_the_published_one():
    net = load_network(TINY_YOLO)
    assert [step.shape for step in net if step.kind == "yolo"] == [(255, 13, 13), (255, 26, 26)]
    # The length of the published yolov3-tiny.weights.
    assert weights_bytes(net) == 35_434_956


def test_resnet_is_the_published_one():
    net = load_network(RESNET)
    assert net[-1].shape == (1000,)
    shapes = [step.shape for step in net if step.kind == "shortcut"]
    sizes = [(64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)]
    assert shapes == [shape for shape in sizes for _ in range(2)]
    # Of torchvision's model resnet18, which projects where the size changes as this one does.
    assert sum(array.size for array in net.parameters().values()) == 11_689_512


def weights_bytes(net):
    return 20 + 4 * sum(array.size for step in net for array in step.stored().values())


def test_folded_equals_unfolded(network, rng, example):
    x = example.noise(network, rng, batch=2)
    folded = network.fold()
    assert not any("running_var" in name for name in folded.buffers())
    y, outputs = network.forward(x)
    for index, other in folded.forward(x)[1].items():
        # 1e-4 is asked for; Winograd's rounding through ten layers reaches a fifth of it.
        assert np.abs(outputs[index] - other).max() <= 1e-4 * np.abs(outputs[index]).max()
    assert y.std() > 1e-5  # with such statistics numbers neither vanish nor grow
    assert all(np.isfinite(output).all() for output in outputs.values())


def test_samples_do_not_depend_on_their_batch(network, rng, example):
    x = example.noise(network, rng, batch=2)
    for net in (network, network.fold()):
        together = net(x)
        alone = np.concatenate([net(x[:1]), net(x[1:])])
        # Another batch may be worked out by another algorithm.
        np.testing.assert_allclose(together, alone, rtol=0, atol=1e-4 * np.abs(alone).max())


@pytest.mark.slow
def test_the_example_prints_times():
    run = subprocess.run(
        [sys.executable, SCRIPT, "--size", str(SIZE), "--seconds", "0.1", RESNET],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    line = r"resnet18 +3 x 64 x 64 +46\.8 MB +[\d.]+ ms +[\d.]+ ms +\d\.\de-\d\d"
    assert re.search(line, run.stdout)


# --- PyTorch --------------------------------------------------------------------------------


@pytest.mark.peer
def test_pytorch_computes_the_same(network, rng, example, torch, tmp_path):
    x = example.noise(network, rng, batch=2)
    network.save_weights(tmp_path / "network.weights")
    numbers = np.fromfile(tmp_path / "network.weights", np.float32)[5:]  # after 20 bytes
    truth = in_pytorch(torch, network, numbers, x)
    for index, y in network.forward(x)[1].items():
        # Winograd's rounding in float32, against float64.
        np.testing.assert_allclose(y, truth[index], rtol=0, atol=1e-4 * np.abs(truth[index]).max())


def in_pytorch(torch, network, numbers, x):
    """Every section by PyTorch in float64, its numbers taken off a file in darknet's order."""
    functional = torch.nn.functional
    numbers = torch.from_numpy(numbers.astype(np.float64))
    place = 0

    def take(*shape):
        nonlocal place
        place += (count := int(np.prod(shape)))
        return numbers[place - count : place].reshape(shape)

    activations = {
        "linear": lambda y: y,
        "leaky": lambda y: functional.leaky_relu(y, 0.1),
        "relu": torch.relu,
    }
    outputs = [torch.from_numpy(x.astype(np.float64))]
    for step in network:
        option = step.section.options.get
        y, *others = (outputs[source + 1] for source in step.sources)
        if step.kind == "convolutional":
            filters, size, stride = (int(option(key)) for key in ("filters", "size", "stride"))
            bias = take(filters)
            normalizes = option("batch_normalize") == "1"
            scales, mean, variance = take(3, filters) if normalizes else (None, None, None)
            y = functional.conv2d(y, take(filters, y.shape[1], size, size), None, stride, size // 2)
            if normalizes:
                y = y - mean.reshape(-1, 1, 1)
                y = y * (scales / (variance.sqrt() + 1e-6)).reshape(-1, 1, 1)
            y = activations[option("activation")](y + bias.reshape(-1, 1, 1))
        elif step.kind == "connected":
            bias, weight = take(step.shape[0]), take(step.shape[0], y[0].numel())
            y = functional.linear(y.flatten(1), weight, bias)
        elif step.kind == "maxpool" and option("size") == "3":
            y = functional.max_pool2d(y, 3, 2, padding=1)
        elif step.kind == "maxpool":
            stride = int(option("stride"))
            right = 2 - stride  # a stride of 1 looks beyond the last row and column
            padded = functional.pad(y, (0, right, 0, right), value=-torch.inf)
            y = functional.max_pool2d(padded, 2, stride)
        elif step.kind == "avgpool":
            y = functional.adaptive_avg_pool2d(y, 1)
        elif step.kind == "upsample":
            y = functional.interpolate(y, scale_factor=2, mode="nearest")
        elif step.kind == "route":
            y = torch.cat([y, *others], dim=1)
        elif step.kind == "shortcut":
            y = activations[option("activation")](y + others[0])
        elif step.kind == "softmax":
            y = torch.softmax(y, dim=1)
        elif step.kind == "yolo":
            entries = y.unflatten(1, (3, 85))
            sizes = entries[:, :, 2:4]
            entries = torch.sigmoid(entries)
            entries[:, :, 2:4] = sizes
            y = entries.flatten(1, 2)
        else:
            raise AssertionError(step.kind)
        outputs.append(y)
    assert place == len(numbers)
    return [output.numpy() for output in outputs[1:]]
