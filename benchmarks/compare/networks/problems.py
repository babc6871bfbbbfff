"""What each network is measured on. PyTorch is not imported here."""

from __future__ import annotations

from typing import NamedTuple


class Problem(NamedTuple):
    """A network: the function of models.py that makes it, and its input."""

    title: str
    maker: str
    shape: tuple[int, ...]
    classes: int
    by_pixel: bool = False  # whether every pixel is classified, or the image


PROBLEMS = {
    "resnet18_cifar": Problem("ResNet-18, CIFAR stem", "resnet18_cifar", (32, 3, 32, 32), 10),
    "resnet18": Problem("ResNet-18", "resnet18", (8, 3, 224, 224), 1000),
    "resnet_narrow": Problem("ResNet, widths 16 to 128", "resnet_narrow", (128, 3, 32, 32), 10),
    "resnet50": Problem("ResNet-50", "resnet50", (8, 3, 224, 224), 1000),
    "mobilenet_v2": Problem("MobileNetV2", "mobilenet_v2", (8, 3, 224, 224), 1000),
    "vgg11_bn": Problem("VGG-11 with batch norm", "vgg11_bn", (32, 3, 32, 32), 10),
    "densenet_bc": Problem("DenseNet-BC (12, 40)", "densenet_bc", (64, 3, 32, 32), 10),
    "mlp": Problem("MLP, 8 x 1024", "mlp", (256, 1024), 10),
    "unet": Problem("U-Net, 16 to 128 channels", "unet", (4, 1, 128, 128), 2, by_pixel=True),
}
