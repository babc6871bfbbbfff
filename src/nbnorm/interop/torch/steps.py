"""PyTorch's own forward, backward and inference of an operation of the table, to be timed beside.

`nbnorm compare` does that. Nothing of nbnorm runs here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional

from nbnorm.typing import Array

Call = Callable[[], object]


def steps(operation: str, given: Mapping[str, Any], threads: int) -> tuple[Call, Call]:
    """A training step, and an inference, of arguments as nbnorm's functions take them."""
    torch.set_num_threads(threads)
    last = given.get("axis") == -1 and given["x"].ndim > 2
    x, dy = (_images(given[name], last) for name in ("x", "dy"))
    gamma, beta, mean, var = (torch.from_numpy(given[n]) for n in ("gamma", "beta", "mean", "var"))
    leaves = [x.clone(), gamma.clone(), beta.clone()]
    if weight := _weight(given, last):
        leaves += weight
    trained = [leaf.requires_grad_() for leaf in leaves]

    def layer(x: Any, gamma: Any, beta: Any, *weight: Any, training: bool) -> Any:
        if operation == "dense_batch_norm":
            x = functional.linear(x, *weight)
        elif operation == "conv2d_batch_norm":
            x = functional.conv2d(x, *weight, padding=given["padding"])
        y = functional.batch_norm(
            x, None if training else mean, None if training else var, gamma, beta, training
        )
        return functional.relu(y) if given.get("activation") == "relu" else y

    def train() -> object:
        return torch.autograd.grad(layer(*trained, training=True), trained, dy)

    def infer() -> object:
        with torch.inference_mode():
            return layer(x, gamma, beta, *weight, training=False)

    return train, infer


def _images(array: Array, last: bool) -> Any:
    """A tensor of the same memory, its axes in PyTorch's order."""
    tensor = torch.from_numpy(array)
    return tensor.movedim(-1, 1) if last else tensor


def _weight(given: Mapping[str, Any], last: bool) -> list[Any]:
    if "weight" not in given:
        return []
    weight = torch.from_numpy(given["weight"])
    return [weight.to(memory_format=torch.channels_last) if last else weight]
