"""The door that leaves the model alone: PyTorch's own batch norm operators run on nbnorm.

`torch.nn.functional.batch_norm`, and with it every BatchNorm and InstanceNorm, reaches the CPU as
`aten::native_batch_norm` and its backward. Kernels for these two operators are registered here in
the place of PyTorch's, which are kept for what is not taken. Autograd sees the same operators as
before, so that the double backward stays PyTorch's formula.
"""

from __future__ import annotations

import contextlib
import math
import threading
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nbnorm.functional.batch_norm import (
    batch_norm_backward,
    batch_norm_forward,
    batch_norm_inference,
)
from nbnorm.functional.contexts import BatchNormContext
from nbnorm.interop.torch.arrays import FLOATS, array_of, laid_out, memory_format, tensor_of
from nbnorm.interop.torch.counts import counts
from nbnorm.interop.torch.threads import on_pytorchs_threads
from nbnorm.launch.batch_norm import Normalization
from nbnorm.launch.layout import layout_of
from nbnorm.typing import Array

_FORWARD, _BACKWARD = "native_batch_norm", "native_batch_norm_backward"
_CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)  # noqa: SLF001  call_boxed asks for one


class Status(NamedTuple):
    """What `status` tells.

    enabled   whether PyTorch's batch norm runs on nbnorm
    taken     calls that nbnorm served since the process began, those of converted models included
    left      calls that it left to PyTorch, by the reason
    """

    enabled: bool
    taken: dict[str, int]
    left: dict[str, int]


class _Override:
    """The registration, as long as there is one."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.library: Any = None
        self.instance_norm = True
        self.pytorch: dict[str, Any] = {}  # PyTorch's kernels

    def register(self) -> None:
        library = torch.library.Library("aten", "IMPL")
        for name, kernel in ((_FORWARD, _forward), (_BACKWARD, _backward)):
            self.pytorch.setdefault(name, torch.library.get_kernel(f"aten::{name}", "CPU"))
            with warnings.catch_warnings():
                # That an operator's kernel is replaced is what was asked for.
                warnings.filterwarnings(
                    "ignore", message="(?s).*Overriding a previously registered"
                )
                library.impl(name, kernel, "CPU")
        self.library = library

    def remove(self) -> None:
        self.library = None  # PyTorch takes the kernels back with the last reference

    def leave(self, name: str, reason: str, *arguments: Any) -> Any:
        """Have PyTorch's kernel do it."""
        counts.left[reason] += 1
        return self.pytorch[name].call_boxed(_CPU, *arguments)


_override = _Override()


# --- switching ------------------------------------------------------------------------------


def enable(*, instance_norm: bool = True) -> None:
    """Have every batch norm of float32 and float64 CPU tensors run on nbnorm.

    Models need no change and results keep their meaning: `torch.nn.functional.batch_norm` and all
    that calls it, in training and evaluation, forward and backward. What nbnorm does not take
    stays PyTorch's: `status` counts it and says why.

    Parameters
    ----------
    instance_norm : bool
        Whether InstanceNorm is taken as well. It reaches PyTorch's kernel as a batch norm of one
        sample, so False leaves all batches of one to PyTorch.
    """
    with _override.lock:
        _override.instance_norm = instance_norm
        if _override.library is None:
            _override.register()


def disable() -> None:
    """Give batch norm back to PyTorch's own kernels."""
    with _override.lock:
        _override.remove()


def is_enabled() -> bool:
    """Whether PyTorch's batch norm runs on nbnorm."""
    return _override.library is not None


@contextlib.contextmanager
def enabled(*, instance_norm: bool = True) -> Iterator[None]:
    """`enable` inside a with statement; what was before is restored after it.

    It is the process that is switched, all its threads included.
    """
    before = is_enabled(), _override.instance_norm
    enable(instance_norm=instance_norm)
    try:
        yield
    finally:
        if before[0]:
            enable(instance_norm=before[1])
        else:
            disable()


def status() -> Status:
    """Whether it is enabled, the calls taken so far and those left to PyTorch, with the reason."""
    return Status(is_enabled(), dict(counts.taken), dict(counts.left))


# --- the two kernels ------------------------------------------------------------------------


@on_pytorchs_threads
def _forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, and for training the mean and inverse deviation of each channel, in x's type."""
    vectors = (weight, bias, running_mean, running_var)
    reason = _why_left(x, vectors, training, eps)
    if reason is None and not training and (running_mean is None or running_var is None):
        reason = "no running statistics"
    if reason is None and not training and bool((array_of(running_var) < 0).any()):
        reason = "a negative variance"
    if reason is not None:
        return _override.leave(
            _FORWARD, reason, x, weight, bias, running_mean, running_var, training, momentum, eps
        )
    counts.taken["forward" if training else "inference"] += 1
    gamma, beta, mean, var = map(array_of, vectors)
    values = array_of(x)
    if not training:
        y = batch_norm_inference(values, mean, var, gamma, beta, eps=eps)
        return torch.from_numpy(y), x.new_empty(0), x.new_empty(0)
    y, context = batch_norm_forward(values, gamma, beta, eps=eps)
    unbiased = context.var * (context.count / (context.count - 1))
    for buffer, found in ((mean, context.mean), (var, unbiased)):
        if buffer is not None:
            np.copyto(buffer, buffer + momentum * (found - buffer), casting="same_kind")
    return torch.from_numpy(y), _saved_mean(context, x), torch.from_numpy(context.inv_std).to(x)


