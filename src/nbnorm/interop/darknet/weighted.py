"""Sections that hold numbers."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np

from nbnorm.interop.darknet import images
from nbnorm.interop.darknet.activations import Activating
from nbnorm.interop.darknet.cfg import Section
from nbnorm.interop.darknet.combining import Shortcut
from nbnorm.interop.darknet.dialect import Dialect
from nbnorm.interop.darknet.pooling import strides
from nbnorm.interop.darknet.products import (
    NORMALIZATION,
    DenseProduct,
    Product,
    Window,
    is_normalized,
)
from nbnorm.interop.darknet.steps import Plan, Shape, Step
from nbnorm.layers import BatchNorm, Layer
from nbnorm.typing import Array


class Batchnorm(Step):
    """Batch norm of the channels, or of the numbers that a connected layer gives."""

    layer: BatchNorm
    has_biases = True  # the original stores none

    def __init__(self, section: Section, plan: Plan) -> None:
        section.refuse("dontload", "dontloadscales", "dontsave")
        super().__init__(section, plan.before(section))

    def declared(self) -> dict[str, Shape]:
        """Return the shapes of biases, if it has any, scales, mean and variance."""
        names = (*(("biases",) if self.has_biases else ()), *NORMALIZATION)
        return dict.fromkeys(names, self.shape[:1])

    def build(self, dialect: Dialect, rng: np.random.Generator) -> None:  # noqa: ARG002
        """Make the layer."""
        self.layer = BatchNorm(self.shape[0], **dialect.options()).eval()
        if not self.has_biases:
            self.layer.beta = None

    def stored(self) -> dict[str, Array]:
        """Return the arrays of the layer."""
        own = {"biases": "beta"} | NORMALIZATION
        return {name: getattr(self.layer, own[name]) for name in self.declared()}

    def forward(self, *inputs: Array) -> Array:
        """Normalize."""
        return self.layer.forward(inputs[0])[0]

    def fold(self) -> Step:
        """Return a copy."""
        twin = copy.copy(self)
        twin.layer = self.layer.fold()  # type: ignore[assignment]  # of the same class
        return twin


class Weighted(Step):
    """What ``[convolutional]`` and ``[connected]`` have in common."""

    def __init__(self, section: Section, shape: Shape, product: Product) -> None:
        super().__init__(section, shape)
        self.product = product

    @property
    def layer(self) -> Layer[Any] | None:  # type: ignore[override]  # read only
        """What holds the numbers."""
        return self.product.layer

    @property
    def flops(self) -> int:
        """Two for each weight, as often as it is used."""
        return 2 * math.prod(self.product.shape) * math.prod(self.shape[1:])

    def declared(self) -> dict[str, Shape]:
        """Return the shapes of the arrays that a file holds."""
        return self.product.declared()

    def build(self, dialect: Dialect, rng: np.random.Generator) -> None:
        """Make the layer."""
        self.product.build(dialect, rng)

    def stored(self) -> dict[str, Array]:
        """Return the arrays of the layer."""
        return self.product.stored()

    def forward(self, *inputs: Array) -> Array:
        """Multiply, normalize, add the second input if there is one, activate."""
        return self.product.forward(*inputs)

    def fold(self) -> Step:
        """Return a step whose layer has no batch norm."""
        twin = copy.copy(self)
        twin.product = self.product.fold()
        return twin

    def merged(self, following: Step) -> Step | None:
        """Take over a batch norm, or a shortcut as residual, if no activation is between."""
        if self.product.activation.name != "linear" or len(self.sources) > 1:
            return None
        twin = copy.copy(self)
        twin.section = following.section
        if isinstance(following, Batchnorm):
            product = self.product.fold_in(following.layer)
            if product is None:
                return None
            twin.product = product
            return twin
        if isinstance(following, Shortcut) and following.is_plain:
            twin.product = copy.copy(self.product)
            twin.product.activation = following.activation
            twin.sources = (*self.sources, *following.sources[1:])
            return twin
        return None


class Convolutional(Weighted):
    """A convolution, with batch norm or a bias, and an activation."""

    def __init__(self, section: Section, plan: Plan) -> None:
        section.refuse(
            "antialiasing", "binary", "bin_output", "coordconv", "dontload", "dontloadscales",
            "dontsave", "dot", "flipped", "numload", "reverse", "rotate", "stretch",
            "stretch_sway", "sway", "xnor",
        )  # fmt: skip
        section.refuse_any("share_index")
        self.takes = plan.image_before(section)
        filters = section.integer("filters", 1, least=1)
        activation = Activating.of(section, "logistic")
        window = Window.of(section, self.takes, strides(section), size=1)
        product = window.product(section, self.takes[0], filters, activation)
        super().__init__(section, (filters, *window.counts(self.takes)), product)


class Connected(Weighted):
    """A dense layer, with batch norm or a bias, and an activation."""

    def __init__(self, section: Section, plan: Plan) -> None:
        section.refuse("dontload", "dontloadscales", "dontsave", "numload")
        inputs = math.prod(plan.before(section))
        self.takes = (inputs,)
        outputs = section.integer("output", 1, least=1)
        activation = Activating.of(section, "logistic")
        product = DenseProduct((outputs, inputs), is_normalized(section), activation)
        super().__init__(section, (outputs,), product)


class Local(Step):
    """A convolution with weights of its own at each place, a bias for each output number."""

    def __init__(self, section: Section, plan: Plan) -> None:
        section.refuse("dontload", "dontsave")
        self.takes = c, h, w = plan.image_before(section)
        filters = section.integer("filters", 1, least=1)
        self.size = section.integer("size", 1, least=1)
        self.stride = section.integer("stride", 1, least=1)
        self.padding = section.integer("pad", 0)  # in rows and columns, not a flag
        self.activation = Activating.of(section, "logistic")
        if (self.padding, self.size) != (1, 3) and self.padding != 0:
            # darknet counts the windows of any padding as if size were 3 and pad 1.
            raise section.error(
                f"pad is {self.padding} and size {self.size}; expected pad=0, or pad=1 and size=3"
            )
        sides = [(side + 2 * self.padding - self.size) // self.stride + 1 for side in (h, w)]
        super().__init__(section, (filters, *sides))
        self.weights_shape = (math.prod(sides), filters, c * self.size**2)

    @property
    def flops(self) -> int:
        """Two for each weight."""
        return 2 * math.prod(self.weights_shape)

    def declared(self) -> dict[str, Shape]:
        """Return the shapes of the arrays that a file holds."""
        return {"biases": (math.prod(self.shape),), "weights": self.weights_shape}

    def build(self, dialect: Dialect, rng: np.random.Generator) -> None:  # noqa: ARG002
        """Draw the weights."""
        bound = np.float32(math.sqrt(2 / self.weights_shape[-1]))
        self.weights = rng.random(self.weights_shape, np.float32)
        self.weights *= 2 * bound
        self.weights -= bound
        self.biases = np.zeros(math.prod(self.shape), np.float32)

    def stored(self) -> dict[str, Array]:
        """Return the arrays."""
        return {"biases": self.biases, "weights": self.weights}

    def parameters(self) -> dict[str, Array]:
        """Return the arrays as layers name them."""
        return {"weight": self.weights, "bias": self.biases}

    def fold(self) -> Step:
        """Return a copy."""
        twin = copy.copy(self)
        twin.weights, twin.biases = self.weights.copy(), self.biases.copy()
        return twin

    def forward(self, *inputs: Array) -> Array:
        """Multiply each window by its own weights."""
        y = images.local_product(inputs[0], self.weights, self.size, self.stride, self.padding)
        y += self.biases.reshape(self.shape[0], -1)
        return self.activation(y.reshape(len(y), *self.shape))
