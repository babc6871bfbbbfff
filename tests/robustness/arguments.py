"""Every public function with its arguments: the table behind docs/arguments.md.

Which functions there are, and which arrays they take, is in src/nbnorm/operations.py; the kind of
each argument (kinds.py, options.py) follows from its name. What a new function has to add here are
kinds for names that no function had (`OPTIONS`) or that mean something else there (`OWN`), and the
sizes that may be 0 (`EMPTY`). `python -m tests.robustness.page` then writes the page. Layers are in
layer_arguments.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import nbnorm
from nbnorm import layers, reference
from nbnorm.operations import OPERATIONS, Operation, parameters
from tests.robustness.batches import Batches
from tests.robustness.kinds import Arguments, Data, Gradients, Kind, Out, Place
from tests.robustness.options import (
    ACTIVATION,
    CHANNEL_AXIS,
    DDOF,
    EPS,
    GROUPS,
    IMAGE_AXIS,
    NUM_GROUPS,
    OUT_AXIS,
    PADDING,
    Context,
    Option,
    Statistics,
    choice,
    kept_axes,
    needs,
    pair,
    size,
    summed_axes,
)
from tests.robustness.parts import SampleWeight, Sums, Whole

# i and j are the height and width of y, for a padding of 1. No two axes of an array are of one
# size, so that none passes for another.
SIZES = {"n": 4, "c": 3, "p": 5, "k": 6, "h": 5, "w": 7, "r": 3, "s": 2, "i": 5, "j": 8, "q": 15}


@dataclass
class Function:
    """A public function, the constructor of a layer, a method of one or what can be set.

    arguments   by name, in the order of the signature
    twin        gives the same results in plain NumPy, from the same arguments
    empty       the sizes that may be 0
    layer       makes the layer that has the method
    speaks      who else may speak in a message: the function that a layer calls
    """

    name: str
    arguments: Mapping[str, Kind]
    twin: Callable[[Arguments], Any] | None = None
    empty: str = ""
    layer: Callable[[], Any] | None = None
    speaks: tuple[str, ...] = ()

    def draw(self, **sizes: int) -> Arguments:
        """Arguments that are right, in arrays of their own."""
        random = np.random.default_rng(6)
        sizes = SIZES | sizes
        sizes |= {"i": sizes["h"] + 3 - sizes["r"], "j": sizes["w"] + 3 - sizes["s"]}
        return {name: kind.plain(random, sizes) for name, kind in self.arguments.items()}

    def target(self, layer: Any = None) -> Callable[..., Any]:
        """What is called; a method is that of the layer."""
        name = self.name.rpartition(".")[2]
        if layer is not None:
            return getattr(layer, name)
        return getattr(nbnorm, name) if name in nbnorm.__all__ else getattr(layers, name)

    def call(self, arguments: Arguments, layer: Any = None) -> Any:
        """Call it."""
        if self._is_set(layer):
            (value,) = arguments.values()
            return setattr(layer, self.name.rpartition(".")[2], value)
        if "*layers" in arguments:
            return self.target(layer)(*arguments["*layers"])
        return self.target(layer)(**arguments)

    def signature(self) -> list[str]:
        """The names of its arguments as Python has them."""
        made = None if self.layer is None else self.layer()
        if self._is_set(made):
            return [self.name.rpartition(".")[2]]
        parameters = inspect.signature(self.target(made)).parameters.values()
        return [f"{'*' * (p.kind is p.VAR_POSITIONAL)}{p.name}" for p in parameters]

    def _is_set(self, layer: Any) -> bool:
        name = self.name.rpartition(".")[2]
        return isinstance(getattr(type(layer), name, None), property)


# --- functions ------------------------------------------------------------------------------

X = Data("ncp", decides=True)
ANY = Data("ncp", same=False, decides=True, free=("n", "c", "p", "an axis more", "an axis less"))

SLIDE: dict[str, Kind] = {
    "stride": pair(1), "padding": PADDING, "dilation": pair(1), "groups": GROUPS,
    "axis": IMAGE_AXIS, "algorithm": choice("direct", "auto"),
}  # fmt: skip

# Kinds of arguments that are no arrays, by their names.
OPTIONS: dict[str, Kind] = {
    **SLIDE, "axis": kept_axes(3), "statistics": Statistics(), "eps": EPS, "ddof": DDOF,
    "activation": ACTIVATION, "num_groups": NUM_GROUPS,
}  # fmt: skip

# Kinds of arguments whose names mean something else, or something more, in other functions.
OWN: dict[str, dict[str, Kind]] = {
    "conv2d": {"axis": IMAGE_AXIS},
    "conv2d_batch_norm": {"axis": IMAGE_AXIS},
    "fold_batch_norm": {
        "weight": Data("kcrs", same=False, decides=True, free=("c", "r", "s", "an axis more")),
        "out_axis": OUT_AXIS,
    },
    **{name: {"axis": CHANNEL_AXIS} for name in ("group_norm", "instance_norm")},
    **{name: {"axis": summed_axes(3)} for name in ("l1_normalize", "l2_normalize")},
    **{name: {"weight": EPS} for name in ("l1_penalty", "l2_penalty")},
}

# The sizes that may be 0.
EMPTY = {
    "batch_norm_forward": "c",
    "batch_norm_inference": "ncp",
    "dense_forward": "nck",
    "dense_backward": "nck",
    "dense_batch_norm_forward": "ck",
    "dense_batch_norm_inference": "nck",
    "conv2d_forward": "nw",
    "conv2d_backward": "nw",
    "conv2d_batch_norm_forward": "w",
    "conv2d_batch_norm_inference": "nw",
    "fold_batch_norm": "kcrs",
    "cross_iteration_batch_norm_forward": "c",
    "group_norm_forward": "n",
    "instance_norm_forward": "nc",
    "l1_normalize_forward": "ncp",
    "l2_normalize_forward": "ncp",
    "l1_penalty": "ncp",
    "l2_penalty": "ncp",
}

# Arrays of a context beside the forward's own.
CONTEXT = {
    "GroupNormContext": ("context.statistics",),
    "InstanceNormContext": ("context.statistics",),
    "BatchNormContext": ("context.statistics",),
    "DenseBatchNormContext": ("context.normalization.x", "context.normalization.statistics"),
    "Conv2dBatchNormContext": ("context.normalization.x", "context.normalization.statistics"),
}


def kind_of(operation: Operation, direction: str, name: str) -> Kind:
    """The kind of an argument of a function."""
    if name in OWN.get(operation.name, {}):
        return OWN[operation.name][name]
    if name == "context":
        return context_of(operation)
    if name == "needs":
        return needs(*getattr(nbnorm, operation.gradients)._fields)
    if name == "out":
        return (
            out_of_backward(operation) if direction == "backward" else out_of(operation, direction)
        )
    if name in operation.batches:
        return Batches(operation.batches[name])
    if name in ("moments", "sums", "sample_weight"):
        return part_of(operation, name)
    if name == "dy":
        return Data(operation.arrays["y"])
    if name in operation.arrays:
        return array_of(operation, name)
    return OPTIONS[name]


def array_of(operation: Operation, name: str) -> Data:
    """An array of numbers for each channel, a residual, or what the call's shapes follow from."""
    axes = operation.arrays[name]
    if name in ("gamma", "beta", "bias"):
        return Data(axes, same=False, optional=True)
    if name in ("mean", "var"):
        return Data(axes, same=False, positive=name == "var")
    if name == "residual":
        return Data(axes, optional=True)
    return Data(axes, decides=True)


