"""Sections that combine the outputs of several layers."""

from __future__ import annotations

import numpy as np

from nbnorm.checks import describe
from nbnorm.interop.darknet import images
from nbnorm.interop.darknet.activations import Activating
from nbnorm.interop.darknet.cfg import Section
from nbnorm.interop.darknet.steps import Plan, Shape, Step
from nbnorm.typing import Array


class Shortcut(Step):
    """The output before, plus that of one or more earlier layers, and an activation.

    Where shapes differ, the output has that of the one before, and the others are added as far as
    they go: in the older dialect to every nth pixel (`images.add_sampled`), in the newer one to the
    channels that both have (`images.add_prefix`). Numbers are an image of one pixel.
    """

    def __init__(self, section: Section, plan: Plan) -> None:
        section.refuse("weights_type")
        others = plan.earlier(section, "from")
        shape = plan.before(section)
        super().__init__(section, shape, (section.index - 1, *others))
        self.activation = Activating.of(section, "linear")
        # Known to the older dialect only.
        self.alpha, self.beta = section.real("alpha", 1), section.real("beta", 1)
        self.samples = plan.dialect.shortcut_samples
        for other in others:
            self._check(shape, plan.shape(other))
        alike = all(plan.shape(other) == shape for other in others)
        self.is_plain = alike and len(others) == 1 and self.alpha == self.beta == 1

    def _check(self, shape: Shape, other: Shape) -> None:
        (h, w), (high, wide) = shape[1:] or (1, 1), other[1:] or (1, 1)
        if self.samples:
            fits = high // h == wide // w and h // high == w // wide
            expected = "images larger or smaller by the same factor both ways"
        else:  # the fork stops
            fits = (high, wide) == (h, w)
            expected = "images of one size"
        if not fits:
            raise self.section.error(
                f"shapes are {shape} before and {other} from; expected {expected}"
            )

    def forward(self, *inputs: Array) -> Array:
        """Add, and activate."""
        x, *others = inputs
        if self.is_plain:
            return self.activation.of_sum(x, others[0])
        y = _as_images(x).copy()
        for other in map(_as_images, others):
            if self.samples:
                images.add_sampled(y, other, self.alpha, self.beta)
            else:
                images.add_prefix(y, other)
        return self.activation(y.reshape(x.shape))


def _as_images(x: Array) -> Array:
    return x if x.ndim == 4 else x[:, :, np.newaxis, np.newaxis]


class Route(Step):
    """Outputs of earlier layers one after the other along the channels, or a share of each."""

    def __init__(self, section: Section, plan: Plan) -> None:
        sources = plan.earlier(section, "layers")
        self.groups = section.integer("groups", 1, least=1)
        self.group = section.integer("group_id", 0, least=0)
        if self.group >= self.groups:
            raise section.error(f"group_id is {self.group}; expected less than {self.groups}")
        shapes = [plan.shape(source) for source in sources]
        for shape in shapes:
            if shape[1:] != shapes[0][1:]:
                raise section.error(f"shapes are {describe(shapes)}; expected images of one size")
            if shape[0] % self.groups:
                raise section.error(f"groups is {self.groups}; expected a divisor of {shape[0]}")
        channels = sum(shape[0] // self.groups for shape in shapes)
        super().__init__(section, (channels, *shapes[0][1:]), sources)

    def forward(self, *inputs: Array) -> Array:
        """Concatenate; one whole input is passed on."""
        shares = []
        for x in inputs:
            c = x.shape[1] // self.groups
            shares.append(x[:, self.group * c : (self.group + 1) * c])
        return shares[0] if len(shares) == 1 else np.concatenate(shares, axis=1)


class Scaled(Step):
    """The output of an earlier layer times that of the one before, and an activation."""

    def __init__(self, section: Section, plan: Plan) -> None:
        other, *more = plan.earlier(section, "from")
        if more:
            raise section.error(f"from has {1 + len(more)} layers; expected one")
        shape = plan.shape(other)
        if len(shape) == 1:
            raise section.error(f"what it is from is {shape[0]} numbers; expected an image")
        expected = self.factors(section, shape)
        self.takes = plan.image_before(section)
        if self.takes != expected:
            raise section.error(
                f"shapes are {self.takes} before and {shape} from; expected {expected} before"
            )
        super().__init__(section, shape, (section.index - 1, other))
        self.activation = Activating.of(section, "linear")
        if self.activation.name in ("swish", "mish", "hard_mish"):  # to the fork they give 0
            raise section.error(f"activation is {self.activation.name!r}; expected another")

    def factors(self, section: Section, shape: Shape) -> Shape:
        """Return what shape the output before must have."""
        raise NotImplementedError

    def forward(self, *inputs: Array) -> Array:
        """Multiply, and activate."""
        factors, x = inputs
        return self.activation(x * factors)


class ScaleChannels(Scaled):
    """A factor for each channel; with scale_wh for each pixel."""

    def factors(self, section: Section, shape: Shape) -> Shape:
        """Return one pixel, or one channel."""
        return (1, *shape[1:]) if section.flag("scale_wh") else (*shape[:1], 1, 1)


class Sam(Scaled):
    """A factor for each number: spatial attention."""

    def factors(self, section: Section, shape: Shape) -> Shape:  # noqa: ARG002
        """Return the same shape."""
        return shape
