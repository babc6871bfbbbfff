"""Memory that kernels need while they run."""

from __future__ import annotations

import math
import threading
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array: TypeAlias = NDArray[Any]

ALIGNMENT = 64
_ALIGNED_FROM = 4096  # elements; a smaller array gains less than the alignment costs
_KEPT_BYTES = 64 << 20


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """A new array, on a 64-byte boundary if it is large: what streaming stores need."""
    count = math.prod(shape)
    if count < _ALIGNED_FROM:
        return np.empty(shape, dtype)
    itemsize = np.dtype(dtype).itemsize
    memory = np.empty(count + ALIGNMENT // itemsize, dtype)
    skipped = -address(memory) % ALIGNMENT // itemsize
    return memory[skipped : skipped + count].reshape(shape)


def address(array: Array) -> int:
    """Where an array's first element lies."""
    return int(array.__array_interface__["data"][0])


class Scratch(threading.local):
    """Arrays lent to one call at a time, kept for the thread's next call with the same shapes.

    Each thread has its own, so calls from several threads do not meet; a call that needs two
    arrays of one shape names them apart.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, tuple[int, ...], Any], Array] = {}
        self._bytes = 0

    def take(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array of any content, the caller's until its public function returns."""
        key = (name, shape, dtype)
        found = self._kept.get(key)
        if found is None:
            found = empty(shape, dtype)
            if self._bytes + found.nbytes > _KEPT_BYTES:
                self._kept.clear()
                self._bytes = 0
            self._kept[key] = found
            self._bytes += found.nbytes
        return found


scratch = Scratch()
