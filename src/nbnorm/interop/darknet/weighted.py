"""Sections that hold numbers: ``[convolutional]``, ``[connected]`` and ``[batchnorm]``."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np

from nbnorm.functional.conv2d_batch_norm import conv2d_batch_norm_inference
from nbnorm.functional.dense_batch_norm import dense_batch_norm_inference
from nbnorm.interop.darknet.cfg import Section
from nbnorm.interop.darknet.plain import Shortcut, strides
from nbnorm.interop.darknet.steps import Activating, Plan, Shape, Step
from nbnorm.layers import BatchNorm, Conv2d, Conv2dBatchNorm, Dense, DenseBatchNorm, Sequential
from nbnorm.layers.folding import fold_pair
from nbnorm.typing import Array

# Batch norm's names in darknet, and in a layer.
_NORMALIZATION = {
    "scales": "gamma",
    "rolling_mean": "running_mean",
    "rolling_variance": "running_var",
}


class Batchnorm(Step):
    """Batch norm of the channels, or of the numbers that a connected layer gives."""

    layer: BatchNorm

    def __init__(self, section: Section, plan: Plan) -> None:
        section.refuse("dontload", "dontloadscales")
        shape = plan.before(section)
        super().__init__(section, shape)
        self.layer = BatchNorm(shape[0], **plan.dialect.options()).eval()

    def stored(self) -> dict[str, Array]:
        """Return biases, unless the layer has none, scales, mean and variance."""
        biases = {} if self.layer.beta is None else {"biases": self.layer.beta}
        return biases | {name: getattr(self.layer, own) for name, own in _NORMALIZATION.items()}

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

    order: ClassVar[tuple[str, ...]]  # of the arrays in a file
    layer: Any  # a Conv2d or Dense; with batch norm a Conv2dBatchNorm or DenseBatchNorm

    def __init__(self, section: Section, shape: Shape) -> None:
        section.refuse("dontload", "dontloadscales", "numload")
        super().__init__(section, shape)
        self.activation = Activating(section, "logistic")
        # With these a layer without batch norm passes for one with: see forward.
        self.statistics = np.zeros(shape[0]), np.ones(shape[0])

    @abstractmethod
    def infer(self, x: Array, residual: Array | None) -> Array:
        """Return activation(product + bias + residual) in one pass."""

    def stored(self) -> dict[str, Array]:
        """Return the arrays of the layer."""
        arrays = {"weights": self.layer.weight, "biases": self.layer.bias}
        if self.normalized:
            arrays["biases"] = self.layer.beta
            arrays |= {name: getattr(self.layer, own) for name, own in _NORMALIZATION.items()}
        return {name: arrays[name] for name in self.order if name in arrays}

    @property
    def normalized(self) -> bool:
        """Whether the layer has batch norm."""
        return isinstance(self.layer, (Conv2dBatchNorm, DenseBatchNorm))

    def forward(self, *inputs: Array) -> Array:
        """Multiply, normalize, add the second input if there is one, activate."""
        x, residual = inputs if len(inputs) == 2 else (inputs[0], None)
        if self.normalized:
            y = self.layer.forward(x, residual)[0]
        else:
            y = self.infer(x, residual)
        return self.activation.after(y)

    def fold(self) -> Step:
        """Return a step whose layer has no batch norm."""
        twin = copy.copy(self)
        folded = self.layer.fold()
        # An Activation that follows stays with the step, which applies it in the same pass.
        twin.layer = folded[0] if isinstance(folded, Sequential) else folded
        return twin

    def merged(self, following: Step) -> Step | None:
        """Take over a batch norm, or a shortcut as residual, if no activation is between."""
        if self.activation.name != "linear" or len(self.sources) > 1:
            return None
        twin = copy.copy(self)
        twin.section = following.section
        if isinstance(following, Batchnorm):
            folded = fold_pair(self.layer, following.layer)
            if folded is None:
                return None
            (twin.layer,) = folded
            return twin
        if isinstance(following, Shortcut) and following.is_plain:
            twin.activation = following.activation
            twin.sources = (*self.sources, *following.sources[1:])
            return twin
        return None


class Convolutional(Weighted):
    """A convolution, with batch norm or a bias, and an activation."""

    order = ("biases", "scales", "rolling_mean", "rolling_variance", "weights")
    layer: Conv2d | Conv2dBatchNorm

    def __init__(self, section: Section, plan: Plan) -> None:
        section.refuse(
            "antialiasing", "binary", "bin_output", "coordconv", "dot", "flipped",
            "reverse", "rotate", "stretch", "stretch_sway", "sway", "xnor",
        )  # fmt: skip
        section.refuse_any("share_index")
        self.takes = c, h, w = plan.image_before(section)
        filters = section.integer("filters", 1, least=1)
        size = section.integer("size", 1, least=1)
        groups = section.integer("groups", 1, least=1)
        stride = strides(section)
        dilation = section.integer("dilation", 1, least=1) if size > 1 else 1
        padding = section.integer("padding", 0, least=0)
        if section.flag("pad"):
            padding = size // 2
        if c % groups or filters % groups:
            raise section.error(
                f"groups is {groups}; expected a divisor of {c} channels and {filters} filters"
            )
        if dilation > 1 and 2 * padding != size - 1:
            # darknet counts the windows as if there were no dilation, which is right for this only.
            raise section.error(
                f"dilation is {dilation} and padding {padding}; expected pad=1 and an odd size"
            )
        high, wide = (
            (side + 2 * padding - size) // step + 1
            for side, step in zip((h, w), stride, strict=True)
        )
        super().__init__(section, (filters, high, wide))
        sizes = c, filters, size
        options: Any = {
            "stride": stride,
            "padding": padding * dilation,
            "dilation": dilation,
            "groups": groups,
            "rng": plan.rng,
        }
        if is_normalized(section):
            options |= {"activation": self.activation.in_layer, **plan.dialect.options()}
            self.layer = Conv2dBatchNorm(*sizes, **options).eval()
        else:
            self.layer = Conv2d(*sizes, **options).eval()

    def infer(self, x: Array, residual: Array | None) -> Array:
        """Return activation(convolution + bias + residual) in one pass."""
        layer = self.layer
        return conv2d_batch_norm_inference(
            x,
            layer.weight,
            *self.statistics,
            beta=layer.bias,
            eps=0,
            activation=self.activation.in_layer,
            residual=residual,
            **layer.options,
        )


class Connected(Weighted):
    """A dense layer, with batch norm or a bias, and an activation."""

    order = ("biases", "weights", "scales", "rolling_mean", "rolling_variance")
    layer: Dense | DenseBatchNorm

    def __init__(self, section: Section, plan: Plan) -> None:
        inputs = math.prod(plan.before(section))
        self.takes = (inputs,)
        outputs = section.integer("output", 1, least=1)
        super().__init__(section, (outputs,))
        options: Any = {"rng": plan.rng}
        if is_normalized(section):
            options |= {"activation": self.activation.in_layer, **plan.dialect.options()}
            self.layer = DenseBatchNorm(inputs, outputs, **options).eval()
        else:
            self.layer = Dense(inputs, outputs, **options).eval()

    def infer(self, x: Array, residual: Array | None) -> Array:
        """Return activation(x weight^T + bias + residual) in one pass."""
        layer = self.layer
        return dense_batch_norm_inference(
            x,
            layer.weight,
            *self.statistics,
            beta=layer.bias,
            eps=0,
            activation=self.activation.in_layer,
            residual=residual,
        )


def is_normalized(section: Section) -> bool:
    """Whether there is a batch norm; the fork's cross-iteration one infers as any other."""
    return section.flag("batch_normalize") or section.flag("cbn")
