"""What a converted model runs: a norm, with the product before it and what comes behind in one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nbnorm.functional.arguments import Activation
from nbnorm.interop.torch import calls, composed, operators
from nbnorm.interop.torch.activations import activation_of_module
from nbnorm.interop.torch.arrays import FLOATS, array_of
from nbnorm.interop.torch.calls import Operands, Settings, Window
from nbnorm.interop.torch.counts import counts
from nbnorm.interop.torch.functions import Result, differentiable
from nbnorm.interop.torch.norms import PRODUCTS, RANKS, activation_within, has_hooks


def fused(
    norm: nn.Module,
    x: Tensor,
    product: nn.Module | None = None,
    residual: Tensor | None = None,
    activation: nn.Module | Activation = None,
    channels_last: bool | None = None,
) -> Tensor:
    """``activation(norm(product(x)) + residual)``, as the graph of a converted model calls it.

    The modules are asked anew in each call: one that has been given a hook, or has been replaced by
    another type, runs as PyTorch runs it. `channels_last` says how images are to lie in memory,
    None as they come.
    """
    if channels_last is not None and x.dim() == 4:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        x = x.contiguous(memory_format=layout)
        residual = None if residual is None else residual.contiguous(memory_format=layout)
    modules = [module for module in (norm, product, activation) if isinstance(module, nn.Module)]
    if any(map(has_hooks, modules)):
        _left("hooks")
        y = None
    else:
        y = _taken(norm, x, product, residual, activation)
    return composed.by_modules(norm, x, product, residual, activation) if y is None else y


class _Norm:
    """What the three norms below have in common."""

    def forward(self: Any, input: Tensor) -> Tensor:  # noqa: A002  PyTorch's name
        y = _taken(self, input)
        return super().forward(input) if y is None else y  # type: ignore[misc]


class BatchNorm1d(_Norm, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` on nbnorm."""


class BatchNorm2d(_Norm, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` on nbnorm."""


class BatchNorm3d(_Norm, nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d` on nbnorm."""


TWINS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.BatchNorm3d: BatchNorm3d,
}
RANKS.update({twin: RANKS[norm] for norm, twin in TWINS.items()})


def _taken(
    norm: Any,
    x: Tensor,
    product: Any = None,
    residual: Tensor | None = None,
    activation: nn.Module | Activation = None,
) -> Tensor | None:
    """The result by nbnorm, or None where it does not take this call, with nothing changed."""
    known, within = activation_within(norm)
    if isinstance(activation, nn.Module):
        activation = activation_of_module(activation)
        known = activation is not None
    if not known:
        _left("an activation of another type")
        return None
    if product is not None and type(product) not in PRODUCTS:
        _left("a product of another type")
        return None
    weight, bias = (None, None) if product is None else (product.weight, product.bias)
    operands = Operands(x, weight, bias, norm.weight, norm.bias, residual)
    reason = _why_left(norm, operands)
    if reason is not None:
        _left(reason)
        return None
    window = None
    if type(product) is nn.Conv2d:
        padding = (0, 0) if product.padding == "valid" else product.padding
        window = Window(product.stride, padding, product.dilation, product.groups)
    settings = Settings(norm.eps, within or activation, window)
    if torch.compiler.is_compiling():
        return operators.taken(norm, operands, settings)
    try:
        return _eager(norm, operands, settings)
    except (TypeError, ValueError) as error:  # raised before anything is written
        _left(str(error).split(" is ")[0])  # function and argument
        return None


def _eager(norm: Any, operands: Operands, settings: Settings) -> Tensor:
    by_batch = norm.training or norm.running_mean is None
    arrays = Operands(*map(array_of, operands))
    given = None if by_batch else (array_of(norm.running_mean), array_of(norm.running_var))
    differentiated = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in operands
    )
    if given is not None and not differentiated:
        y = torch.from_numpy(calls.inference(arrays, given, settings))
        counts.taken["inference"] += 1
        return y
    values, context = calls.forward(arrays, given, settings)
    counts.taken["forward"] += 1
    if norm.training and norm.running_mean is not None:
        _update_running_statistics(norm, context)
    y = torch.from_numpy(values)
    return differentiable(operands, Result(y, context, settings)) if differentiated else y


def _update_running_statistics(norm: Any, context: Any) -> None:
    """As PyTorch does it: the variance over m - 1, the cumulative mean where momentum is None."""
    momentum = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if momentum is None:
            momentum = 1.0 / float(norm.num_batches_tracked)
    momentum = momentum or 0.0
    unbiased = context.var * (context.count / (context.count - 1))
    for buffer, found in ((norm.running_mean, context.mean), (norm.running_var, unbiased)):
        array: Any = array_of(buffer)
        array += momentum * (found - array)


def _left(reason: str) -> None:
    """Count a call that is PyTorch's."""
    if not torch.compiler.is_compiling():
        counts.left[reason] += 1


def _why_left(norm: Any, operands: Operands) -> str | None:
    """Why nbnorm cannot take these tensors; None where it can."""
    x, weight = operands.x, operands.weight
    if x.dim() not in (RANKS.get(type(norm), (4,)) if weight is None else (weight.dim(),)):
        return "another number of axes"
    if x.dtype not in FLOATS:
        return f"{x.dtype}".removeprefix("torch.")
    for tensor in (*operands, norm.running_mean, norm.running_var):
        if tensor is None:
            continue
        if type(tensor) not in (Tensor, nn.Parameter):
            return "a subclass of Tensor"
        if tensor.device.type != "cpu":
            return f"device {tensor.device.type}"
        if tensor.layout is not torch.strided or tensor.dtype is not x.dtype:
            return "operands of several types"
    if (norm.running_mean is None) is not (norm.running_var is None):
        return "half of the running statistics"
    if x.numel() == 0:
        return "an empty batch"
    if torch.is_autocast_enabled("cpu"):
        return "autocast"
    if torch.jit.is_tracing() or torch.compiler.is_exporting():
        return "tracing"
    # The transforms of torch.func and forward-mode derivatives need rules of their own.
    if torch._C._are_functorch_transforms_active() or _in_forward_mode():  # noqa: SLF001
        return "a transform of torch.func"
    return None


def _in_forward_mode() -> bool:
    return torch.autograd.forward_ad._current_level >= 0  # noqa: SLF001
