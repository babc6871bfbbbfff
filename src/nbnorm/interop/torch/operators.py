"""The fused operations as operators of PyTorch, which is what torch.compile puts into its graphs.

An operator's outputs have to be known without running it. So a dense layer is computed here as a
product and a batch norm, z between them: whether the one product that needs no z is exact enough
shows only in the data.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nbnorm.functional.arguments import resolve_activation
from nbnorm.functional.batch_norm import batch_norm_forward
from nbnorm.functional.contexts import BatchNormContext
from nbnorm.functional.conv2d_batch_norm import (
    Conv2dBatchNormContext,
    Options,
    conv2d_batch_norm_forward,
)
from nbnorm.functional.dense import dense_forward
from nbnorm.functional.dense_batch_norm import DenseBatchNormContext
from nbnorm.interop.torch import calls, composed
from nbnorm.interop.torch.arrays import array_of, laid_out, memory_format
from nbnorm.interop.torch.calls import GRADIENTS, Operands, Settings, Window
from nbnorm.interop.torch.threads import on_pytorchs_threads
from nbnorm.launch.batch_norm import Normalization
from nbnorm.launch.layout import layout_of

_OPERANDS = "Tensor x, Tensor? weight, Tensor? bias, Tensor? gamma, Tensor? beta, Tensor? residual"
_SETTINGS = "float eps, str? activation, float? parameter, int[] window"

# PyTorch keeps compiled graphs on disk and knows an operator there by its name and arguments alone:
# one whose outputs change their meaning or shape needs another name.
_library = torch.library.Library("nbnorm", "DEF")
_library.define(
    f"batch_norm_forward({_OPERANDS}, Tensor? mean, Tensor? var, {_SETTINGS})"
    " -> (Tensor y, Tensor statistics, Tensor z)"
)
_library.define(
    f"batch_norm_backward(Tensor dy, {_OPERANDS}, Tensor statistics, Tensor z, bool frozen,"
    f" {_SETTINGS}, bool[] needs) -> Tensor[]"
)


def taken(norm: Any, operands: Operands, settings: Settings) -> Tensor | None:
    """What `torch.compile` traces for a norm of a converted model; None where it cannot."""
    window = settings.window
    if window is not None and window.padding == "same":
        reach = [
            d * (k - 1) for d, k in zip(window.dilation, operands.weight.shape[2:], strict=True)
        ]
        if any(length % 2 for length in reach):
            return None
        window = window._replace(padding=(reach[0] // 2, reach[1] // 2))
        settings = settings._replace(window=window)
    if memory_format(operands.x) is None:
        operands = operands._replace(x=operands.x.contiguous())
    shape = _shape(operands, window)
    by_batch = norm.training or norm.running_mean is None
    residual = operands.residual
    if (residual is not None and residual.shape != shape) or _disagree(operands, norm):
        return None
    count = shape.numel() // shape[1]
    if by_batch and count < 2:
        return None
    given = (None, None) if by_batch else (norm.running_mean, norm.running_var)
    y, statistics, _ = torch.ops.nbnorm.batch_norm_forward(*operands, *given, *_plain(settings))
    if norm.training and norm.running_mean is not None:
        _update_running_statistics(norm, statistics, count / (count - 1))
    found: Tensor = y
    return found


def _disagree(operands: Operands, norm: Any) -> bool:
    """Whether channels do not fit together: PyTorch has the words for that."""
    x, weight, bias, gamma, beta, _ = operands
    k = x.shape[1] if weight is None else weight.shape[0]
    vectors = (bias, gamma, beta, norm.running_mean, norm.running_var)
    return any(vector is not None and vector.shape != (k,) for vector in vectors)


def _update_running_statistics(norm: Any, statistics: Tensor, correction: Any) -> None:
    momentum = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if momentum is None:
            momentum = 1.0 / norm.num_batches_tracked.double()
    elif momentum is None:
        momentum = 0.0
    for buffer, found in (
        (norm.running_mean, statistics[0]),
        (norm.running_var, statistics[1] * correction),
    ):
        buffer.copy_(buffer + momentum * (found - buffer))


# --- forward --------------------------------------------------------------------------------


@on_pytorchs_threads
def _forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """y, the (4, k) statistics in float64, and the product z that was normalized, if any."""
    operands, (mean, var), settings = _of_forward(arguments)
    y, statistics, z = _empty(*arguments)
    x, weight, bias, gamma, beta, residual = map(array_of, operands)
    common: dict[str, Any] = {
        "statistics": None if mean is None else (array_of(mean), array_of(var)),
        "eps": settings.eps, "activation": settings.activation,
        "residual": residual, "out": array_of(y),
    }  # fmt: skip
    if weight is None:
        _, context = batch_norm_forward(x, gamma, beta, **common)
    elif settings.window is None:
        dense_forward(x, weight, bias, out=array_of(z))
        _, context = batch_norm_forward(array_of(z), gamma, beta, **common)
    else:
        _, fused = conv2d_batch_norm_forward(
            x, weight, gamma, beta, bias=bias, **settings.window._asdict(), **common
        )
        context, z = fused.normalization, torch.from_numpy(fused.normalization.x)
    statistics.copy_(torch.from_numpy(context.statistics))
    return y, statistics, z


def _empty(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The outputs before they are written: all that torch.compile needs to know of them."""
    operands, _, settings = _of_forward(arguments)
    x = operands.x
    shape = _shape(operands, settings.window)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format(x))
    statistics = x.new_empty((4, shape[1]), dtype=torch.float64)
    return y, statistics, x.new_empty(0) if operands.weight is None else torch.empty_like(y)


