"""The networks, written out plainly: as published, but for what their comment says."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# --- residual networks: He et al. 2015, https://arxiv.org/abs/1512.03385 ---------------------


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += identity
        return self.relu(out)


def shortcut(channels: int, width: int, stride: int) -> nn.Module | None:
    if stride == 1 and channels == width:
        return None
    conv = nn.Conv2d(channels, width, 1, stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width))


class ResNet(nn.Module):
    """With the stem of CIFAR, a 3x3 convolution, or that of ImageNet."""

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        depths: tuple[int, ...],
        widths: tuple[int, ...] = (64, 128, 256, 512),
        cifar: bool = False,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        channels = widths[0]
        if cifar:
            stem = [nn.Conv2d(3, channels, 3, 1, 1, bias=False)]
        else:
            stem = [nn.Conv2d(3, channels, 7, 2, 3, bias=False)]
        stem += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        self.stem = nn.Sequential(*stem, *([] if cifar else [nn.MaxPool2d(3, 2, 1)]))
        stages = []
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            for place in range(depth):
                stages.append(block(channels, width, 2 if stage and not place else 1))
                channels = width * block.expansion
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(self.stages(self.stem(x))), 1))


def resnet18() -> nn.Module:
    return ResNet(BasicBlock, (2, 2, 2, 2))


def resnet18_cifar() -> nn.Module:
    return ResNet(BasicBlock, (2, 2, 2, 2), cifar=True, classes=10)


def resnet_narrow() -> nn.Module:
    return ResNet(BasicBlock, (2, 2, 2, 2), (16, 32, 64, 128), cifar=True, classes=10)


def resnet50() -> nn.Module:
    return ResNet(Bottleneck, (3, 4, 6, 3))


# --- MobileNetV2: Sandler et al. 2018, https://arxiv.org/abs/1801.04381 ----------------------


def conv_bn_relu6(channels: int, width: int, window: int, stride: int = 1, groups: int = 1) -> list:
    conv = nn.Conv2d(channels, width, window, stride, window // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(width), nn.ReLU6(inplace=True)]


class InvertedResidual(nn.Module):
    def __init__(self, channels: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels * expansion
        self.adds = stride == 1 and channels == width
        self.layers = nn.Sequential(
            *(conv_bn_relu6(channels, hidden, 1) if expansion != 1 else []),
            *conv_bn_relu6(hidden, hidden, 3, stride, hidden),
            nn.Conv2d(hidden, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.adds else self.layers(x)


def mobilenet_v2() -> nn.Module:
    """Without the dropout before its last layer: every peer has to draw the same numbers."""
    layers, channels = conv_bn_relu6(3, 32, 3, 2), 32
    for expansion, width, depth, stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):  # fmt: skip
        for place in range(depth):
            step = 1 if place else stride
            layers.append(InvertedResidual(channels, width, step, expansion))
            channels = width
    layers += [*conv_bn_relu6(320, 1280, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(1280, 1000))


# --- VGG-11 with batch norm: Simonyan and Zisserman 2014, https://arxiv.org/abs/1409.1556 ----


def vgg11_bn() -> nn.Module:
    """For 32x32 images, where one linear layer is what follows the convolutions."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0):
        if width == 0:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(True)]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


# --- DenseNet-BC: Huang et al. 2016, https://arxiv.org/abs/1608.06993 ------------------------


class DenseLayer(nn.Module):
    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = (
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, 4 * growth, 1, bias=False),
        )
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.bn1(x)))
        return torch.cat([x, self.conv2(F.relu(self.bn2(out)))], 1)


def densenet_bc(growth: int = 12, depth: int = 40) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 2 * growth, 3, padding=1, bias=False)]
    channels = 2 * growth
    for block in range(3):
        for _ in range((depth - 4) // 6):
            layers.append(DenseLayer(channels, growth))
            channels += growth
        layers += [nn.BatchNorm2d(channels), nn.ReLU(True)]
        if block < 2:
            layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
            channels //= 2
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


# --- others ---------------------------------------------------------------------------------


def mlp(width: int = 1024, depth: int = 8) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(True)]
    return nn.Sequential(*layers, nn.Linear(width, 10))


class UNet(nn.Module):
    """Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597, padded and with batch norm."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128), classes: int = 2) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            double_conv(c, k) for c, k in zip((1, *widths), widths, strict=False)
        )
        pairs = list(zip(widths[::-1], widths[-2::-1], strict=False))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(c, k, 2, 2) for c, k in pairs)
        self.up = nn.ModuleList(double_conv(c, k) for c, k in pairs)
        self.last = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for place, convs in enumerate(self.down):
            x = convs(x if place == 0 else F.max_pool2d(kept[-1], 2))
            kept.append(x)
        for grow, convs, beside in zip(self.grow, self.up, kept[-2::-1], strict=True):
            x = convs(torch.cat([beside, grow(x)], 1))
        return self.last(x)


def unet() -> nn.Module:
    return UNet()


def double_conv(channels: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for c in (channels, width):
        conv = nn.Conv2d(c, width, 3, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(width), nn.ReLU(True)]
    return nn.Sequential(*layers)