def part_of(operation: Operation, name: str) -> Kind:
    """What a batch norm is told of the batch that its y is a part of, and the weights of y."""
    channels, y = operation.arrays["gamma"], operation.arrays["y"]
    if name == "sums":
        return Sums(channels)
    if name == "moments":
        return Whole(channels, callable_only="weight" in operation.arrays)
    return SampleWeight(y, y.index(channels))


def context_of(operation: Operation) -> Context:
    """The context of a forward, in the place of which those of other types are wrong."""
    owners = [o for o in OPERATIONS if o.context and "backward" in o.directions]
    forwards = {o.context: o.functions["forward"] for o in owners}
    own = forwards.pop(operation.context)
    return Context(
        lambda: forwarded(own),
        lambda: {f"the context of {other}": forwarded(other) for other in forwards.values()},
    )


def forwarded(name: str) -> Any:
    """A context of one of the functions below."""
    function = next(function for function in TABLE if function.name == name)
    return function.call(function.draw() | {"out": None})[1]


def out_of(operation: Operation, direction: str) -> Out:
    """Where y is written to.

    A forward's is apart from all that its backward will read. Others may be written over what is
    read element by element.
    """
    inputs, axes = operation.inputs(direction), operation.arrays["y"]
    if direction == "forward":
        return Out(Place(axes, apart=inputs))
    over = tuple(name for name in inputs if operation.arrays[name] == axes)
    apart = tuple(name for name in ("x", "weight") if name in inputs and name not in over)
    return Out(Place(axes, over, apart))