def _shape(operands: Operands, window: Window | None) -> torch.Size:
    """The shape of y."""
    x, weight = operands.x, operands.weight
    if weight is None:
        return x.shape
    if window is None:
        return torch.Size((*x.shape[:-1], weight.shape[0]))
    padding: Any = window.padding  # never "same" here
    sizes = zip(x.shape[2:], weight.shape[2:], window.stride, padding, window.dilation, strict=True)
    positions = [(h + 2 * p - d * (r - 1) - 1) // s + 1 for h, r, s, p, d in sizes]
    return torch.Size((x.shape[0], weight.shape[0], *positions))


# --- backward -------------------------------------------------------------------------------


def _backward(dy: Tensor, *arguments: Any) -> list[Tensor]:
    """The gradients that `needs` names, in the operands' order."""
    operands = Operands(*arguments[:6])
    statistics, z, frozen = arguments[6:9]
    settings, needs = _settings(*arguments[9:13]), arguments[13]
    x, weight, bias, gamma, beta, residual = map(array_of, operands)
    normalized = operands.x if weight is None else z
    values = normalized.numpy()
    normalization = BatchNormContext.of(
        values,
        layout_of(values.shape, values.strides, (1,)),
        Normalization(
            gamma, beta, (statistics[0].numpy(), statistics[1].numpy()) if frozen else None,
            settings.eps, 0, resolve_activation("batch_norm_backward", settings.activation),
            residual,
        ),
        statistics.numpy(),
        values.size // values.shape[1],
    )  # fmt: skip
    context: Any = normalization
    if settings.window is not None:
        options = Options(*settings.window, axis=1, algorithm="auto")
        context = Conv2dBatchNormContext(x, weight, bias, normalization, options)
    elif weight is not None:
        context = DenseBatchNormContext(x, weight, bias, normalization, None)
    names = [name for name, needed in zip(GRADIENTS, needs, strict=True) if needed]
    found = calls.backward(laid_out(dy, normalized.stride()).numpy(), context, settings, names)
    places = _empty_gradients(dy, *arguments)
    for place, gradient in zip(places, [g for g in found if g is not None], strict=True):
        place.copy_(torch.from_numpy(gradient))
    return places


def _empty_gradients(_: Tensor, *arguments: Any) -> list[Tensor]:
    pairs = zip(arguments[:6], arguments[-1], strict=True)
    return [torch.empty_like(operand) for operand, needed in pairs if needed]


# --- autograd -------------------------------------------------------------------------------


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, statistics, z = output
    ctx.mark_non_differentiable(statistics, z)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:6], statistics, z)
    ctx.frozen, ctx.settings = inputs[6] is not None, inputs[8:]


def _differentiate(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    nothing = (None,) * (2 + len(ctx.settings))  # for the running statistics and the settings
    if dy is None:
        return (None,) * 6 + nothing
    *operands, statistics, z = ctx.saved_tensors
    needs = ctx.needs_input_grad[:6]
    if torch.is_grad_enabled():
        given = (statistics[0], statistics[1]) if ctx.frozen else None
        found = composed.gradients(dy, Operands(*operands), needs, given, _settings(*ctx.settings))
        return *found, *nothing
    gradients = iter(
        torch.ops.nbnorm.batch_norm_backward(
            dy, *operands, statistics, z, ctx.frozen, *ctx.settings, list(needs)
        )
    )
    return *(next(gradients) if needed else None for needed in needs), *nothing


# --- settings, as an operator's schema can name them ----------------------------------------


def _plain(settings: Settings) -> tuple[float, str | None, float | None, list[int]]:
    eps, activation, window = settings
    name, parameter = activation if isinstance(activation, tuple) else (activation, None)
    if window is None:
        return eps, name, parameter, []
    return eps, name, parameter, [
        *window.stride, *window.padding, *window.dilation, window.groups,
    ]  # fmt: skip


def _settings(
    eps: float, activation: str | None, parameter: float | None, window: list[int]
) -> Settings:
    """The settings that `_plain` made plain."""
    given: Any = activation if parameter is None else (activation, parameter)
    if not window:
        return Settings(eps, given, None)
    pairs = [(window[i], window[i + 1]) for i in (0, 2, 4)]
    return Settings(eps, given, Window(pairs[0], pairs[1], pairs[2], window[6]))


def _of_forward(arguments: tuple[Any, ...]) -> tuple[Operands, tuple[Any, Any], Settings]:
    return Operands(*arguments[:6]), (arguments[6], arguments[7]), _settings(*arguments[8:])


# --- registration ---------------------------------------------------------------------------

_library.impl("batch_norm_forward", _forward, "CPU")
_library.impl("batch_norm_backward", _backward, "CPU")
torch.library.register_fake("nbnorm::batch_norm_forward", _empty, lib=_library)
torch.library.register_fake("nbnorm::batch_norm_backward", _empty_gradients, lib=_library)
torch.library.register_autograd(
    "nbnorm::batch_norm_forward", _differentiate, setup_context=_save, lib=_library
)
