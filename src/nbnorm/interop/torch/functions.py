"""The short way through autograd, for eager execution: one node for a fused operation.

The registered operators (operators.py) do the same for torch.compile; an operator of Python costs
each call some 0.1 ms more, and its outputs would have to be known before it runs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nbnorm.checks import same_elements
from nbnorm.interop.torch import calls, composed
from nbnorm.interop.torch.arrays import array_of, laid_out, tensor_of
from nbnorm.interop.torch.calls import GRADIENTS, Operands, Settings
from nbnorm.typing import Array


class Result:
    """What a forward found, handed to autograd once."""

    def __init__(self, y: Tensor, context: Any, settings: Settings) -> None:
        self.y, self.context, self.settings = y, context, settings


def differentiable(operands: Operands, result: Result) -> Tensor:
    """result.y, as autograd's function of the operands."""
    y: Tensor = _Fused.apply(*operands, result)
    return y


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *tensors, result = arguments
        arrays = [array_of(tensor) for tensor in tensors]
        ctx.context = _without_arrays(result.context, arrays)
        ctx.settings, ctx.strides = result.settings, result.y.stride()
        # Saved by autograd, large arrays go when the graph goes, and a change in place of an input
        # is noticed.
        ctx.save_for_backward(*tensors, *map(tensor_of, arrays[len(tensors) :]))
        ctx.set_materialize_grads(False)
        y: Tensor = result.y
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * 7
        saved = ctx.saved_tensors
        operands, needs, settings = Operands(*saved[:6]), ctx.needs_input_grad[:6], ctx.settings
        context = _with_arrays(ctx.context, [array_of(tensor) for tensor in saved])
        if torch.is_grad_enabled():
            normalization = getattr(context, "normalization", context)
            statistics = None
            if normalization.frozen:
                statistics = tensor_of(normalization.mean), tensor_of(normalization.var)
            return *composed.gradients(dy, operands, needs, statistics, settings), None
        names = [name for name, needed in zip(GRADIENTS, needs, strict=True) if needed]
        found = calls.backward(array_of(laid_out(dy, ctx.strides)), context, settings, names)
        return *map(tensor_of, found), None


# --- contexts and their arrays --------------------------------------------------------------


class _Place(NamedTuple):
    """Where an array was in a context: its place in the list of them."""

    place: int


def _without_arrays(value: Any, arrays: list[Array | None]) -> Any:
    """A context with places for arrays; those that `arrays` does not have yet are added to it."""
    if isinstance(value, np.ndarray):
        for index, known in enumerate(arrays):
            if known is not None and same_elements(known, value):
                return _Place(index)
        arrays.append(value)
        return _Place(len(arrays) - 1)
    if hasattr(value, "_make"):
        return value._make(_without_arrays(part, arrays) for part in value)
    return value


def _with_arrays(value: Any, arrays: list[Array | None]) -> Any:
    """The context again."""
    if type(value) is _Place:
        return arrays[value.place]
    if hasattr(value, "_make"):
        return value._make(_with_arrays(part, arrays) for part in value)
    return value
