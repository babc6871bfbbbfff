"""Small models that have everything that real ones have."""

from __future__ import annotations

import torch
from torch import nn


class Block(nn.Module):
    """ResNet's, one activation used twice and a sum in place."""

    def __init__(self, c, k, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(c, k, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(k)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(k, k, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(k)
        self.downsample = None
        if stride != 1 or c != k:
            conv = nn.Conv2d(c, k, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(k))

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class Net(nn.Module):
    """Two blocks, a pool, and a linear layer with batch norm and GELU."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Block(3, 4), Block(4, 4))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4, 6)
        self.bn = nn.BatchNorm1d(6)
        self.act = nn.GELU()

    def forward(self, x):
        return self.act(self.bn(self.fc(torch.flatten(self.pool(self.blocks(x)), 1))))


def net(seed=0, dtype=torch.float64):
    """A `Net` whose norms are not as they begin."""
    torch.manual_seed(seed)
    model = Net().to(dtype)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def images(seed=1, dtype=torch.float64, shape=(3, 3, 5, 5)):
    torch.manual_seed(seed)
    return torch.randn(shape, dtype=dtype)


def results(model, x):
    """The output, the gradients of a loss, and the state behind it."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = model(x)
    inputs = [x, *(p for p in model.parameters() if p.requires_grad)]
    found = torch.autograd.grad((y * y.detach().cos()).sum(), inputs)
    return [y.detach(), *found, *(buffer.clone() for buffer in model.buffers())]


def assert_same(ours, theirs, tolerance=1e-10):
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
