"""Every public layer with the arguments of its constructor and its methods: see arguments.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nbnorm import layers
from tests.robustness.arguments import SIZES, SLIDE, Function
from tests.robustness.kinds import Arguments, Data, Given, Kind, Sizes, put
from tests.robustness.options import (
    ACTIVATION,
    DDOF,
    DTYPE,
    EPS,
    FLAG,
    MOMENTUM,
    NO_INTS,
    SEED,
    Option,
    choice,
    number,
    pair,
    size,
)


@dataclass
class LayerContext(Kind):
    """The context of a layer's forward, or None for the one that it has kept."""

    name: str
    title = "context of a layer"
    words = "what the layer's forward returned, or None for the one that its call kept"

    def plain(self, random: np.random.Generator, sizes: Sizes) -> Any:
        """None: a method's layer has been called."""
        return None

    def given(self, name: str, arguments: Arguments) -> Iterator[Given]:
        """No context, another layer's, and one of another layer of the kind."""
        for other, layer in LAYERS.items():
            context = layer.called()._context
            if other != self.name:
                kind = TypeError
                if type(context) is type(LAYERS[self.name].called()._context):
                    kind = ValueError
                if other in ("Activation", "BatchNorm") and kind is ValueError:
                    continue  # these share a kind of context, and Activation has no arrays
                words = "the context of another kind of layer"
                yield Given(words, put(name, context), kind, "", name)
            elif layer.make().parameters():
                words = "the context of another layer of the kind"
                yield Given(words, put(name, context), ValueError, "one of this layer's", name)
        for value in ("context", 1, np.ones(3), ()):
            yield Given("what is no context", put(name, value), TypeError, "", name)


@dataclass
class State(Kind):
    """What another layer's state_dict returned."""

    made: Callable[[], Any]
    title = "state"
    words = "mapping with the names and shapes of `state_dict()`"

    def plain(self, random: np.random.Generator, sizes: Sizes) -> Any:
        """Numbers like those of a trained layer."""
        state = self.made().state_dict()
        for values in state.values():
            values[...] = np.abs(random.standard_normal(values.shape)) + 1
        return state

    def given(self, name: str, arguments: Arguments) -> Iterator[Given]:
        """No mapping, other names, and entries that do not fit."""
        state = arguments[name]
        for words, value in {
            "None": None,
            "a list of pairs": list(state.items()),
            "a string": "state",
            "an array": np.ones(3),
        }.items():
            yield Given(words, put(name, value), TypeError, "a mapping from names", name)
        exactly = "exactly "
        for words, value in {
            "one without an entry": dict(list(state.items())[1:]) if state else {"weight": 1.0},
            "one with an unknown entry": state | {"more": np.ones(3)},
            "one with an entry whose name is no string": state | {1: np.ones(3)},
        }.items():
            yield Given(words, put(name, value), ValueError, exactly, name)
        for key, values in state.items():
            yield from self._entries(name, state, key, values)
        for words, change in {
            "lists for arrays": lambda v: v.tolist(),
            "arrays in Fortran order": lambda v: np.array(v, order="F"),
            "byte-swapped arrays": lambda v: v.astype(v.dtype.newbyteorder()),
            "read-only arrays": lambda v: np.broadcast_to(v, v.shape),
        }.items():
            yield Given(words, put(name, {key: change(v) for key, v in state.items()}))

    def _entries(self, name: str, state: dict[str, Any], key: str, values: Any) -> Iterator[Given]:
        for words, value in {
            "an entry of objects": values.astype(object),
            "an entry of complex numbers": values.astype(complex),
            "an entry of strings": values.astype(str),
            "a structured entry": np.ones(values.shape, [("a", "f8")]),
            "a masked entry": np.ma.MaskedArray(values),
            "an entry that is None": None,
        }.items():
            yield Given(words, put(name, state | {key: value}), TypeError, "", key)
        for words, value in {
            "an entry with an axis more": values[None],
            "an entry too long": np.ones((*values.shape, 2), values.dtype),
            "a ragged list as an entry": [[1.0], [1.0, 2.0]],
        }.items():
            yield Given(words, put(name, state | {key: value}), ValueError, "shape ", key)
        last = key.rpartition(".")[2]
        if last in ("running_var", "num_batches_tracked"):
            negative = put(name, state | {key: -values})
            yield Given("a negative variance or count", negative, ValueError, "no negative", key)
        if values.dtype == np.float64:
            for words, number in (("NaN", np.nan), ("inf", np.inf)):
                other = np.full(values.shape, number)
                yield Given(f"{words} among the numbers", put(name, state | {key: other}))


@dataclass
class Members(Kind):
    """Layers: as separate arguments of Sequential, as one of SGD."""

    several: bool
    title = "layers"
    words = "a Layer or several"

    def plain(self, random: np.random.Generator, sizes: Sizes) -> Any:
        """One layer."""
        return [layers.Dense(3, 6)]

    def given(self, name: str, arguments: Arguments) -> Iterator[Given]:
        """No layers."""
        one = arguments[name][0]
        wrong = [[1], [None], [one, "layer"], [layers.Dense], [[one]]]
        if not self.several:
            wrong += [3, None, "layers", 1.5, np.ones(2), layers.Dense]
        for value in wrong:
            yield Given("what is no layer", put(name, value), TypeError, "a Layer")
        error = ValueError if self.several else TypeError
        yield Given("no layer at all", put(name, []), error, "", "layers")
        yield Given("a layer twice", put(name, [one, one]))


