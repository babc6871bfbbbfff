"""The layers against PyTorch's, step by step through a small training."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm.layers import (
    SGD,
    Activation,
    BatchNorm,
    Conv2d,
    Conv2dBatchNorm,
    Dense,
    DenseBatchNorm,
    Flatten,
    Sequential,
)

pytestmark = pytest.mark.peer

NAMES = {"gamma": "weight", "beta": "bias"}  # PyTorch's, where they differ


def assert_close(ours, theirs, tolerance=1e-12):
    theirs = theirs.detach().numpy()
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_batch_norm(rng, torch, dims, track, affine, momentum):
    shape = (4, 3, 5, 2, 2)[: 2 + (dims if dims > 1 else 0)]
    options = {"momentum": momentum, "affine": affine, "track_running_stats": track}
    ours = BatchNorm(3, **options, dtype=np.float64)
    theirs = getattr(torch.nn, f"BatchNorm{dims}d")(3, **options, dtype=torch.float64)

    for training in (True, True, False):
        ours.train(training)
        theirs.train(training)
        x, dy = rng.standard_normal((2, *shape))
        x_theirs = torch.tensor(x, requires_grad=True)
        y_theirs = theirs(x_theirs)
        y_theirs.backward(torch.tensor(dy))
        y, context = ours.forward(x)
        assert_close(y, y_theirs)
        assert_close(ours.backward(dy, context), x_theirs.grad)
        for name, gradient in ours.gradients().items():  # both have added them up
            assert_close(gradient, getattr(theirs, NAMES[name]).grad)
        for name, buffer in ours.buffers().items():
            assert_close(buffer, getattr(theirs, name))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1, "groups": 2},
        {"padding": "same", "dilation": (2, 1)},
        {"bias": False, "stride": (1, 3), "padding": (0, 2)},
    ],
)
def test_conv2d(rng, torch, options):
    ours = Conv2d(4, 6, (3, 2), **options, dtype=np.float64, rng=rng)
    theirs = torch.nn.Conv2d(4, 6, (3, 2), **options, dtype=torch.float64)
    ours.load_state_dict(theirs.state_dict())
    x = rng.standard_normal((2, 4, 8, 7))
    x_theirs = torch.tensor(x, requires_grad=True)
    y_theirs = theirs(x_theirs)
    assert_close(ours(x), y_theirs)

    dy = rng.standard_normal(y_theirs.shape)
    y_theirs.backward(torch.tensor(dy))
    assert_close(ours.backward(dy), x_theirs.grad)
    for name, gradient in ours.gradients().items():
        assert_close(gradient, getattr(theirs, name).grad)


def test_parameters_start_alike_in_distribution(torch):
    torch.manual_seed(0)
    for ours, theirs in [
        (Dense(256, 128, rng=0), torch.nn.Linear(256, 128)),
        (Conv2d(16, 64, 3, groups=2, rng=0), torch.nn.Conv2d(16, 64, 3, groups=2)),
    ]:
        for name, parameter in ours.parameters().items():
            right = getattr(theirs, name).detach().numpy()
            quantiles = np.linspace(0, 1, 9)
            np.testing.assert_allclose(
                np.quantile(parameter, quantiles),
                np.quantile(right, quantiles),
                atol=(0.02 if name == "weight" else 0.3) * right.max(),
            )


def test_a_training(rng, torch):
    """The same network, data and optimizer: the same parameters after ten steps."""
    ours = Sequential(
        Conv2d(1, 4, 3, padding=1, bias=False, dtype=np.float64, rng=rng),
        BatchNorm(4, activation="relu", dtype=np.float64),
        Conv2d(4, 6, 3, stride=2, dtype=np.float64, rng=rng),
        Activation("relu"),
        Flatten(),
        Dense(6 * 3 * 3, 5, dtype=np.float64, rng=rng),
    )
    nn = torch.nn
    theirs = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()),
        nn.Conv2d(4, 6, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 3 * 3, 5),
    ).double()

    def their_name(name):
        index, own = name.split(".")
        return f"1.0.{NAMES.get(own, own)}" if index == "1" else name

    state = {their_name(name): torch.tensor(array) for name, array in ours.state_dict().items()}
    theirs.load_state_dict(state)
    optimizer = SGD(ours, lr=0.1, momentum=0.9)
    their_optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)
    for _ in range(10):
        x, target = rng.standard_normal((8, 1, 7, 7)), rng.standard_normal((8, 5))
        dy = (ours(x) - target) / 8
        optimizer.zero_grad()
        ours.backward(dy)
        optimizer.step()

        their_optimizer.zero_grad()
        ((theirs(torch.tensor(x)) - torch.tensor(target)) ** 2).sum().div(16).backward()
        their_optimizer.step()
    after = theirs.state_dict()
    for name, array in ours.state_dict().items():
        assert_close(array, after[their_name(name)], tolerance=1e-9)


def assert_trains_as_its_parts(ours, theirs, normalization, draw, torch):
    """Steps of training and one of inference: outputs, gradients, buffers."""
    product = theirs[0]
    pairs = {"weight": product.weight, "bias": product.bias}
    pairs |= {"gamma": normalization.weight, "beta": normalization.bias}
    state = {"weight": product.weight, "bias": product.bias}
    for name, array in ours.parameters().items():
        if name in state:
            array[...] = state[name].detach().numpy()
    for training in (True, True, False):
        ours.train(training)
        theirs.train(training)
        x = draw()
        x_theirs = x.clone().requires_grad_()
        y_theirs = theirs(x_theirs)
        y, context = ours.forward(x.numpy())
        assert_close(y, y_theirs, 1e-11)
        dy = torch.randn_like(y_theirs)
        y_theirs.backward(dy)
        assert_close(ours.backward(dy.numpy(), context), x_theirs.grad, 1e-11)
        for name, gradient in ours.gradients().items():  # both have added them up
            assert_close(gradient, pairs[name].grad, 1e-11)
        for name, buffer in ours.buffers().items():
            assert_close(buffer, getattr(normalization, name), 1e-11)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("leading", [(9,), (3, 4)])
def test_dense_batch_norm(torch, leading, bias):
    torch.manual_seed(0)
    ours = DenseBatchNorm(5, 7, bias=bias, activation="relu", dtype=np.float64)
    normalization = torch.nn.BatchNorm1d(7, dtype=torch.float64)
    theirs = torch.nn.Sequential(
        torch.nn.Linear(5, 7, bias=bias, dtype=torch.float64),
        torch.nn.Flatten(0, -2),  # all leading axes count as one
        normalization,
        torch.nn.ReLU(),
        torch.nn.Unflatten(0, leading),
    )

    def draw():
        return torch.randn(*leading, 5, dtype=torch.float64)

    assert_trains_as_its_parts(ours, theirs, normalization, draw, torch)


@pytest.mark.parametrize("memory", ["contiguous_format", "channels_last"])
@pytest.mark.parametrize(
    ("channels", "window", "options"),
    [
        ((4, 6), 3, {"padding": 1, "bias": False}),
        ((16, 16), 3, {"padding": 1}),
        ((4, 6), (3, 2), {"stride": 2, "groups": 2}),
        ((6, 6), 3, {"dilation": 2, "groups": 6, "bias": False}),
    ],
)
def test_conv2d_batch_norm(torch, channels, window, options, memory):
    torch.manual_seed(0)
    options = {"bias": True} | options
    ours = Conv2dBatchNorm(*channels, window, **options, activation="silu", dtype=np.float64)
    normalization = torch.nn.BatchNorm2d(channels[1], dtype=torch.float64)
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(*channels, window, **options, dtype=torch.float64),
        normalization,
        torch.nn.SiLU(),
    )

    def draw():
        x = torch.randn(4, channels[0], 20, 19, dtype=torch.float64)
        return x.contiguous(memory_format=getattr(torch, memory))

    assert_trains_as_its_parts(ours, theirs, normalization, draw, torch)
