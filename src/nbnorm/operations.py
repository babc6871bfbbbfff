"""What every public function is: the one table that tests, benchmarks and the warmup read.

A new function is an entry here. Each reader then fails until it has what it needs beside:

=====================================  ==========================================================
reader                                 what it adds
=====================================  ==========================================================
``tests/robustness/arguments.py``      right and wrong values for arguments of new names; writes
                                       docs/arguments.md
``tests/bounds/families.py``           random sizes and options, for calls next to forbidden pages
``tests/jit/calls.py``, ``cli.py``     sizes that are large enough for threads
``benchmarks/accuracy/operations.py``  the exact result, and the scale of its errors
``benchmarks/compare``, ``suites``     sizes to time
=====================================  ==========================================================

The table is shipped, as PyTorch's OpInfo is, because asv knows neither tests nor benchmarks from
where it runs: it has the package, installed from the commit that it measures, and its own suites.
Nothing in the library but the command line imports this module.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

import nbnorm
from nbnorm.typing import Array

Shape: TypeAlias = tuple[int, ...]

# The size of the axis that a letter stands for; a tuple where it stands for several axes or none.
Sizes: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Operation:
    """What a family of public functions has in common, and what tells it from others.

    name         nbnorm.<name>_<direction>, or nbnorm.<name> where there are no directions; each has
                 a reference of the same name in nbnorm.reference
    title        the name in tables of results
    arrays       every array that the functions take, and "y", what comes out, with a letter for
                 each axis: n batch, c channels in, k channels out, h w the image, r s the window,
                 i j the image that comes out, p all other axes together
    batches      arguments that are sequences of Moments, and the axes of these
    required     other arguments without a default, with a value that is right
    directions   of "forward", "inference", "backward" and "gradient_sums", part of a backward
    backward_of  the operation whose backward takes the contexts, if there is no backward here
    context      the type of what the forward returns for the backward, after y; "" where the
                 backward takes the forward's arrays instead
    gradients    the type of what the backward returns; "" where it returns dx alone
    parts        the operations that one after the other give the same result
    layer        the layer that calls the functions
    """

    name: str
    title: str
    arrays: Mapping[str, str] = field(default_factory=dict)
    batches: Mapping[str, str] = field(default_factory=dict)
    required: Mapping[str, Any] = field(default_factory=dict)
    directions: tuple[str, ...] = ()
    backward_of: str = ""
    context: str = ""
    gradients: str = ""
    parts: tuple[str, ...] = ()
    layer: str = ""

    @property
    def functions(self) -> dict[str, str]:
        """The names of its functions by direction; the direction of an only one is ""."""
        names = {direction: f"{self.name}_{direction}" for direction in self.directions}
        return names or {"": self.name}

    def function(self, direction: str) -> str:
        """The name of the function that serves it in a direction, if only another operation's."""
        if direction == "backward" and self.backward_of:
            return f"{self.backward_of}_backward"
        return self.functions[direction]

    @property
    def arguments(self) -> set[str]:
        """The names of what its functions take."""
        directions = {*self.functions, *(("backward",) if self.backward_of else ())}
        return {name for each in directions for name in parameters(self.function(each))}

    def inputs(self, direction: str) -> tuple[str, ...]:
        """The arrays that a function takes, dy aside, in the order of its parameters."""
        return tuple(name for name in parameters(self.function(direction)) if name in self.arrays)

    def axes(self, name: str) -> str:
        """The letters of an array, of its gradient ("dx"), or of "dy"."""
        return self.arrays[name if name in self.arrays else name.removeprefix("d")]

    def shapes(self, sizes: Sizes, **options: Any) -> dict[str, Shape]:
        """The shape of each array; options as the functions take them."""
        sizes = {**_image_out(sizes, **options), **sizes}
        found = {name: _shape(axes, sizes) for name, axes in self.arrays.items()}
        if "groups" in options:
            k, c, *window = found["weight"]
            found["weight"] = (k, c // options["groups"], *window)
        if options.get("axis") == -1:
            for name, axes in self.arrays.items():
                if axes[:1] == "n":
                    n, channels, *others = found[name]
                    found[name] = (n, *others, channels)
        return found

    def draw(
        self, random: np.random.Generator, dtype: Any, sizes: Sizes, **options: Any
    ) -> dict[str, Any]:
        """Arguments for all directions: every array, dy, whatever has no default, and `options`."""

        def normal(shape: Shape) -> Array:
            return random.standard_normal(shape).astype(dtype)

        shapes = self.shapes(sizes, **options)
        given: dict[str, Any] = {name: normal(shape) for name, shape in shapes.items()}
        if "y" in given:
            given["dy"] = given.pop("y")
        if "var" in given:
            given["var"] = np.abs(given["var"]) + given["var"].dtype.type(0.5)
        for name, axes in self.batches.items():
            mean = random.standard_normal(_shape(axes, sizes))
            given[name] = [nbnorm.Moments.from_statistics(mean, np.abs(mean) + 0.5, 20)] * 2
        return given | dict(self.required) | options

    def call(self, direction: str, given: Mapping[str, Any], **more: Any) -> Callable[[], Any]:
        """The function of a direction, bound to those of the arguments given that it takes.

        What no function of the operation takes is refused.
        """
        function = self.function(direction)
        given = {**given, **more}
        if unknown := sorted(given.keys() - self.arguments - {"dy", *self.arrays}):
            raise TypeError(f"{self.name} takes no {', '.join(unknown)}")
        taken = {name: given[name] for name in parameters(function) if name in given}
        return functools.partial(getattr(nbnorm, function), **taken)

    def train(self, given: Mapping[str, Any]) -> tuple[Array, Any, Any]:
        """Forward and backward: y, the context (None where there is none), and the gradients."""
        result = self.call("forward", given)()
        if not self.context:
            return result, None, self.call("backward", given)()
        y, context = result[:2]
        return y, context, self.call("backward", given, context=context)()


@functools.cache
def parameters(function: str) -> tuple[str, ...]:
    """The names of a public function's parameters."""
    return tuple(inspect.signature(getattr(nbnorm, function)).parameters)


def _shape(axes: str, sizes: Sizes) -> Shape:
    """The sizes of some axes; a tuple among them counts as several."""
    shape: list[int] = []
    for letter in tuple(axes):
        size = sizes[letter]
        shape += size if isinstance(size, tuple) else [size]
    return tuple(shape)


def _image_out(
    sizes: Sizes, stride: Any = 1, padding: Any = 0, dilation: Any = 1, **_: Any
) -> Sizes:
    """The sizes of the image that comes out of a convolution, i and j, unless they are given."""
    if "h" not in sizes or "i" in sizes:
        return {}

    def along(axis: int, option: Any) -> Any:
        return option[axis] if isinstance(option, (tuple, list)) else option

    def size(axis: int, image: int, window: int) -> int:
        step, zeros, gap = (along(axis, option) for option in (stride, padding, dilation))
        if zeros in ("same", "same_lower"):
            return -(-image // int(step))
        around = 0 if zeros == "valid" else np.broadcast_to(zeros, 2).sum()
        return int((image + around - gap * (window - 1) - 1) // step + 1)

    return {"i": size(0, sizes["h"], sizes["r"]), "j": size(1, sizes["w"], sizes["s"])}


def _numbers_of_channels(letter: str) -> dict[str, str]:
    """The arrays with one number for each channel of a batch norm."""
    return dict.fromkeys(("mean", "var", "gamma", "beta"), letter)


def _normalization(name: str) -> Operation:
    """Division by the L1 or L2 norm."""
    return Operation(
        f"{name.lower()}_normalize",
        title=f"{name} normalization",
        arrays={"x": "ncp", "y": "ncp"},
        directions=("forward", "backward"),
        context=f"{name}NormalizeContext",
        layer=f"{name}Normalize",
    )


def _grouped(title: str, layer: str, **required: Any) -> Operation:
    """Batch norm's formulas with statistics of each sample."""
    return Operation(
        title.replace(" ", "_"),
        title=title,
        arrays={"x": "ncp", "gamma": "c", "beta": "c", "residual": "ncp", "y": "ncp"},
        required=required,
        directions=("forward", "backward"),
        context=f"{layer}Context",
        gradients="BatchNormGradients",
        layer=layer,
    )


def _penalty(name: str) -> Operation:
    """The penalty on the L1 or L2 norm, and its gradient: y has the shape of dx."""
    return Operation(
        f"{name.lower()}_penalty",
        title=f"{name} penalty",
        arrays={"x": "ncp", "y": "ncp"},
        required={"weight": 0.5},
        layer=f"{name}Penalty",
    )


OPERATIONS = (
    Operation(
        "batch_norm",
        title="batch norm",
        arrays={"x": "ncp", **_numbers_of_channels("c"), "residual": "ncp", "y": "ncp"},
        directions=("forward", "inference", "backward", "gradient_sums"),
        context="BatchNormContext",
        gradients="BatchNormGradients",
        layer="BatchNorm",
    ),
    Operation(
        "dense",
        title="dense",
        arrays={"x": "nc", "weight": "kc", "bias": "k", "y": "nk"},
        directions=("forward", "backward"),
        gradients="DenseGradients",
        layer="Dense",
    ),
    Operation(
        "dense_batch_norm",
        title="dense + batch norm",
        arrays={
            "x": "nc", "weight": "kc", **_numbers_of_channels("k"), "bias": "k",
            "residual": "nk", "y": "nk",
        },
        directions=("forward", "inference", "backward"),
        context="DenseBatchNormContext",
        gradients="DenseBatchNormGradients",
        parts=("dense", "batch_norm"),
        layer="DenseBatchNorm",
    ),
    Operation(
        "conv2d",
        title="conv2d",
        arrays={"x": "nchw", "weight": "kcrs", "bias": "k", "y": "nkij"},
        directions=("forward", "backward"),
        gradients="Conv2dGradients",
        layer="Conv2d",
    ),
    Operation(
        "conv2d_batch_norm",
        title="conv2d + batch norm",
        arrays={
            "x": "nchw", "weight": "kcrs", **_numbers_of_channels("k"), "bias": "k",
            "residual": "nkij", "y": "nkij",
        },
        directions=("forward", "inference", "backward"),
        context="Conv2dBatchNormContext",
        gradients="Conv2dBatchNormGradients",
        parts=("conv2d", "batch_norm"),
        layer="Conv2dBatchNorm",
    ),
    Operation(
        "fold_batch_norm",
        title="folding",
        arrays={"weight": "kcrs", "bias": "k", **_numbers_of_channels("k")},
    ),
    Operation(
        "cross_iteration_batch_norm",
        title="cross-iteration batch norm",
        arrays={"x": "ncp", "gamma": "c", "beta": "c", "residual": "ncp", "y": "ncp"},
        batches={"earlier": "c"},
        directions=("forward",),
        backward_of="batch_norm",
        context="BatchNormContext",
        gradients="BatchNormGradients",
        layer="CrossIterationBatchNorm",
    ),
    _grouped("group norm", "GroupNorm", num_groups=1),
    _grouped("instance norm", "InstanceNorm"),
    _normalization("L1"),
    _normalization("L2"),
    _penalty("L1"),
    _penalty("L2"),
)  # fmt: skip

BY_NAME = {operation.name: operation for operation in OPERATIONS}
