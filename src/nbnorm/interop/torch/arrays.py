"""Tensors as arrays over the same memory, and the memory orders that both libraries know."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nbnorm.typing import Array

FLOATS = (torch.float32, torch.float64)


def array_of(tensor: Tensor | None) -> Any:
    """The tensor's own memory as an array; None for None."""
    return None if tensor is None else tensor.detach().numpy()


def tensor_of(array: Array | None) -> Tensor | None:
    """The array's own memory as a tensor; None for None."""
    return None if array is None else torch.from_numpy(array)


def memory_format(tensor: Tensor) -> torch.memory_format | None:
    """How PyTorch calls the order of the elements: channels second or last; None for any other."""
    if tensor.is_contiguous():
        return torch.contiguous_format
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    if tensor.dim() == 5 and tensor.is_contiguous(memory_format=torch.channels_last_3d):
        return torch.channels_last_3d
    return None


def laid_out(tensor: Tensor, strides: tuple[int, ...]) -> Tensor:
    """The tensor in another memory order, of dense strides; itself where it has that already.

    PyTorch turns a tensor on all threads, NumPy would on one.
    """
    if tensor.stride() == strides:
        return tensor
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype).copy_(tensor)
