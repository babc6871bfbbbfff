"""What a section of the cfg becomes: a step that makes one array of those of earlier steps."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from nbnorm.interop.darknet import images
from nbnorm.interop.darknet.cfg import Section
from nbnorm.interop.darknet.dialect import Dialect
from nbnorm.layers import Activation, Layer
from nbnorm.typing import Array

Shape: TypeAlias = tuple[int, ...]  # of one sample: (c, h, w), or (count,) of what is no image

INPUT = -1  # the index of the network's input among the steps

# darknet's names, and what the layers of this library call them; logistic they have not.
ACTIVATIONS: Mapping[str, str | tuple[str, float] | None] = {
    "linear": None,
    "leaky": ("leaky_relu", 0.1),
    "relu": "relu",
    "logistic": None,
    "mish": "mish",
    "swish": "silu",
}


class Plan:
    """What the steps before a section are like."""

    def __init__(self, net: Section, dialect: Dialect, rng: np.random.Generator) -> None:
        self.dialect = dialect
        self.rng = rng
        self.input_shape = input_shape(net)
        self.steps: list[Step] = []

    def shape(self, index: int) -> Shape:
        """Return the shape of what a step gives."""
        return self.input_shape if index == INPUT else self.steps[index].shape

    def before(self, section: Section) -> Shape:
        """Return the shape of what the step before a section gives."""
        return self.shape(section.index - 1)

    def image_before(self, section: Section) -> tuple[int, int, int]:
        """Return c, h and w of it; one pixel after a connected layer, as darknet has it."""
        shape = self.before(section)
        if len(shape) == 1 and section.index > 0 and self.steps[-1].kind == "connected":
            return shape[0], 1, 1
        if len(shape) == 1:
            raise section.error(f"what comes before is {shape[0]} numbers; expected an image")
        c, h, w = shape
        return c, h, w

    def index(self, section: Section, number: int) -> int:
        """Return the index of an earlier step; negative numbers count back from a section."""
        index = section.index + number if number < 0 else number
        if not 0 <= index < section.index:
            raise section.error(f"there is no layer {index} before this one; expected an earlier")
        return index


class Step(ABC):
    """A section's computation; forward only.

    Attributes
    ----------
    section : Section
        Where it comes from.
    sources : tuple of int
        The steps whose outputs it takes; -1 is the network's input.
    shape : tuple of int
        Of its output, without the batch.
    layer : Layer or None
        What holds its numbers.
    """

    takes: Shape | None = None  # the shape in which it is given its source, where that matters
    layer: Layer[Any] | None = None

    def __init__(self, section: Section, shape: Shape, sources: tuple[int, ...] = ()) -> None:
        self.section = section
        self.shape = shape
        self.sources = sources or (section.index - 1,)
        if min(shape) < 1:
            raise section.error(f"the output would be of shape {shape}; expected 1 or more each")

    @property
    def kind(self) -> str:
        """The section's name."""
        return self.section.kind

    @abstractmethod
    def forward(self, *inputs: Array) -> Array:
        """Return the output for those of the sources."""

    def stored(self) -> dict[str, Array]:
        """Return the layer's arrays, live, by darknet's names in the order of a file."""
        return {}

    def fold(self) -> Step:
        """Return the step for inference."""
        return self

    def merged(self, following: Step) -> Step | None:  # noqa: ARG002
        """Return one folded step for this and the one that follows; None if there is none."""
        return None


class Merged(Step):
    """What went into the step after it when that was folded: it is not run any more."""

    def __init__(self, step: Step) -> None:
        super().__init__(step.section, step.shape, step.sources)

    def forward(self, *inputs: Array) -> Array:
        """Is not called."""
        raise NotImplementedError


class Activating:
    """An activation by darknet's name: a layer's, and what is left to do after it."""

    def __init__(self, section: Section, default: str) -> None:
        name = section.text("activation", default)
        if name not in ACTIVATIONS:
            raise section.error(f"activation is {name!r}; expected one of {list(ACTIVATIONS)}")
        self.name = name
        self.in_layer = ACTIVATIONS[name]
        self._layer = None if self.in_layer is None else Activation(self.in_layer).eval()

    def after(self, y: Array) -> Array:
        """Apply what no layer has, in place."""
        return images.logistic(y, out=y) if self.name == "logistic" else y

    def of_sum(self, x: Array, other: Array) -> Array:
        """Return activation(x + other)."""
        if self._layer is not None:
            return self._layer.forward(x, residual=other)[0]
        return self.after(x + other)

    def __call__(self, y: Array) -> Array:
        """Return activation(y); y may be written over."""
        return self.after(y if self._layer is None else self._layer.forward(y)[0])


def input_shape(net: Section) -> Shape:
    """Return the shape of a sample by ``[net]``: an image, or a count of numbers."""
    sides = [net.integer(key, 0, least=0) for key in ("channels", "height", "width")]
    count = math.prod(sides)
    inputs = net.integer("inputs", count, least=0)
    if not inputs:
        raise net.error("there is no input; expected channels, height and width, or inputs")
    if count and inputs != count:
        raise net.error(f"inputs is {inputs}; expected channels height width, which is {count}")
    return tuple(sides) if count else (inputs,)
