"""Sections that work on numbers where they stand."""

from __future__ import annotations

import math

from nbnorm.functional.norms import l2_normalize_forward
from nbnorm.interop.darknet import images
from nbnorm.interop.darknet.activations import Activating, logistic
from nbnorm.interop.darknet.cfg import Section
from nbnorm.interop.darknet.steps import Plan, Step
from nbnorm.typing import Array


class Identity(Step):
    """Nothing: ``[dropout]`` drops nothing in inference, ``[cost]`` is for training."""

    def __init__(self, section: Section, plan: Plan) -> None:
        super().__init__(section, plan.before(section))

    def forward(self, *inputs: Array) -> Array:
        """Pass the input on."""
        return inputs[0]


class Activated(Step):
    """An activation by itself."""

    def __init__(self, section: Section, plan: Plan) -> None:
        super().__init__(section, plan.before(section))
        self.activation = Activating.of(section, "linear")

    def forward(self, *inputs: Array) -> Array:
        """Activate."""
        return self.activation(inputs[0])


class Logistic(Step):
    """1 / (1 + exp(-x))."""

    def __init__(self, section: Section, plan: Plan) -> None:
        super().__init__(section, plan.before(section))

    def forward(self, *inputs: Array) -> Array:
        """Activate."""
        return logistic(inputs[0])


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


class Normalization(Step):
    """Local response normalization: x over a power of the squares of the channels around it."""

    def __init__(self, section: Section, plan: Plan) -> None:
        self.takes = shape = plan.image_before(section)
        self.size = section.integer("size", 5, least=1)
        self.alpha = section.real("alpha", 0.0001)
        self.beta = section.real("beta", 0.75)
        self.kappa = section.real("kappa", 1)
        if self.size // 2 > shape[0]:  # darknet reads beyond the image
            raise section.error(f"size is {self.size}; expected at most {2 * shape[0] + 1}")
        super().__init__(section, shape)

    def forward(self, *inputs: Array) -> Array:
        """Normalize."""
        (x,) = inputs
        norms = images.local_norms(x, self.size, self.alpha, self.kappa)
        return (x * norms**-self.beta).astype(x.dtype)  # NaN of a negative one
