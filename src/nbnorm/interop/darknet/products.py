"""Dense layers and convolutions as a file of weights holds them."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from nbnorm.functional.conv2d_batch_norm import conv2d_batch_norm_inference
from nbnorm.functional.dense_batch_norm import dense_batch_norm_inference
from nbnorm.interop.darknet.activations import Activating
from nbnorm.interop.darknet.cfg import Section
from nbnorm.interop.darknet.dialect import Dialect
from nbnorm.interop.darknet.files import MOST_NUMBERS
from nbnorm.interop.darknet.steps import Shape
from nbnorm.layers import BatchNorm, Conv2d, Conv2dBatchNorm, Dense, DenseBatchNorm, Sequential
from nbnorm.typing import Array

# Batch norm's names in darknet, and in a layer.
NORMALIZATION = {
    "scales": "gamma",
    "rolling_mean": "running_mean",
    "rolling_variance": "running_var",
}


class Product(ABC):
    """A layer with batch norm or a bias, and an activation."""

    order: ClassVar[tuple[str, ...]]  # of the arrays in a file

    def __init__(self, shape: Shape, normalized: bool, activation: Activating) -> None:
        self.shape = shape  # of the weights
        self.normalized = normalized
        self.activation = activation
        self.layer: Any = None  # until it is built

    @abstractmethod
    def make(self, options: Mapping[str, Any]) -> Any:
        """Return the layer; with batch norm if it is normalized."""

    @abstractmethod
    def infer(self, x: Array, options: Mapping[str, Any]) -> Array:
        """Return activation(product + bias + residual) of a layer without batch norm."""

    def declared(self) -> dict[str, Shape]:
        """Return the shapes of the arrays in a file, in its order."""
        shapes = dict.fromkeys(("biases", *NORMALIZATION), self.shape[:1])
        shapes["weights"] = self.shape
        return {name: shapes[name] for name in self.order if self._has(name)}

    def build(self, dialect: Dialect, rng: np.random.Generator) -> None:
        """Make the layer, which starts random."""
        options: dict[str, Any] = {"rng": rng}
        if self.normalized:
            options |= {"activation": self.activation.in_layer, **dialect.options()}
        self.layer = self.make(options).eval()

    def stored(self) -> dict[str, Array]:
        """Return the arrays that were declared, live."""
        own = {"weights": "weight", "biases": "beta" if self.normalized else "bias"}
        own |= NORMALIZATION
        return {name: getattr(self.layer, own[name]) for name in self.order if self._has(name)}

    def forward(self, x: Array, residual: Array | None = None) -> Array:
        """Multiply, normalize, add the residual if there is one, activate."""
        if self.normalized:
            return self.activation.after(self.layer.forward(x, residual)[0])
        # Without batch norm it passes for one of these statistics: all of it in one pass.
        k = self.shape[0]
        options = {
            "mean": np.zeros(k),
            "var": np.ones(k),
            "beta": self.layer.bias,
            "eps": 0,
            "activation": self.activation.in_layer,
            "residual": residual,
        }
        return self.activation.after(self.infer(x, options))

    def fold(self) -> Product:
        """Return a copy whose layer has no batch norm."""
        twin = copy.copy(self)
        folded = self.layer.fold()
        # An Activation that follows stays with the product, which applies it in the same pass.
        twin.layer = folded[0] if isinstance(folded, Sequential) else folded
        twin.normalized = False
        return twin

    def fold_in(self, following: BatchNorm) -> Product | None:
        """Return a folded product that normalizes as well; None if it is none of its channels."""
        folded = Sequential(self.layer, following).fold()
        if len(folded) > 1:
            return None
        twin = copy.copy(self)
        (twin.layer,) = folded
        return twin

    def _has(self, name: str) -> bool:
        return self.normalized or name not in NORMALIZATION


class DenseProduct(Product):
    """A dense layer of weights (out, in)."""

    order = ("biases", "weights", "scales", "rolling_mean", "rolling_variance")
    layer: Dense | DenseBatchNorm

    def make(self, options: Mapping[str, Any]) -> Dense | DenseBatchNorm:
        """Return the layer."""
        k, c = self.shape
        return (DenseBatchNorm if self.normalized else Dense)(c, k, **options)

    def infer(self, x: Array, options: Mapping[str, Any]) -> Array:
        """Return activation(x weight^T + bias + residual)."""
        return dense_batch_norm_inference(x, self.layer.weight, **options)


class ConvolutionProduct(Product):
    """A convolution of weights (filters, channels / groups, size, size)."""

    order = ("biases", "scales", "rolling_mean", "rolling_variance", "weights")
    layer: Conv2d | Conv2dBatchNorm

    def __init__(
        self, shape: Shape, normalized: bool, activation: Activating, **options: Any
    ) -> None:
        super().__init__(shape, normalized, activation)
        self.options = options  # stride, padding, dilation, groups

    def make(self, options: Mapping[str, Any]) -> Conv2d | Conv2dBatchNorm:
        """Return the layer."""
        k, c, size, _ = self.shape
        kind = Conv2dBatchNorm if self.normalized else Conv2d
        return kind(c * self.options["groups"], k, size, **self.options, **options)

    def infer(self, x: Array, options: Mapping[str, Any]) -> Array:
        """Return activation(convolution + bias + residual)."""
        return conv2d_batch_norm_inference(x, self.layer.weight, **options, **self.options)


class Window:
    """The sides, steps and margins of a convolution's window."""

    def __init__(self, size: int, stride: tuple[int, int], padding: int, dilation: int) -> None:
        self.size, self.stride, self.padding, self.dilation = size, stride, padding, dilation

    @classmethod
    def of(
        cls, section: Section, image: tuple[int, int, int], stride: tuple[int, int], *, size: int
    ) -> Window:
        """Return what a section says; `size` is the side where it does not."""
        size = section.integer("size", size, least=1)
        dilation = section.integer("dilation", 1, least=1) if size > 1 else 1
        if dilation > (most := max(image[1:])):
            raise section.error(
                f"dilation is {dilation}; expected at most {most}, the larger side of the image"
            )
        padding = section.integer("padding", 0, least=0)
        if section.flag("pad"):
            padding = size // 2
        if dilation > 1 and 2 * padding != size - 1:
            # darknet counts the windows as if there were no dilation, which is right for this only.
            raise section.error(
                f"dilation is {dilation} and padding {padding}; expected pad=1 and an odd size"
            )
        c, h, w = image
        margins = 2 * padding * dilation
        if c * (h + margins) * (w + margins) > MOST_NUMBERS:
            raise section.error(
                f"padding is {padding}; expected an image of at most {MOST_NUMBERS} numbers with it"
            )
        return cls(size, stride, padding, dilation)

    def counts(self, image: tuple[int, int, int]) -> tuple[int, int]:
        """Return how many windows there are down and to the right."""
        high, wide = (
            (side + 2 * self.padding - self.size) // step + 1
            for side, step in zip(image[1:], self.stride, strict=True)
        )
        return high, wide

    def product(
        self, section: Section, channels: int, filters: int, activation: Activating
    ) -> ConvolutionProduct:
        """Return the convolution of such windows."""
        groups = section.integer("groups", 1, least=1)
        if channels % groups or filters % groups:
            raise section.error(
                f"groups is {groups}; expected a divisor of {channels} channels and {filters} "
                "filters"
            )
        return ConvolutionProduct(
            (filters, channels // groups, self.size, self.size),
            is_normalized(section),
            activation,
            stride=self.stride,
            padding=self.padding * self.dilation,
            dilation=self.dilation,
            groups=groups,
        )


def is_normalized(section: Section) -> bool:
    """Whether there is a batch norm; the fork's cross-iteration one infers as any other."""
    return section.flag("batch_normalize") or section.flag("cbn")
