"""Sections that hold no numbers."""

from __future__ import annotations

import math

import numpy as np

from nbnorm.functional.norms import l2_normalize_forward
from nbnorm.interop.darknet import images
from nbnorm.interop.darknet.cfg import Section
from nbnorm.interop.darknet.steps import Activating, Plan, Step
from nbnorm.typing import Array


class Shortcut(Step):
    """The output before, plus that of one or more earlier layers, and an activation.

    Where shapes differ, the output has that of the one before, and the others are added as far as
    they go: see `images.add_sampled` and, in the newer dialect, `images.add_prefix`.
    """

    def __init__(self, section: Section, plan: Plan) -> None:
        section.refuse("weights_type")
        numbers = section.integers("from")
        if not numbers:
            raise section.error("from is missing; expected the numbers of earlier layers")
        shape = plan.before(section)
        others = tuple(plan.index(section, number) for number in numbers)
        super().__init__(section, shape, (section.index - 1, *others))
        self.activation = Activating(section, "linear")
        # Known to the older dialect only.
        self.alpha, self.beta = section.real("alpha", 1), section.real("beta", 1)
        self.samples = plan.dialect.shortcut_samples and len(shape) == 3
        for other in others:
            if self.samples:
                _check_sampling(section, shape, plan.shape(other))
        alike = all(plan.shape(other) == shape for other in others)
        self.is_plain = alike and len(others) == 1 and self.alpha == self.beta == 1

    def forward(self, *inputs: Array) -> Array:
        """Add, and activate."""
        x, *others = inputs
        if self.is_plain:
            return self.activation.of_sum(x, others[0])
        y = x.copy()
        for other in others:
            if self.samples:
                images.add_sampled(y, other, self.alpha, self.beta)
            else:
                images.add_prefix(y, other)
        return self.activation(y)


def _check_sampling(section: Section, shape: tuple[int, ...], other: tuple[int, ...]) -> None:
    fits = len(other) == 3
    if fits:
        (_, h, w), (_, high, wide) = shape, other
        fits = high // h == wide // w and h // high == w // wide
    if not fits:
        raise section.error(
            f"shapes are {shape} before and {other} from; expected images larger or smaller by the "
            "same factor both ways"
        )


class Route(Step):
    """Outputs of earlier layers one after the other along the channels, or a share of each."""

    def __init__(self, section: Section, plan: Plan) -> None:
        numbers = section.integers("layers")
        if not numbers:
            raise section.error("layers is missing; expected the numbers of earlier layers")
        sources = tuple(plan.index(section, number) for number in numbers)
        self.groups = section.integer("groups", 1, least=1)
        self.group = section.integer("group_id", 0, least=0)
        if self.group >= self.groups:
            raise section.error(f"group_id is {self.group}; expected less than {self.groups}")
        shapes = [plan.shape(source) for source in sources]
        for shape in shapes:
            if shape[1:] != shapes[0][1:]:
                raise section.error(f"shapes are {shapes}; expected images of one size")
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


class Maxpool(Step):
    """The largest value of each window, channel by channel."""

    def __init__(self, section: Section, plan: Plan) -> None:
        section.refuse("antialiasing", "maxpool_depth", "maxpool_zero_nonmax")
        self.takes = c, h, w = plan.image_before(section)
        self.stride = strides(section)
        self.size = section.integer("size", section.integer("stride", 1), least=1)
        self.padding = section.integer("padding", self.size - 1, least=0)
        sizes = [
            images.pooled_size(side, self.size, stride, self.padding)
            for side, stride in zip((h, w), self.stride, strict=True)
        ]
        super().__init__(section, (c, *sizes))

    def forward(self, *inputs: Array) -> Array:
        """Pool."""
        return images.max_pool(inputs[0], self.size, self.stride, self.padding)


class Avgpool(Step):
    """The mean of each channel."""

    def __init__(self, section: Section, plan: Plan) -> None:
        self.takes = plan.image_before(section)
        super().__init__(section, (self.takes[0], 1, 1))

    def forward(self, *inputs: Array) -> Array:
        """Average."""
        return images.average_pool(inputs[0])


