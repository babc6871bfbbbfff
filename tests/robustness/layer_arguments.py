"""Every public layer with the arguments of its constructor and its methods: see arguments.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from nbnorm import layers
from nbnorm.layers.normalizing import Normalizing
from tests.robustness.arguments import ANY, SIZES, SLIDE, Function, X
from tests.robustness.batches import Batches
from tests.robustness.kinds import Arguments, Data, Given, Kind, Sizes, put
from tests.robustness.options import (
    ACTIVATION,
    DDOF,
    DTYPE,
    EPS,
    FLAG,
    MOMENTUM,
    NO_FLAGS,
    NO_INTS,
    NUM_GROUPS,
    SEED,
    Option,
    choice,
    number,
    pair,
    size,
)
from tests.robustness.parts import LayersWeights, SampleWeight


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
                if self.name == "Activation" and kind is ValueError:
                    continue  # batch norm's kind of context; with no arrays, any is its own
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


@dataclass
class Trainable(Kind):
    """Which parameters learn."""

    names: list[str]
    title = "trainable"
    words = "True, False or names of parameters"

    def plain(self, random: np.random.Generator, sizes: Sizes) -> Any:
        """All of them."""
        return True

    def given(self, name: str, arguments: Arguments) -> Iterator[Given]:
        """No names, unknown names, and names in every collection."""
        one = self.names[0] if self.names else "gamma"
        expected = "True, False or names out of"
        for words, value in {
            "None": None,
            "an int": 1,
            "a float": 1.0,
            "one name in no tuple": one,
            "bytes": one.encode(),
            "a name in an array of no axes": np.array(one),
            "a flag in an array": np.array(True),
        }.items():
            yield Given(words, put(name, value), TypeError, expected, name)
        for words, value in {
            "an unknown name": ["lost"],
            "an unknown name among others": (*self.names, "lost"),
            "a dict of unknown names": {"lost": 1},
            "None among names": [*self.names, None],
            "a list among names": [[one]],
            "an array among names": [np.ones(2)],
            "flags among names": [True],
            "the bytes of a name": [one.encode()],
        }.items():
            yield Given(words, put(name, value), ValueError, expected, name)
        for words, value in {
            "False": False,
            "a bool of NumPy": np.True_,
            "no names": (),
            "names in a list": self.names,
            "names in a set": set(self.names),
            "names as keys": dict.fromkeys(self.names),
            "names in an array": np.array(self.names),
        }.items():
            yield Given(words, put(name, value))


@dataclass
class Member(Kind):
    """A layer of some kind, in the place of which some do not fit."""

    make: Callable[[], Any]
    words: str
    unfit: Callable[[], list[Any]] = list
    title = "layer of a kind"

    def plain(self, random: np.random.Generator, sizes: Sizes) -> Any:
        """One that fits."""
        return self.make()

    def given(self, name: str, arguments: Arguments) -> Iterator[Given]:
        """No layers, layers of other kinds, and those that do not fit."""
        layer = arguments[name]
        others = [layers.Flatten(), layers.BatchNorm(6), layers.Sequential(layer)]
        for value in (None, 1, "layer", np.ones(3), type(layer), [layer], *others):
            yield Given("another layer or none", put(name, value), TypeError, self.words, name)
        for value in self.unfit():
            expected = "a batch norm of the channels of"
            yield Given("one that does not fit", put(name, value), ValueError, expected, name)


NO_RESIDUAL = Option(
    "no residual", "None", None, "None: this layer adds none", (np.ones(2), 1.0, "x", True)
)
NO_WEIGHT = Option(
    "no weights", "None", None, "None: it takes none", (np.ones((4, 1, 5)), 1.0, "x", True)
)
# Which axes x has is seen in forward alone.
LAYER_AXIS = Option(
    "axis of a layer", "int, or a tuple of ints", 1, "", (*NO_INTS[:-2], [1], (1.0,), (True,), ()),
    (), (np.int64(1), -1, (1,)),
)  # fmt: skip
SAMPLE_LAYER_AXIS = Option(
    "axis of a layer's channels", "int, but not the first axis", 1, "not the first axis",
    (*NO_INTS, (1,)), (0,), (np.int64(1), -1),
)  # fmt: skip
SUMMED_AXES = Option(
    "summed axes of a layer",
    'int, tuple of ints, None for all, or "sample" for all but the first', 1, "",
    (*NO_INTS[1:-2], [1], (1.0,), (True,), (None,), ()), (),
    (None, "sample", np.int64(1), -1, (1,), (0, 1)),
)  # fmt: skip
AFFINE = Option(
    "affine", 'True, False, "gamma" or "beta"', True, "True, False or one of", NO_FLAGS[:3],
    ("", "yes", "Gamma", "weight"), (np.True_, False, "gamma", "beta", np.str_("beta")),
)  # fmt: skip
NORMALIZING = {
    "eps": EPS, "momentum": MOMENTUM, "affine": AFFINE, "track_running_stats": FLAG,
    "running_var": choice("unbiased", "biased"), "ddof": DDOF, "activation": ACTIVATION,
}  # fmt: skip
OF_SAMPLES = {
    "axis": SAMPLE_LAYER_AXIS, "eps": EPS, "affine": FLAG, "activation": ACTIVATION, "dtype": DTYPE,
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
    members    the layers it calls
    free       the sizes of x that may be any, and other shapes that it may have
    either     which of x and dy may be of float32 and of float64, whatever else is
    others     methods that others do not have, and what can be set, with their arguments
    """

    make: Callable[[], Any]
    arguments: Mapping[str, Kind]
    x: str
    y: str
    residual: bool = False
    speaks: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    free: tuple[str, ...] = ()
    either: tuple[str, ...] = ()
    others: Mapping[str, Mapping[str, Kind]] = field(default_factory=dict)

    def called(self) -> Any:
        """A layer that has been called once, and keeps its context."""
        random = np.random.default_rng(6)
        layer = self.make()
        layer(Data(self.x).plain(random, SIZES))
        return layer

    def functions(self, name: str) -> Iterator[Function]:
        """Its constructor and its methods."""
        yield Function(name, self.arguments)
        x = Data(self.x, decides=True, same="x" not in self.either, free=self.free)
        residual = Data(self.y, optional=True) if self.residual else NO_RESIDUAL
        dy = Data(self.y, same="dy" not in self.either)
        own = sorted(self.make()._own_names())
        taken = {"x": x, "residual": residual}
        if isinstance(self.make(), (layers.CrossIterationBatchNorm, layers.Compensated)):
            taken["sample_weight"] = NO_WEIGHT
        elif isinstance(self.make(), layers.Sequential):
            taken["sample_weight"] = LayersWeights(self.y, layers=len(self.make()))
        elif isinstance(self.make(), Normalizing):
            taken["sample_weight"] = SampleWeight(self.y)
        for method, arguments in {
            "forward": taken,
            "__call__": taken,
            "backward": {"dy": dy, "context": LayerContext(name)},
            "load_state_dict": {"state": State(self.make)},
            "train": {"training": FLAG},
            "freeze": {"frozen": FLAG},
            "trainable": {"trainable": Trainable(own)},
            **self.others,
        }.items():
            what = "backward" if method == "backward" else "forward"
            speakers = [name] if method in ("trainable", *self.others) else []
            speakers += [f"{who}.{what}" for who in (name, *self.members)]
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
        layers.Flatten, {}, "ncp", "nq", free=ANY.free, either=("x", "dy"),
    ),
    "Sequential": LayerOf(
        lambda: layers.Sequential(layers.Flatten(), layers.BatchNorm(15, **F8)),
        {"*layers": Members(several=True)}, "ncp", "nq", True, ("batch_norm",),
        ("Flatten", "BatchNorm"),
    ),
    "CrossIterationBatchNorm": LayerOf(
        lambda: layers.CrossIterationBatchNorm(3, window=3, activation="relu", **F8),
        {
            "num_features": size(3), "window": size(3), "axis": LAYER_AXIS, **NORMALIZING,
            "dtype": DTYPE,
        },
        "ncp", "ncp", True, ("batch_norm", "cross_iteration_batch_norm"),
        others={
            "window": {"window": size(2)},
            "forward_after": {"earlier": Batches(), "x": X, "residual": Data("ncp", optional=True)},
        },
    ),
    "GhostBatchNorm": LayerOf(
        lambda: layers.GhostBatchNorm(3, batch_groups=2, activation="relu", **F8),
        {
            "num_features": size(3), "batch_groups": size(2), "axis": LAYER_AXIS, **NORMALIZING,
            "dtype": DTYPE,
        },
        "ncp", "ncp", True, ("batch_norm", "GhostBatchNorm.backward"),
    ),
    "Compensated": LayerOf(
        lambda: layers.Compensated(
            layers.Dense(3, 6, rng=0, **F8), layers.CrossIterationBatchNorm(6, window=3, **F8)
        ),
        {
            "product": Member(lambda: layers.Dense(3, 6), "a Dense or a Conv2d"),
            "normalization": Member(
                lambda: layers.CrossIterationBatchNorm(6, window=3), "a CrossIterationBatchNorm",
                lambda: [
                    layers.CrossIterationBatchNorm(5, window=3),
                    layers.CrossIterationBatchNorm(6, window=3, axis=2),
                    layers.CrossIterationBatchNorm((6, 2), window=3, axis=(1, 2)),
                ],
            ),
        },
        "nc", "nk", True, ("dense", "cross_iteration_batch_norm", "batch_norm"),
        ("Dense", "CrossIterationBatchNorm"), ("n",),
    ),
    "GroupNorm": LayerOf(
        lambda: layers.GroupNorm(3, num_groups=1, activation="relu", **F8),
        {"num_features": size(3), "num_groups": NUM_GROUPS, **OF_SAMPLES}, "ncp", "ncp", True,
        ("group_norm",), free=("n", "p"),
    ),
    "InstanceNorm": LayerOf(
        lambda: layers.InstanceNorm(3, activation="relu", **F8),
        {"num_features": size(3), **OF_SAMPLES}, "ncp", "ncp", True, ("instance_norm",),
        free=("n", "p"),
    ),
    **{
        name: LayerOf(
            getattr(layers, name), {"axis": SUMMED_AXES, "eps": EPS}, "ncp", "ncp",
            speaks=(function,), free=ANY.free, either=("x",),
        )
        for name, function in (("L1Normalize", "l1_normalize"), ("L2Normalize", "l2_normalize"))
    },
    **{
        name: LayerOf(
            partial(getattr(layers, name), 0.5), {"weight": EPS}, "ncp", "ncp", free=ANY.free,
            either=("x",),
        )
        for name in ("L1Penalty", "L2Penalty")
    },
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
