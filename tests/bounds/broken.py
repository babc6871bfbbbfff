"""Kernels with the mistakes that the harness is there to find."""

from __future__ import annotations

from typing import Any

from nbnorm.jit.options import worker
from nbnorm.jit.simd import lanes, load, store
from nbnorm.kernels.batch_norm import normalize

NAMES = ("tail", "head")


@worker
def _whole_vectors_only(lo, hi, y, x, residual, constants, activation, stream, size, shape):
    """The last vector is stored whole, beyond the end of y."""
    for i in range(0, y.size, lanes(y)):
        store(y, i, load(x, min(i, max(0, x.size - lanes(x)))))


@worker
def _whole_vectors_backwards(lo, hi, y, x, residual, constants, activation, stream, size, shape):
    """The first vector is loaded whole, from before the beginning of x."""
    for i in range(x.size - lanes(x), -lanes(x), -lanes(x)):
        store(y, max(0, i), load(x, i))


def instead_of(kernel: Any, name: str) -> Any:
    """The broken kernel where it has a place, else the kernel."""
    if kernel is not normalize.normalize_planes:
        return kernel
    return _whole_vectors_only if name == "tail" else _whole_vectors_backwards
