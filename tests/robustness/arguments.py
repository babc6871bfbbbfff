"""Every public function with its arguments: the table behind docs/arguments.md.

A new function is an entry here: its name, its arguments with their kinds (kinds.py, options.py) and
what gives the same results in plain NumPy. `python -m tests.robustness.page` then writes the page.
Layers are in layer_arguments.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import nbnorm
from nbnorm import layers, reference
from tests.robustness.batches import Batches
from tests.robustness.kinds import Arguments, Data, Gradients, Kind, Out, Place
from tests.robustness.options import (
    ACTIVATION,
    DDOF,
    EPS,
    GROUPS,
    IMAGE_AXIS,
    PADDING,
    Context,
    Statistics,
    choice,
    kept_axes,
    needs,
    pair,
    summed_axes,
)

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


def results_of(name: str, *without: str) -> Callable[[Arguments], Any]:
    """A function of the reference, which takes neither out nor what only says how."""
    dropped = {"out", "algorithm", *without}
    return lambda given: getattr(reference, name)(
        **{key: plainly(value) for key, value in given.items() if key not in dropped}
    )


def plainly(option: Any) -> Any:
    """An option as the reference takes it: Python's own ints, pairs as tuples."""
    if isinstance(option, (list, tuple)):
        return tuple(map(plainly, option))
    return int(option) if isinstance(option, np.integer) else option


def gradients_of(name: str, **options: Any) -> Callable[[Arguments], Any]:
    """A backward of the reference, which takes the forward's arguments instead of a context."""

    def gradients(given: Arguments) -> Any:
        context = given["context"]
        taken = {"x": context.x, "gamma": context.gamma, "beta": context.beta}
        if "weight" in context._fields:
            taken |= {"weight": context.weight, "bias": context.bias}
        return getattr(reference, name)(
            given["dy"], **taken, residual=context.residual, eps=EPS.value, ddof=DDOF.value,
            activation=ACTIVATION.value, **options,
        )  # fmt: skip

    return gradients


def norm_gradient_of(name: str) -> Callable[[Arguments], Any]:
    """A backward of L1 or L2 normalization in the reference."""
    return lambda given: getattr(reference, name)(given["dy"], given["context"].x, eps=EPS.value)


def with_statistics(given: Arguments) -> Any:
    """Cross-iteration batch norm, and what it keeps of the batch."""
    y = results_of("cross_iteration_batch_norm_forward")(given)
    return y, results_of("batch_statistics")({name: given[name] for name in ("x", "axis")})


def forwarded(name: str) -> Any:
    """A context of one of the functions below."""
    function = next(function for function in TABLE if function.name == name)
    return function.call(function.draw() | {"out": None})[1]


def context_of(name: str) -> Context:
    """The context of a forward, in the place of which others' are wrong."""
    others = [other for other in FORWARDS if other != name]
    return Context(
        lambda: forwarded(name),
        lambda: {f"the context of {other}": forwarded(other) for other in others},
    )


FORWARDS = (
    "batch_norm_forward", "dense_batch_norm_forward", "conv2d_batch_norm_forward",
    "l1_normalize_forward", "l2_normalize_forward",
)  # fmt: skip

X, ROWS, IMAGES = Data("ncp", decides=True), Data("nc", decides=True), Data("nchw", decides=True)
ANY = Data("ncp", same=False, decides=True, free=("n", "c", "p", "an axis more", "an axis less"))
WEIGHT, WINDOW = Data("kc", decides=True), Data("kcrs", decides=True)


def channels(letter: str, **options: Any) -> Data:
    """An argument with one number a channel."""
    return Data(letter, same=False, **options)


def scale_and_shift(letter: str) -> dict[str, Kind]:
    """Gamma and beta."""
    return {name: channels(letter, optional=True) for name in ("gamma", "beta")}


def moments(letter: str) -> dict[str, Kind]:
    """Mean and var."""
    return {"mean": channels(letter), "var": channels(letter, positive=True)}


