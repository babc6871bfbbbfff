"""One signature for nbnorm's three fused operations: a batch norm, alone or behind a product.

The operands are always the same six, and weight tells which operation it is: none is a batch norm,
two axes a dense layer before it, four a convolution.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from nbnorm.functional.arguments import Activation
from nbnorm.functional.batch_norm import (
    batch_norm_backward,
    batch_norm_forward,
    batch_norm_inference,
)
from nbnorm.functional.conv2d_batch_norm import (
    conv2d_batch_norm_backward,
    conv2d_batch_norm_forward,
    conv2d_batch_norm_inference,
)
from nbnorm.functional.dense_batch_norm import (
    dense_batch_norm_backward,
    dense_batch_norm_forward,
    dense_batch_norm_inference,
)
from nbnorm.interop.torch.threads import on_pytorchs_threads
from nbnorm.typing import Array

GRADIENTS = ("dx", "dweight", "dbias", "dgamma", "dbeta", "dresidual")


class Operands(NamedTuple):
    """What gradients flow to: arrays or tensors, those from weight on optional."""

    x: Any
    weight: Any = None
    bias: Any = None
    gamma: Any = None
    beta: Any = None
    residual: Any = None


class Window(NamedTuple):
    """How a convolution's window moves."""

    stride: tuple[int, int]
    padding: tuple[int, int] | str
    dilation: tuple[int, int]
    groups: int


class Settings(NamedTuple):
    """What is no tensor; window is None where there is no convolution."""

    eps: float
    activation: Activation
    window: Window | None


@on_pytorchs_threads
def forward(
    operands: Operands, statistics: tuple[Array, Array] | None, settings: Settings
) -> tuple[Array, Any]:
    """y, and the context of the operation; by statistics of the batch where none are given."""
    x, weight, bias, gamma, beta, residual = operands
    common: dict[str, Any] = {
        "statistics": statistics, "eps": settings.eps, "activation": settings.activation,
        "residual": residual,
    }  # fmt: skip
    if weight is None:
        return batch_norm_forward(x, gamma, beta, **common)
    if settings.window is None:
        return dense_batch_norm_forward(x, weight, gamma, beta, bias=bias, **common)
    return conv2d_batch_norm_forward(
        x, weight, gamma, beta, bias=bias, **settings.window._asdict(), **common
    )


@on_pytorchs_threads
def inference(operands: Operands, statistics: tuple[Array, Array], settings: Settings) -> Array:
    """y, with nothing kept for a backward."""
    x, weight, bias, gamma, beta, residual = operands
    mean, var = statistics
    common: dict[str, Any] = {
        "eps": settings.eps, "activation": settings.activation, "residual": residual,
    }  # fmt: skip
    if weight is None:
        return batch_norm_inference(x, mean, var, gamma, beta, **common)
    if settings.window is None:
        return dense_batch_norm_inference(x, weight, mean, var, gamma, beta, bias=bias, **common)
    return conv2d_batch_norm_inference(
        x, weight, mean, var, gamma, beta, bias=bias, **settings.window._asdict(), **common
    )


@on_pytorchs_threads
def backward(dy: Array, context: Any, settings: Settings, needs: Iterable[str]) -> Operands:
    """The gradient of each operand; None where not asked for."""
    if hasattr(context, "normalization"):
        differentiate = (
            dense_batch_norm_backward if settings.window is None else conv2d_batch_norm_backward
        )
        return Operands(*differentiate(dy, context, needs=needs))
    found = batch_norm_backward(dy, context, needs=needs)
    return Operands(found.dx, None, None, found.dgamma, found.dbeta, found.dresidual)