@on_pytorchs_threads
def _backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    save_mean: Tensor | None,
    save_inv_std: Tensor | None,
    training: bool,
    eps: float,
    output_mask: list[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """dx, dgamma and dbeta; None where the mask says that nobody asks."""
    vectors = (weight, save_mean, save_inv_std) if training else (weight, running_mean, running_var)
    reason = _why_left(x, vectors, training, eps)
    if reason is None and (vectors[1] is None or vectors[2] is None):
        reason = "no statistics"
    if reason is None and (dy.dtype is not x.dtype or type(dy) is not Tensor):
        reason = "a gradient of another type"
    if reason is not None:
        return _override.leave(
            _BACKWARD, reason, dy, x, weight, running_mean, running_var, save_mean, save_inv_std,
            training, eps, output_mask,
        )  # fmt: skip
    counts.taken["backward"] += 1
    values, first, second = array_of(x), array_of(vectors[1]), array_of(vectors[2])
    c = values.shape[1]
    ones = np.ones(c, values.dtype)
    gamma = ones if weight is None else array_of(weight)
    given = None if training else (first, second)
    context = BatchNormContext.of(
        values,
        layout_of(values.shape, values.strides, (1,)),
        Normalization(gamma, ones, given, eps),  # beta matters only to an activation
        _statistics(save_mean, first, second) if training else _frozen(first, second, eps),
        values.size // c,
    )
    names = [n for n, m in zip(("dx", "dgamma", "dbeta"), output_mask, strict=True) if m]
    found = batch_norm_backward(array_of(laid_out(dy, x.stride())), context, needs=names)
    return tensor_of(found.dx), tensor_of(found.dgamma), tensor_of(found.dbeta)


def _why_left(
    x: Tensor, vectors: tuple[Tensor | None, ...], training: bool, eps: float
) -> str | None:
    """Why nbnorm does not take a call; None where it does."""
    if x.dtype not in FLOATS:
        return f"{x.dtype}".removeprefix("torch.")
    if x.numel() == 0:
        return "an empty batch"
    if memory_format(x) is None:
        return "strides neither contiguous nor channels-last"
    c = x.shape[1] if x.dim() > 1 else 0
    for tensor in (x, *vectors):
        if tensor is not None and type(tensor) not in (Tensor, torch.nn.Parameter):
            return "a subclass of Tensor"
    for vector in vectors:
        if vector is not None and (vector.dtype is not x.dtype or vector.shape != (c,)):
            return "parameters of another type or shape"
    if c == 0:
        return "no channels"
    if training and x.numel() == c:
        return "one value in each channel"
    if not 0.0 <= eps < math.inf:
        return "eps out of range"
    if x.shape[0] == 1 and not _override.instance_norm:
        return "a batch of one"
    return None


# --- statistics between forward and backward ------------------------------------------------

# PyTorch saves mean and inverse deviation in x's type, and a float32 mean is off by 6e-8 of itself:
# with mean / std = 1e4 that is 6e-4 of a deviation in every gradient. So the saved mean is a slice
# of a tensor that begins with the float64 statistics of a context. A saved mean that is not
# (PyTorch's own, a copy) counts as it is.


def _saved_mean(context: BatchNormContext, x: Tensor) -> Tensor:
    """The mean in x's type, with the float64 statistics in its memory."""
    if x.dtype is torch.float64:
        return torch.from_numpy(context.statistics)[0]
    statistics = torch.from_numpy(context.statistics).reshape(-1)
    c = len(statistics) // 4
    memory = torch.empty(9 * c, dtype=x.dtype)
    memory[: 8 * c].view(torch.float64).copy_(statistics)
    memory[8 * c :] = statistics[:c]
    return memory[8 * c :]


def _statistics(saved: Tensor, mean: Array, inv_std: Array) -> Array:
    """The float64 statistics of a context from what was saved."""
    c = len(mean)
    in_front, nbytes = (0, 32 * c) if saved.dtype is torch.float64 else (8 * c, 36 * c)
    storage = saved.untyped_storage()
    is_ours = saved.storage_offset() == in_front and storage.nbytes() == nbytes
    if is_ours and storage.data_ptr() % 8 == 0:
        memory = torch.empty(0, dtype=saved.dtype).set_(storage, 0, (32 * c // saved.itemsize,))
        exact = memory.view(torch.float64).reshape(4, c).numpy()
        with np.errstate(
            over="ignore"
        ):  # of a denormal deviation PyTorch saves an infinite inverse
            narrowed = exact[[0, 2]].astype(mean.dtype)
        if np.array_equal(narrowed, [mean, inv_std], equal_nan=True):
            return exact
    return _with_variance(mean, inv_std)


def _frozen(mean: Array, var: Array, eps: float) -> Array:
    """The same from running statistics."""
    with np.errstate(divide="ignore", invalid="ignore"):
        std = np.sqrt(var.astype(np.float64) + eps)
        return np.stack([mean, var, np.where(std == 0, 0.0, 1 / std), np.zeros(len(mean))])


def _with_variance(mean: Array, inv_std: Array) -> Array:
    """Gradients ask for no variance; that of a context is never read."""
    c = len(mean)
    return np.stack([mean, np.full(c, np.nan), inv_std, np.zeros(c)]).astype(np.float64)