NO_RESIDUAL = Option(
    "no residual", "None", None, "None: this layer adds none", (np.ones(2), 1.0, "x", True)
)
# Which axes x has is seen in forward alone.
LAYER_AXIS = Option(
    "axis of a layer", "int, or a tuple of ints", 1, "", (*NO_INTS[:-2], [1], (1.0,), (True,), ()),
    (), (np.int64(1), -1, (1,)),
)  # fmt: skip
NORMALIZING = {
    "eps": EPS, "momentum": MOMENTUM, "affine": FLAG, "track_running_stats": FLAG,
    "running_var": choice("unbiased", "biased"), "ddof": DDOF, "activation": ACTIVATION,
}  # fmt: skip
SLIDING = {name: kind for name, kind in SLIDE.items() if name != "algorithm"}
STARTED = {"dtype": DTYPE, "rng": SEED}
DENSE = {"in_features": size(3), "out_features": size(6)}
CONV = {"in_channels": size(3), "out_channels": size(6), "kernel_size": pair(3)}
F8 = {"dtype": np.float64}


@dataclass
class LayerOf:
    """A layer: one to try its methods on, its constructor's arguments, the axes of x and y.

    residual   whether it takes one
    speaks     the functions it calls
    free       the sizes of x that may be any, and other shapes that it may have
    """

    make: Callable[[], Any]
    arguments: Mapping[str, Kind]
    x: str
    y: str
    residual: bool = False
    speaks: tuple[str, ...] = ()
    free: tuple[str, ...] = ()

    def called(self) -> Any:
        """A layer that has been called once, and keeps its context."""
        random = np.random.default_rng(6)
        layer = self.make()
        layer(Data(self.x).plain(random, SIZES))
        return layer

    def functions(self, name: str) -> Iterator[Function]:
        """Its constructor and its methods."""
        yield Function(name, self.arguments)
        x = Data(self.x, decides=True, same=name != "Flatten", free=self.free)
        residual = Data(self.y, optional=True) if self.residual else NO_RESIDUAL
        dy = Data(self.y, same=name != "Flatten")
        for method, arguments in {
            "forward": {"x": x, "residual": residual},
            "__call__": {"x": x, "residual": residual},
            "backward": {"dy": dy, "context": LayerContext(name)},
            "load_state_dict": {"state": State(self.make)},
            "train": {"training": FLAG},
        }.items():
            what = "backward" if method == "backward" else "forward"
            speakers = [f"{who}.{what}" for who in (name, "Flatten", "BatchNorm")]
            speakers += [f"{who}_{what}" for who in self.speaks]
            yield Function(f"{name}.{method}", arguments, layer=self.called, speaks=tuple(speakers))


LAYERS = {
    "BatchNorm": LayerOf(
        lambda: layers.BatchNorm(3, activation="relu", **F8),
        {"num_features": size(3), "axis": LAYER_AXIS, **NORMALIZING, "dtype": DTYPE},
        "ncp", "ncp", True, ("batch_norm",),
    ),
    "Dense": LayerOf(
        lambda: layers.Dense(3, 6, rng=0, **F8), {**DENSE, "bias": FLAG, **STARTED}, "nc", "nk",
        speaks=("dense",), free=("n", "an axis more", "an axis less"),
    ),
    "DenseBatchNorm": LayerOf(
        lambda: layers.DenseBatchNorm(3, 6, activation="relu", bias=True, rng=0, **F8),
        {**DENSE, "bias": FLAG, **NORMALIZING, **STARTED}, "nc", "nk", True, ("dense_batch_norm",),
    ),
    "Conv2d": LayerOf(
        lambda: layers.Conv2d(3, 6, (3, 2), padding=1, rng=0, **F8),
        {**CONV, **SLIDING, "bias": FLAG, **STARTED}, "nchw", "nkij", speaks=("conv2d",),
        free=("n", "h", "w"),
    ),
    "Conv2dBatchNorm": LayerOf(
        lambda: layers.Conv2dBatchNorm(3, 6, (3, 2), padding=1, activation="relu", rng=0, **F8),
        {**CONV, **SLIDING, "bias": FLAG, **NORMALIZING, **STARTED}, "nchw", "nkij", True,
        ("conv2d_batch_norm",),
    ),
    "Activation": LayerOf(
        lambda: layers.Activation("relu"), {"activation": ACTIVATION}, "ncp", "ncp", True,
        ("batch_norm",),
    ),
    "Flatten": LayerOf(
        layers.Flatten, {}, "ncp", "nq", free=("n", "c", "p", "an axis more", "an axis less"),
    ),
    "Sequential": LayerOf(
        lambda: layers.Sequential(layers.Flatten(), layers.BatchNorm(15, **F8)),
        {"*layers": Members(several=True)}, "ncp", "nq", True, ("batch_norm",),
    ),
}  # fmt: skip

TABLE = [
    *(function for name, layer in LAYERS.items() for function in layer.functions(name)),
    Function(
        "SGD",
        {
            "layers": Members(several=False), "lr": EPS,
            "momentum": number("number from 0 to 1", "a number from 0 to 1", 1.5),
        },
    ),
]  # fmt: skip
