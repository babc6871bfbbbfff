"""Batch norm over the processes of a group, for CPU tensors: `torch.nn.SyncBatchNorm` refuses them.

Statistics, gradients and errors are those of nbnorm.distributed: exact for parts of any size, the
same bits on every rank, one gather each forward and each backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from nbnorm import checks
from nbnorm.distributed import Gathers, gloo
from nbnorm.functional.batch_norm import batch_norm_backward, batch_norm_forward
from nbnorm.interop.torch.arrays import array_of, tensor_of


class SyncBatchNorm(_BatchNorm):
    """`torch.nn.SyncBatchNorm` for CPU tensors of float32 or float64, over gloo.

    In training, or without running statistics, mean and variance are those of the batches of all
    processes, of whatever sizes, empty ones too. Gradients of weight and bias are the part's own,
    for ``DistributedDataParallel`` to average. In inference, and where there is no process group,
    it is PyTorch's batch norm. It has no second derivatives.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats
        As in ``torch.nn.SyncBatchNorm``.
    process_group : torch.distributed.ProcessGroup, optional
        The default group if not given.

    Raises
    ------
    ValueError
        The input has fewer than two axes, or the whole batch too few values.
    RuntimeError
        Another rank failed.

    Examples
    --------
    >>> import torch
    >>> from nbnorm.interop.torch import SyncBatchNorm
    >>> SyncBatchNorm(2)(torch.tensor([[1.0, 10.0], [3.0, 30.0]])).shape
    torch.Size([2, 2])
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype
        )
        self.process_group = process_group

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  PyTorch's name
        """Normalize; all processes of the group in training."""
        self._check_input_dim(input)
        by_batch = self.training or self.running_mean is None
        if not by_batch or not torch.distributed.is_initialized():
            return super().forward(input)
        gathers = Gathers("SyncBatchNorm", gloo(self.process_group), (self.num_features,))
        found: list[Any] = []
        y: Tensor = _Synchronized.apply(input, self.weight, self.bias, self.eps, gathers, found)
        if self.training and self.running_mean is not None:
            self._track(*found)
        return y

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002
        if input.dim() < 2:
            expected = "two axes or more"
            raise checks.wrong_value("SyncBatchNorm", "input", tuple(input.shape), expected)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _track(self, context: Any) -> None:
        """Move the running statistics toward those of the whole batch."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum
        if share is None:
            share = 1 / int(self.num_batches_tracked)
        unbiased = context.var * (context.count / (context.count - 1))
        for buffer, batch in ((self.running_mean, context.mean), (self.running_var, unbiased)):
            buffer.copy_((1 - share) * buffer + share * torch.from_numpy(batch))


class _Synchronized(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        gathers: Gathers,
        found: list[Any],
    ) -> Tensor:
        arrays = array_of(x), array_of(weight), array_of(bias)
        y, context = gathers.forward(
            lambda whole: batch_norm_forward(*arrays, moments=whole, eps=eps)
        )
        found.append(context)
        # Saved by autograd, a change in place of an input is noticed.
        ctx.save_for_backward(x, weight, bias)
        without: Any = {"x": None, "gamma": None, "beta": None}
        ctx.context, ctx.gathers = context._replace(**without), gathers
        result: Any = tensor_of(y)
        return result

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, gamma, beta = map(array_of, ctx.saved_tensors)
        context = ctx.context._replace(x=x, gamma=gamma, beta=beta)
        gradients = ctx.gathers.backward(
            lambda whole: batch_norm_backward(array_of(dy), context, sums=whole)
        )
        dx, dgamma, dbeta, _ = map(tensor_of, gradients)
        return dx, dgamma, dbeta, None, None, None


def convert_sync_batchnorm(module: nn.Module, process_group: Any = None) -> nn.Module:
    """Replace every batch norm in a model by a `SyncBatchNorm`, as PyTorch's own function does.

    Parameters
    ----------
    module : torch.nn.Module
        A batch norm, or what has some: ``BatchNorm1d``, ``2d`` and ``3d``, and PyTorch's
        ``SyncBatchNorm``. Parameters and buffers are taken over as they are.
    process_group : torch.distributed.ProcessGroup, optional
        The default group if not given.

    Returns
    -------
    torch.nn.Module
        The module itself, or if it is a batch norm another in its place.

    Raises
    ------
    TypeError
        module is no module.

    Examples
    --------
    >>> import torch
    >>> from nbnorm.interop.torch import convert_sync_batchnorm
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    >>> [type(layer).__name__ for layer in convert_sync_batchnorm(net)]
    ['Linear', 'SyncBatchNorm']
    """
    if not isinstance(module, nn.Module):
        raise checks.wrong_type("convert_sync_batchnorm", "module", module, "a torch.nn.Module")
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)):
        converted = SyncBatchNorm(
            module.num_features, module.eps, module.momentum, module.affine,
            module.track_running_stats, process_group,
        )  # fmt: skip
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            setattr(converted, name, getattr(module, name))
        return converted.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, convert_sync_batchnorm(child, process_group))
    return module
