"""As many threads as PyTorch: OMP_NUM_THREADS, torch.set_num_threads and loaders hold for both."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from nbnorm.jit.threads import preferring

Given = ParamSpec("Given")
Found = TypeVar("Found")


def on_pytorchs_threads(function: Callable[Given, Found]) -> Callable[Given, Found]:
    """The function, with kernels on as many threads as PyTorch has where it is called."""

    @functools.wraps(function)
    def call(*arguments: Given.args, **options: Given.kwargs) -> Found:
        with preferring(torch.get_num_threads()):
            return function(*arguments, **options)

    return call