SLIDE = {
    "stride": pair(1), "padding": PADDING, "dilation": pair(1), "groups": GROUPS,
    "axis": IMAGE_AXIS, "algorithm": choice("direct", "auto"),
}  # fmt: skip
TRAINED = {"statistics": Statistics(), "eps": EPS, "ddof": DDOF, "activation": ACTIVATION}
GIVEN = {"eps": EPS, "activation": ACTIVATION}
FORWARD_INPUTS = ("x", "gamma", "beta", "residual")
CONTEXT = tuple(f"context.{name}" for name in (*FORWARD_INPUTS, "statistics"))
FUSED_INPUTS = ("x", "weight", "bias", "gamma", "beta", "residual")
FUSED_CONTEXT = (
    "dy", *(f"context.{name}" for name in FUSED_INPUTS),
    *(f"context.normalization.{name}" for name in ("x", "statistics")),
)  # fmt: skip


def places(apart: tuple[str, ...], **letters: str) -> dict[str, Place]:
    """Where each gradient is written to, apart from some inputs."""
    return {name: Place(axes, apart=apart) for name, axes in letters.items()}


FUSED_NEEDS = needs("dx", "dweight", "dbias", "dgamma", "dbeta", "dresidual")
PER_CHANNEL = {"dgamma": "c", "dbeta": "c"}
OVER_DY = {"dx": Place("ncp", ("dy",), CONTEXT), "dresidual": Place("ncp", ("dy",), CONTEXT)}


def normalize(name: str) -> list[Function]:
    """L1 or L2 normalization."""
    return [
        Function(
            f"{name}_forward",
            {"x": X, "axis": summed_axes(3), "eps": EPS, "out": Out(Place("ncp", apart=("x",)))},
            results_of(f"{name}_forward"),
            "ncp",
        ),
        Function(
            f"{name}_backward",
            {
                "dy": Data("ncp"), "context": context_of(f"{name}_forward"),
                "out": Out(Place("ncp", ("dy",), ("context.x",))),
            },
            norm_gradient_of(f"{name}_backward"),
        ),
    ]  # fmt: skip


def penalty(name: str) -> Function:
    """The L1 or L2 penalty."""
    arguments = {"x": X, "weight": EPS, "out": Out(Place("ncp", over=("x",)))}
    return Function(name, arguments, results_of(name), "ncp")