def out_of_backward(operation: Operation) -> Kind:
    """Where gradients are written to, apart from all that the backward reads.

    Where there are no weights, a gradient of y's shape may be written over dy.
    """
    read: tuple[str, ...] = operation.inputs("backward")
    if operation.context:
        read = tuple(f"context.{name}" for name in operation.inputs("forward"))
        read += CONTEXT.get(operation.context, ())

    def place(gradient: str) -> Place:
        axes = operation.axes(gradient)
        if "weight" not in operation.arrays and axes == operation.arrays["y"]:
            return Place(axes, ("dy",), read)
        return Place(axes, apart=("dy", *read))

    if not operation.gradients:
        return Out(place("dx"))
    kind = getattr(nbnorm, operation.gradients)
    others = (o.gradients for o in OPERATIONS if o.gradients not in ("", operation.gradients))
    return Gradients(kind, getattr(nbnorm, next(others)), {d: place(d) for d in kind._fields})


# --- what gives the same results -------------------------------------------------------------


def plainly(option: Any) -> Any:
    """An option as the reference takes it: Python's own ints, pairs as tuples."""
    if isinstance(option, (list, tuple)):
        return tuple(map(plainly, option))
    return int(option) if isinstance(option, np.integer) else option


def results_of(name: str, given: Arguments) -> Any:
    """What the reference gives, which is not told where to write, nor how to compute."""
    dropped = {"out", "needs", "algorithm", "moments", "sums"}
    if name.startswith("conv2d"):
        dropped.add("axis")
    taken = {key: plainly(value) for key, value in given.items() if key not in dropped}
    return getattr(reference, name)(**taken)


def gradients_of(operation: Operation, direction: str, given: Arguments) -> Any:
    """What the reference gives, which takes the forward's arguments instead of a context."""
    context = given["context"]
    forward = next(f for f in TABLE if f.name == operation.functions["forward"])
    options = {name: kind.value for name, kind in forward.arguments.items()
               if isinstance(kind, Option)}  # fmt: skip
    arrays = {name: getattr(context, name) for name in operation.inputs("forward")}
    return results_of(operation.functions[direction], {"dy": given["dy"], **arrays, **options})


def cross_iteration(given: Arguments) -> Any:
    """Cross-iteration batch norm, the moments of earlier batches as the reference takes them."""
    earlier = [(part.mean, part.var(), part.count) for part in given["earlier"] if part.count]
    return results_of("cross_iteration_batch_norm_forward", given | {"earlier": earlier})


def twin_of(operation: Operation, direction: str) -> Callable[[Arguments], Any]:
    """The same results in plain NumPy."""
    if operation.name == "cross_iteration_batch_norm":
        return cross_iteration
    if direction in ("backward", "gradient_sums") and operation.context:
        return partial(gradients_of, operation, direction)
    return partial(results_of, operation.functions[direction])


TABLE = [
    Function(
        name,
        {argument: kind_of(operation, direction, argument) for argument in parameters(name)},
        twin_of(operation, direction),
        EMPTY.get(name, ""),
    )
    for operation in OPERATIONS
    for direction, name in operation.functions.items()
] + [
    Function("threads", {"number": size(2)}),
    Function("one_thread", {}),
    Function("release_memory", {}),
    Function("threading", {}),
]
