"""When the images inside a graph may lie with their channels last."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from nbnorm.interop.torch.activations import activation_of_call, activation_of_module
from nbnorm.interop.torch.norms import is_norm
from nbnorm.interop.torch.tracing import in_place

# Those whose results do not depend on how their input lies in memory, and that are as fast.
_MODULES = (
    nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d, nn.Dropout, nn.Dropout2d, nn.Identity, nn.Flatten, nn.Upsample,
)  # fmt: skip
_FUNCTIONS = {
    operator.add, operator.mul, in_place, operator.getitem, torch.add,
    torch.mul, torch.cat, torch.flatten, torch.mean, F.max_pool2d, F.avg_pool2d,
    F.adaptive_avg_pool2d, F.dropout, F.interpolate, F.linear, F.log_softmax, F.softmax, getattr,
}  # fmt: skip
_METHODS = {"add", "add_", "mul", "flatten", "mean", "reshape", "size", "softmax", "log_softmax"}


def may_be_channels_last(graph: Any) -> bool:
    """Whether nothing in a graph can tell how images lie (`view` could), and it has products."""
    has_product = False
    for node in graph.graph.nodes:
        if node.op == "call_module":
            module = graph.modules[node.target]
            has_product |= type(module) is nn.Conv2d
            known = type(module) in _MODULES or is_norm(module)
            known = known or activation_of_module(module) is not None
        elif node.op in ("call_function", "call_method"):
            names = _FUNCTIONS if node.op == "call_function" else _METHODS
            known = node.target in names or activation_of_call(node) is not None
        else:
            known = True
        if not known:
            return False
    return has_product


def finish_in_order(graph: fx.Graph) -> None:
    """Have a graph give its images back as PyTorch would: contiguous."""
    (output,) = graph.find_nodes(op="output")
    with graph.inserting_before(output):
        output.args = fx.map_arg(output.args, lambda node: graph.call_function(contiguous, (node,)))


def contiguous(value: Any) -> Any:
    """A tensor with its channels second in memory; anything else as it is."""
    return value.contiguous() if isinstance(value, Tensor) and value.dim() == 4 else value
