"""The fused operations composed of PyTorch's.

For calls that nbnorm does not take, and for second derivatives.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nbnorm.functional.arguments import Activation
from nbnorm.interop.torch.activations import activated
from nbnorm.interop.torch.calls import Operands, Settings


def by_modules(
    norm: nn.Module,
    x: Tensor,
    product: nn.Module | None,
    residual: Tensor | None,
    activation: nn.Module | Activation,
) -> Tensor:
    """The modules one after the other, hooks and all: what the model said before."""
    y: Tensor = norm(x if product is None else product(x))
    if residual is not None:
        y = y + residual
    return activation(y) if isinstance(activation, nn.Module) else activated(activation, y)


def gradients(
    dy: Tensor,
    operands: Operands,
    needs: tuple[bool, ...],
    statistics: tuple[Tensor, Tensor] | None,
    settings: Settings,
) -> list[Tensor | None]:
    """The gradient of each operand as a differentiable function of all of them and of dy.

    The forward is made anew of elementary operations, and autograd differentiates those; so
    derivatives of any order are right. (That of PyTorch's own batch norm takes the statistics it
    saved for constants from the third order on.) In float64, as second derivatives cancel a lot.
    """
    with torch.enable_grad():
        # A tensor may be two operands, and each is to have its own gradient.
        own = Operands(*(None if t is None else t.view_as(t) for t in operands))
        wanted = [t for t, needed in zip(own, needs, strict=True) if needed]
        y = _elementary(own, statistics, settings)
        found = iter(torch.autograd.grad(y, wanted, dy, create_graph=True, allow_unused=True))
    return [next(found) if needed else None for needed in needs]


def _elementary(
    operands: Operands, statistics: tuple[Tensor, Tensor] | None, settings: Settings
) -> Tensor:
    x, weight, bias, gamma, beta, residual = Operands(
        *(None if t is None else t.double() for t in operands)
    )
    z = x
    if settings.window is not None:
        z = F.conv2d(x, weight, bias, **settings.window._asdict())
    elif weight is not None:
        z = F.linear(x, weight, bias)
    axes = [axis for axis in range(z.dim()) if axis != 1]

    def across(channels: Any) -> Any:
        return channels.reshape(-1, *[1] * (z.dim() - 2))

    if statistics is None:
        mean = z.mean(axes)
        var = (z - across(mean)).square().mean(axes)
    else:
        mean, var = statistics
    y = (z - across(mean)) * across((var + settings.eps).rsqrt())
    if gamma is not None:
        y = y * across(gamma)
    if beta is not None:
        y = y + across(beta)
    if residual is not None:
        y = y + residual
    return activated(settings.activation, y).to(operands.x.dtype)
