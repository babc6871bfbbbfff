"""What a section of the cfg becomes: a step that makes one array of those of earlier steps.

A step is made in two turns. The first reads the section: which shapes, and how many numbers a file
of weights has to hold. Only when all that is known to be in bounds does `build` take memory.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, TypeAlias

import numpy as np

from nbnorm.interop.darknet.cfg import Section
from nbnorm.interop.darknet.dialect import Dialect
from nbnorm.interop.darknet.files import MOST_NUMBERS
from nbnorm.layers import Layer
from nbnorm.typing import Array

Shape: TypeAlias = tuple[int, ...]  # of one sample: (c, h, w), or (count,) of what is no image

INPUT = -1  # the index of the network's input among the steps


class Plan:
    """What the steps before a section are like."""

    def __init__(self, net: Section, dialect: Dialect) -> None:
        self.dialect = dialect
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

    def earlier(self, section: Section, key: str) -> tuple[int, ...]:
        """Return the indices of the earlier steps that a section lists."""
        numbers = section.integers(key)
        if not numbers:
            raise section.error(f"{key} is missing; expected the numbers of earlier layers")
        return tuple(self.index(section, number) for number in numbers)


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
        What holds its numbers, where one layer does.
    """

    takes: Shape | None = None  # the shape in which it is given its source, where that matters
    is_recurrent = False  # such a step takes and gives (steps, n, ...)
    layer: Layer[Any] | None = None

    def __init__(self, section: Section, shape: Shape, sources: tuple[int, ...] = ()) -> None:
        self.section = section
        self.shape = shape
        self.sources = sources or (section.index - 1,)
        if min(shape) < 1:
            raise section.error(f"the output would be of shape {shape}; expected 1 or more each")
        if math.prod(shape) > MOST_NUMBERS:
            raise section.error(
                f"the output would be of shape {shape}; expected at most {MOST_NUMBERS} numbers"
            )

    @property
    def kind(self) -> str:
        """The section's name."""
        return self.section.kind

    @property
    def flops(self) -> int:
        """Floating-point operations for a sample: two a multiplication of what a file holds."""
        return 0

    def declared(self) -> dict[str, Shape]:
        """Return the shapes of the arrays that a file holds, in its order."""
        return {}

    def build(self, dialect: Dialect, rng: np.random.Generator) -> None:  # noqa: B027
        """Make the layers, which start random."""

    def stored(self) -> dict[str, Array]:
        """Return the arrays that were declared, live."""
        return {}

    def layers(self) -> dict[str, Layer[Any]]:
        """Return the layers, each by what its arrays' names begin with."""
        return {} if self.layer is None else {"": self.layer}

    def parameters(self) -> dict[str, Array]:
        """Return the learned arrays, live."""
        return {
            prefix + name: array
            for prefix, layer in self.layers().items()
            for name, array in layer.parameters().items()
        }

    def buffers(self) -> dict[str, Array]:
        """Return the running statistics, live."""
        return {
            prefix + name: array
            for prefix, layer in self.layers().items()
            for name, array in layer.buffers().items()
        }

    @abstractmethod
    def forward(self, *inputs: Array) -> Array:
        """Return the output for those of the sources."""

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


def input_shape(net: Section) -> Shape:
    """Return the shape of a sample by ``[net]``: an image, or a count of numbers."""
    sides = [net.integer(key, 0, least=0) for key in ("channels", "height", "width")]
    count = math.prod(sides)
    inputs = net.integer("inputs", min(count, MOST_NUMBERS), least=0)
    if not inputs:
        raise net.error("there is no input; expected channels, height and width, or inputs")
    if max(count, inputs) > MOST_NUMBERS:
        raise net.error(
            f"the input would have {max(count, inputs)} numbers; expected at most {MOST_NUMBERS}"
        )
    if count and inputs != count:
        raise net.error(f"inputs is {inputs}; expected channels height width, which is {count}")
    return tuple(sides) if count else (inputs,)
