"""Sections that change the size of images."""

from __future__ import annotations

import math

import numpy as np

from nbnorm.interop.darknet import images
from nbnorm.interop.darknet.cfg import Section
from nbnorm.interop.darknet.dialect import ORIGINAL
from nbnorm.interop.darknet.steps import Plan, Shape, Step
from nbnorm.typing import Array


class Pool(Step):
    """What takes windows of each channel."""

    def __init__(self, section: Section, plan: Plan) -> None:
        self.takes = c, h, w = plan.image_before(section)
        self.stride = strides(section)
        self.size = section.integer("size", section.integer("stride", 1), least=1)
        self.padding = section.integer("padding", self.size - 1, least=0)
        sizes = [
            images.pooled_size(side, self.size, stride, self.padding)
            for side, stride in zip((h, w), self.stride, strict=True)
        ]
        super().__init__(section, (c, *sizes))


class Maxpool(Pool):
    """The largest value of each window, channel by channel."""

    def __init__(self, section: Section, plan: Plan) -> None:
        section.refuse("antialiasing", "maxpool_depth", "maxpool_zero_nonmax")
        super().__init__(section, plan)

    def forward(self, *inputs: Array) -> Array:
        """Pool."""
        return images.max_pool(inputs[0], self.size, self.stride, self.padding)


class LocalAvgpool(Pool):
    """The mean of those pixels of each window that are in the image."""

    def forward(self, *inputs: Array) -> Array:
        """Pool."""
        return images.mean_pool(inputs[0], self.size, self.stride, self.padding)


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


class Reorg(Step):
    """Blocks of pixels to channels, or back, in the order that darknet first had.

    That order was meant otherwise (``[reorg3d]`` of the fork has what was meant) and is kept, as
    networks were trained with it.
    """

    def __init__(self, section: Section, plan: Plan) -> None:
        self.takes = shape = plan.image_before(section)
        self.stride = section.integer("stride", 1, least=1)
        self.reverse = section.flag("reverse")
        self.flattens, self.extra = False, 0
        if plan.dialect is ORIGINAL:
            self.flattens = section.flag("flatten")
            self.extra = section.integer("extra", 0, least=0)
        if self.extra:  # of the other options nothing is left then
            super().__init__(section, (math.prod(shape) + self.extra,))
            return
        if self.flattens and self.stride != 1:
            raise section.error(f"flatten is 1 and stride {self.stride}; expected a stride of 1")
        super().__init__(section, reorganized(section, shape, self.stride, self.reverse))
        if not self.flattens and shape[0] % self.stride**2:  # darknet reads beyond the image
            raise section.error(
                f"stride is {self.stride}; expected a divisor of {shape[0]} channels, squared"
            )

    def forward(self, *inputs: Array) -> Array:
        """Reorganize."""
        (x,) = inputs
        if self.flattens:
            return images.flattened(x, self.reverse)
        if self.extra:
            return np.pad(x.reshape(len(x), -1), ((0, 0), (0, self.extra)))
        gather = images.interleave if self.reverse else images.deinterleave
        return gather(x, self.stride).reshape(len(x), *self.shape)


class Reorg3d(Step):
    """Blocks of pixels to channels, or back: the fork's second order."""

    def __init__(self, section: Section, plan: Plan) -> None:
        section.refuse("reverse")
        self.takes = shape = plan.image_before(section)
        self.stride = section.integer("stride", 1, least=1)
        super().__init__(section, reorganized(section, shape, self.stride, reverse=False))

    def forward(self, *inputs: Array) -> Array:
        """Reorganize."""
        return images.blocks_to_channels(inputs[0], self.stride)


class Crop(Step):
    """The middle of an image, its numbers from -1 to 1 instead of 0 to 1."""

    def __init__(self, section: Section, plan: Plan) -> None:
        self.takes = c, h, w = plan.image_before(section)
        high = section.integer("crop_height", 1, least=1)
        wide = section.integer("crop_width", 1, least=1)
        if high > h or wide > w:
            raise section.error(f"the crop is {high} x {wide}; expected at most {h} x {w}")
        self.top, self.left = (h - high) // 2, (w - wide) // 2
        self.scale, self.shift = (1, 0) if section.flag("noadjust") else (2, -1)
        super().__init__(section, (c, high, wide))

    def forward(self, *inputs: Array) -> Array:
        """Cut out."""
        _, high, wide = self.shape
        rows, columns = slice(self.top, self.top + high), slice(self.left, self.left + wide)
        return inputs[0][:, :, rows, columns] * self.scale + self.shift


def reorganized(section: Section, shape: Shape, stride: int, reverse: bool) -> Shape:
    """Return the shape when blocks of pixels become channels, or in reverse."""
    c, h, w = shape
    block = stride**2
    if reverse:
        if c % block:
            raise section.error(f"stride is {stride}; expected a divisor of {c} channels, squared")
        return c // block, h * stride, w * stride
    if h % stride or w % stride:
        raise section.error(f"stride is {stride}; expected a divisor of {h} and {w}")
    return c * block, h // stride, w // stride


def strides(section: Section) -> tuple[int, int]:
    """Return the strides down and to the right."""
    stride = section.integer("stride", 1)
    down, right = section.integer("stride_y", stride), section.integer("stride_x", stride)
    if min(down, right) < 1:
        raise section.error(f"strides are {down} and {right}; expected 1 or more")
    return down, right
