"""The table of what frameworks call things, and how they lay them out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nbnorm import checks


@dataclass(frozen=True)
class Framework:
    """How a framework names and lays out arrays, and what it calls the options of a batch norm.

    names           by kind of layer, this library's names and the framework's: the first is
                    written, any is read
    options         this library's options and the framework's, with the defaults there
    channels_first  whether weights are (k, c) and (k, c, r, s); else (c, k) and (r, s, c, k)
    nested          whether the dict is one of dicts; else the separator joins names
    collections     by this library's names, the outermost dict that holds the array
    untracked       whether a batch norm may lack running statistics
    affine          what `affine` may be; else gamma and beta are written, as 1 and 0
    depthwise       whether weights of depthwise convolutions may be (r, s, c, multiplier)
    prefixed        whether names may have the model's in front, and ":0" behind
    fixed           options that change results and have no counterpart, with the values that do not
    old             whether momentum weighs the old running statistics, and these are biased
    """

    names: Mapping[str, Mapping[str, tuple[str, ...]]]
    options: Mapping[str, tuple[str, Any]]
    channels_first: bool = False
    nested: bool = False
    separator: str = "/"
    collections: Mapping[str, str] = field(default_factory=dict)
    untracked: bool = False
    affine: tuple[bool | str, ...] = (True, False, "gamma", "beta")
    depthwise: bool = False
    prefixed: bool = False
    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    old: bool = True


_KERNEL = {"weight": ("kernel",), "bias": ("bias",)}
_FLAX_NAMES = {
    "dense": _KERNEL,
    "conv2d": _KERNEL,
    "batch_norm": {
        "gamma": ("scale",),
        "beta": ("bias",),
        "running_mean": ("mean",),
        "running_var": ("var",),
    },
}
_FLAX_OPTIONS = {
    "eps": ("epsilon", 1e-5),
    "momentum": ("momentum", 0.99),
    "axis": ("axis", -1),
    "gamma": ("use_scale", True),
    "beta": ("use_bias", True),
}
_FRAMEWORKS: dict[str, Framework] = {
    "pytorch": Framework(
        names={
            "dense": {"weight": ("weight",), "bias": ("bias",)},
            "conv2d": {"weight": ("weight",), "bias": ("bias",)},
            "batch_norm": {
                "gamma": ("weight",),
                "beta": ("bias",),
                "running_mean": ("running_mean",),
                "running_var": ("running_var",),
                "num_batches_tracked": ("num_batches_tracked",),
            },
        },
        options={
            "eps": ("eps", 1e-5),
            "momentum": ("momentum", 0.1),
            "affine": ("affine", True),
            "track_running_stats": ("track_running_stats", True),
        },
        channels_first=True,
        separator=".",
        untracked=True,
        affine=(True, False, "gamma"),  # a bias=False of its own, since 2.13
        old=False,
    ),
    "keras": Framework(
        names={
            "dense": _KERNEL,
            "conv2d": _KERNEL | {"weight": ("kernel", "depthwise_kernel", "pointwise_kernel")},
            "batch_norm": {
                "gamma": ("gamma",),
                "beta": ("beta",),
                "running_mean": ("moving_mean",),
                "running_var": ("moving_variance",),
            },
        },
        options={
            "eps": ("epsilon", 1e-3),
            "momentum": ("momentum", 0.99),
            "axis": ("axis", -1),
            "gamma": ("scale", True),
            "beta": ("center", True),
        },
        depthwise=True,
        prefixed=True,
        fixed={"renorm": (False, None), "virtual_batch_size": (None,), "adjustment": (None,)},
    ),
    "flax_linen": Framework(
        names=_FLAX_NAMES,
        options=_FLAX_OPTIONS,
        nested=True,
        collections={
            "weight": "params",
            "bias": "params",
            "gamma": "params",
            "beta": "params",
            "running_mean": "batch_stats",
            "running_var": "batch_stats",
        },
    ),
    "flax_nnx": Framework(names=_FLAX_NAMES, options=_FLAX_OPTIONS, nested=True),
    "onnx": Framework(
        names={
            "dense": {"weight": ("B",), "bias": ("C",)},
            "conv2d": {"weight": ("W",), "bias": ("B",)},
            "batch_norm": {
                "gamma": ("scale",),
                "beta": ("B",),
                "running_mean": ("input_mean", "mean"),
                "running_var": ("input_var", "var"),
            },
        },
        options={"eps": ("epsilon", 1e-5), "momentum": ("momentum", 0.9)},
        channels_first=True,
        separator=".",
        affine=(True,),
        fixed={"training_mode": (0,)},
    ),
}


def framework_of(function: str, framework: Any) -> Framework:
    """Return what is known of a framework."""
    if framework not in _FRAMEWORKS:
        expected = f"one of {tuple(_FRAMEWORKS)}"
        raise checks.wrong_value(function, "framework", framework, expected)
    return _FRAMEWORKS[framework]