TABLE = [
    Function(
        "batch_norm_forward",
        {
            "x": X, **scale_and_shift("c"), "statistics": Statistics(), "axis": kept_axes(3),
            "eps": EPS, "ddof": DDOF, "activation": ACTIVATION,
            "residual": Data("ncp", optional=True),
            "out": Out(Place("ncp", apart=FORWARD_INPUTS)),
        },
        results_of("batch_norm_forward"),
        "c",
    ),
    Function(
        "batch_norm_inference",
        {
            "x": X, **moments("c"), **scale_and_shift("c"), "axis": kept_axes(3), **GIVEN,
            "residual": Data("ncp", optional=True), "out": Out(Place("ncp", ("x", "residual"))),
        },
        results_of("batch_norm_inference"),
        "ncp",
    ),
    Function(
        "batch_norm_backward",
        {
            "dy": Data("ncp"), "context": context_of("batch_norm_forward"),
            "needs": needs("dx", "dgamma", "dbeta", "dresidual"),
            "out": Gradients(
                nbnorm.BatchNormGradients, nbnorm.DenseGradients,
                OVER_DY | places(("dy", *CONTEXT), **PER_CHANNEL),
            ),
        },
        gradients_of("batch_norm_backward"),
    ),
    Function(
        "dense_forward",
        {
            "x": ROWS, "weight": WEIGHT, "bias": channels("k", optional=True),
            "out": Out(Place("nk", apart=("x", "weight", "bias"))),
        },
        results_of("dense_forward"),
        "nck",
    ),
    Function(
        "dense_backward",
        {
            "dy": Data("nk"), "x": ROWS, "weight": WEIGHT, "needs": needs("dx", "dweight", "dbias"),
            "out": Gradients(
                nbnorm.DenseGradients, nbnorm.Conv2dGradients,
                places(("dy", "x", "weight"), dx="nc", dweight="kc", dbias="k"),
            ),
        },
        results_of("dense_backward", "needs"),
        "nck",
    ),
    Function(
        "dense_batch_norm_forward",
        {
            "x": ROWS, "weight": WEIGHT, **scale_and_shift("k"),
            "bias": channels("k", optional=True), **TRAINED,
            "residual": Data("nk", optional=True), "out": Out(Place("nk", apart=FUSED_INPUTS)),
        },
        results_of("dense_batch_norm_forward"),
        "ck",
    ),
    Function(
        "dense_batch_norm_inference",
        {
            "x": ROWS, "weight": WEIGHT, **moments("k"), **scale_and_shift("k"),
            "bias": channels("k", optional=True), **GIVEN, "residual": Data("nk", optional=True),
            "out": Out(Place("nk", ("residual",), ("x", "weight"))),
        },
        results_of("dense_batch_norm_inference"),
        "nck",
    ),
    Function(
        "dense_batch_norm_backward",
        {
            "dy": Data("nk"), "context": context_of("dense_batch_norm_forward"),
            "needs": FUSED_NEEDS,
            "out": Gradients(
                nbnorm.DenseBatchNormGradients, nbnorm.BatchNormGradients,
                places(
                    FUSED_CONTEXT, dx="nc", dweight="kc", dbias="k", dgamma="k", dbeta="k",
                    dresidual="nk",
                ),
            ),
        },
        gradients_of("dense_batch_norm_backward"),
    ),
    Function(
        "conv2d_forward",
        {
            "x": IMAGES, "weight": WINDOW, "bias": channels("k", optional=True), **SLIDE,
            "out": Out(Place("nkij", apart=("x", "weight", "bias"))),
        },
        results_of("conv2d_forward", "axis"),
        "nw",
    ),
    Function(
        "conv2d_backward",
        {
            "dy": Data("nkij"), "x": IMAGES, "weight": WINDOW, **SLIDE,
            "needs": needs("dx", "dweight", "dbias"),
            "out": Gradients(
                nbnorm.Conv2dGradients, nbnorm.DenseGradients,
                places(("dy", "x", "weight"), dx="nchw", dweight="kcrs", dbias="k"),
            ),
        },
        results_of("conv2d_backward", "axis", "needs"),
        "nw",
    ),
    Function(
        "conv2d_batch_norm_forward",
        {
            "x": IMAGES, "weight": WINDOW, **scale_and_shift("k"),
            "bias": channels("k", optional=True), **SLIDE, **TRAINED,
            "residual": Data("nkij", optional=True), "out": Out(Place("nkij", apart=FUSED_INPUTS)),
        },
        results_of("conv2d_batch_norm_forward", "axis"),
        "w",
    ),
    Function(
        "conv2d_batch_norm_inference",
        {
            "x": IMAGES, "weight": WINDOW, **moments("k"), **scale_and_shift("k"),
            "bias": channels("k", optional=True), **SLIDE, **GIVEN,
            "residual": Data("nkij", optional=True),
            "out": Out(Place("nkij", ("residual",), ("x", "weight"))),
        },
        results_of("conv2d_batch_norm_inference", "axis"),
        "nw",
    ),
    Function(
        "conv2d_batch_norm_backward",
        {
            "dy": Data("nkij"), "context": context_of("conv2d_batch_norm_forward"),
            "needs": FUSED_NEEDS,
            "out": Gradients(
                nbnorm.Conv2dBatchNormGradients, nbnorm.DenseBatchNormGradients,
                places(
                    FUSED_CONTEXT, dx="nchw", dweight="kcrs", dbias="k", dgamma="k", dbeta="k",
                    dresidual="nkij",
                ),
            ),
        },
        gradients_of("conv2d_batch_norm_backward", padding=PADDING.value),
    ),
    Function(
        "fold_batch_norm",
        {
            "weight": Data("kcrs", same=False, decides=True, free=("c", "r", "s")),
            "bias": channels("k", optional=True),
            **moments("k"), **scale_and_shift("k"), "eps": EPS,
        },
        results_of("fold_batch_norm"),
        "kcrs",
    ),
    Function(
        "cross_iteration_batch_norm_forward",
        {
            "x": X, "earlier": Batches(), **scale_and_shift("c"), "axis": kept_axes(3),
            "eps": EPS, "ddof": DDOF, "activation": ACTIVATION,
            "residual": Data("ncp", optional=True),
            "out": Out(Place("ncp", apart=FORWARD_INPUTS)),
        },
        with_statistics,
        "c",
    ),
    Function(
        "batch_statistics", {"x": ANY, "axis": kept_axes(3)}, results_of("batch_statistics"), "c"
    ),
    Function(
        "merge_statistics", {"parts": Batches(fixed=False, empty=False)},
        results_of("merge_statistics"), "c",
    ),
    *normalize("l1_normalize"), *normalize("l2_normalize"),
    penalty("l1_penalty"), penalty("l2_penalty"),
]  # fmt: skip