class Upsample(Step):
    """Pixels repeated; with a negative stride, summed up in blocks."""

    def __init__(self, section: Section, plan: Plan) -> None:
        self.takes = c, h, w = plan.image_before(section)
        self.stride = section.integer("stride", 2)
        self.scale = section.real("scale", 1)
        if self.stride == 0 or (self.stride < 0 and (h % self.stride or w % self.stride)):
            raise section.error(
                f"stride is {self.stride}; expected not 0, and a divisor of {h} and {w} if negative"
            )
        if self.stride > 0:
            h, w = h * self.stride, w * self.stride
        else:
            h, w = h // -self.stride, w // -self.stride
        super().__init__(section, (c, h, w))

    def forward(self, *inputs: Array) -> Array:
        """Resize."""
        if self.stride < 0:
            return images.downsample(inputs[0], -self.stride, self.scale)
        return images.upsample(inputs[0], self.stride, self.scale)


class Dropout(Step):
    """Nothing: for inference darknet drops nothing, and has scaled in training."""

    def __init__(self, section: Section, plan: Plan) -> None:
        super().__init__(section, plan.before(section))

    def forward(self, *inputs: Array) -> Array:
        """Pass the input on."""
        return inputs[0]


class Softmax(Step):
    """exp(x / temperature) over its sum, in groups of a whole sample's numbers."""

    def __init__(self, section: Section, plan: Plan) -> None:
        section.refuse("spatial")
        section.refuse_any("tree")
        inputs = math.prod(plan.before(section))
        self.takes = (inputs,)
        self.groups = section.integer("groups", 1, least=1)
        self.temperature = section.real("temperature", 1)
        if inputs % self.groups:
            raise section.error(f"groups is {self.groups}; expected a divisor of {inputs}")
        if self.temperature <= 0:
            raise section.error(f"temperature is {self.temperature}; expected more than 0")
        super().__init__(section, (inputs,))

    def forward(self, *inputs: Array) -> Array:
        """Normalize."""
        return images.softmax(inputs[0], self.groups, self.temperature)


class L2norm(Step):
    """Each pixel's channels over the root of the sum of their squares."""

    def __init__(self, section: Section, plan: Plan) -> None:
        super().__init__(section, plan.before(section))

    def forward(self, *inputs: Array) -> Array:
        """Normalize."""
        return l2_normalize_forward(inputs[0], eps=0.0)[0]


class Yolo(Step):
    """Predictions of boxes and classes: logistic, but for the sizes of boxes."""

    def __init__(self, section: Section, plan: Plan) -> None:
        self.takes = c, h, w = plan.image_before(section)
        self.classes = section.integer("classes", 20, least=1)
        total = section.integer("num", 1, least=1)
        self.mask = section.integers("mask") or list(range(total))
        if not all(0 <= anchor < total for anchor in self.mask):
            raise section.error(f"mask is {self.mask}; expected numbers below num = {total}")
        expected = len(self.mask) * (5 + self.classes)
        if c != expected:
            raise section.error(
                f"what comes before has {c} channels; expected {len(self.mask)} (5 + "
                f"{self.classes}) = {expected}, by mask and classes"
            )
        self.scale_x_y = section.real("scale_x_y", 1)
        self.logistics = not section.flag("new_coords")  # or they are the layer's before
        super().__init__(section, (c, h, w))

    def forward(self, *inputs: Array) -> Array:
        """Apply the logistic function where it belongs."""
        return images.yolo(inputs[0], len(self.mask), self.scale_x_y, self.logistics)


def strides(section: Section) -> tuple[int, int]:
    """Return the strides down and to the right."""
    stride = section.integer("stride", 1)
    down, right = section.integer("stride_y", stride), section.integer("stride_x", stride)
    if min(down, right) < 1:
        raise section.error(f"strides are {down} and {right}; expected 1 or more")
    return down, right
