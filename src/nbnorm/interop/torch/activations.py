"""PyTorch's activations under the names that nbnorm has for them.

An activation is fused only where both libraries compute the same function, with the same derivative
where it jumps: so `torch.nn.Softplus`, which is the identity above a threshold, is not here, nor is
the approximate form of `torch.nn.GELU`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from nbnorm.functional.arguments import Activation

# By exact type: a subclass may compute anything.
_MODULES: dict[type[nn.Module], Callable[[Any], Activation]] = {
    nn.ReLU: lambda _: "relu",
    nn.ReLU6: lambda _: "relu6",
    nn.LeakyReLU: lambda module: _finite("leaky_relu", module.negative_slope),
    nn.ELU: lambda module: _finite("elu", module.alpha),
    nn.SELU: lambda _: "selu",
    nn.GELU: lambda module: "gelu" if module.approximate == "none" else None,
    nn.SiLU: lambda _: "silu",
    nn.Mish: lambda _: "mish",
    nn.Hardswish: lambda _: "hard_swish",
    nn.Hardsigmoid: lambda _: "hard_sigmoid",
    nn.Sigmoid: lambda _: "sigmoid",
    nn.Tanh: lambda _: "tanh",
}

# How PyTorch computes each name.
_PYTORCH: dict[str, Callable[..., Tensor]] = {
    "relu": torch.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
    "hard_swish": F.hardswish,
    "hard_sigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}

# Functions and methods as a graph calls them, and the default of the parameter where there is one.
_FUNCTIONS: dict[Any, str] = {
    **{function: name for name, function in _PYTORCH.items()},
    F.relu: "relu",
    torch.relu_: "relu",
    F.relu_: "relu",
    F.leaky_relu_: "leaky_relu",
    F.elu_: "elu",
    torch.selu: "selu",
    F.selu_: "selu",
    F.sigmoid: "sigmoid",
    F.tanh: "tanh",
}
_METHODS = {"relu": "relu", "relu_": "relu", "sigmoid": "sigmoid", "tanh": "tanh"}
_PARAMETERS = {"leaky_relu": ("negative_slope", 0.01), "elu": ("alpha", 1.0)}


def activation_of_module(module: nn.Module) -> Activation:
    """What nbnorm calls the activation that a module applies; None where it has none such."""
    named = _MODULES.get(type(module))
    return None if named is None else named(module)


def activation_of_call(node: fx.Node) -> Activation:
    """The same of a function's or a method's call in a graph."""
    names = {"call_function": _FUNCTIONS, "call_method": _METHODS}.get(node.op, {})
    name = names.get(node.target)
    if name is None:
        return None
    arguments = list(node.args[1:])
    options = {key: value for key, value in node.kwargs.items() if key != "inplace"}
    if name in _PARAMETERS:
        key, default = _PARAMETERS[name]
        value = arguments.pop(0) if arguments else options.pop(key, default)
        found = _finite(name, value)
    else:
        found = name
    if name == "gelu" and options == {"approximate": "none"}:
        options = {}
    # What is left may be `inplace`, which says nothing of the values.
    return found if not options and all(isinstance(rest, bool) for rest in arguments) else None


def activated(activation: Activation, z: Tensor) -> Tensor:
    """The activation as PyTorch computes it."""
    if activation is None:
        return z
    name, *parameters = (activation,) if isinstance(activation, str) else activation
    return _PYTORCH[name](z, *parameters)


def _finite(name: str, parameter: Any) -> Activation:
    is_number = isinstance(parameter, (int, float)) and math.isfinite(parameter)
    return (name, float(parameter)) if is_number else None
