"""Memory: of results, and of what kernels need while they run."""

from __future__ import annotations

import math
import sys
import threading
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from nbnorm.forks import hold_while_forking
from nbnorm.typing import Array

ALIGNMENT = 64
_ALIGNED_FROM = 4096  # elements; a smaller array gains less than the alignment costs
_KEPT_BYTES = 64 << 20


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """A new array, on a 64-byte boundary if it is large: what streaming stores need."""
    count = math.prod(shape)
    if count < _ALIGNED_FROM:
        return np.empty(shape, dtype)
    itemsize = np.dtype(dtype).itemsize
    nbytes = count * itemsize
    if nbytes >= RECYCLED_FROM:
        memory = recycled.take(nbytes + ALIGNMENT)
    else:
        memory = np.empty(nbytes + ALIGNMENT, np.uint8)
    skipped = -address(memory) % ALIGNMENT
    return memory[skipped : skipped + nbytes].view(dtype).reshape(shape)


class Recycled:
    """Memory of large results that their users have dropped, kept for the next large result.

    The C library gives large pieces of memory back to the system, and a new array then costs more
    in page faults than any kernel here: batch norm of 100 MB took 8.6 ms into a new array and 4.1
    ms into a used one. A training loop drops its results in every step, so they are used again.
    At most `limit` bytes are kept.

    An array's memory comes back when the array and all its views are gone: they hold, as their
    base, a `_Lease` that hands it back when it dies.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._free: dict[int, Array] = {}  # by identity, the oldest first
        # Reentrant, and so are the methods: wherever Python runs, a finalizer or the handler of a
        # signal may take and give back too, on this very thread.
        self._lock = hold_while_forking(threading.RLock())

    def take(self, nbytes: int) -> Array:
        """An array of bytes of any content, as long as asked for."""
        with self._lock:
            for key in reversed(list(self._free)):  # the last one used is still in cache
                memory = self._free.get(key)
                if memory is not None and nbytes <= memory.nbytes <= nbytes + nbytes // 8:
                    memory = self._free.pop(key, None)
                    if memory is not None and memory.nbytes >= nbytes:
                        return _Lease(memory, self).array()[:nbytes]
        return _Lease(np.empty(nbytes, np.uint8), self).array()

    def give_back(self, memory: Array) -> None:
        """Keeps memory that nobody holds any more, dropping the oldest beyond the limit."""
        with self._lock:
            self._free[id(memory)] = memory
            while sum(kept.nbytes for kept in list(self._free.values())) > self.limit:
                self._free.pop(next(iter(self._free)), None)

    def clear(self) -> int:
        """Gives all kept memory back to the system, and returns its bytes."""
        with self._lock:
            released = sum(kept.nbytes for kept in list(self._free.values()))
            self._free.clear()
        return released


class _Lease:
    """The base of an array over recycled memory."""

    def __init__(self, memory: Array, owner: Recycled) -> None:
        self._memory = memory
        self._owner = owner
        self.__array_interface__ = memory.__array_interface__

    def array(self) -> Array:
        return np.asarray(self)

    def __del__(self) -> None:
        self._owner.give_back(self._memory)


RECYCLED_FROM = 1 << 20

recycled = Recycled(limit=512 << 20)


def address(array: Array) -> int:
    """Where an array's first element lies."""
    return int(array.__array_interface__["data"][0])


def _idle_references() -> int:
    """References to an array that only `Scratch` keeps, as `Scratch.take` counts them."""
    kept = {0: np.empty(0)}
    found = kept.get(0)
    return sys.getrefcount(found)


_IDLE = _idle_references()


class Scratch(threading.local):
    """Arrays lent to one call at a time, kept for the thread's next call with the same shapes.

    Each thread has its own, so calls from several threads do not meet. A call within a call, from
    the handler of a signal or a finalizer, finds in use what the outer one holds, and gets another
    array: whoever takes an array must hold it itself, not a view alone. A call that needs two
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
        elif sys.getrefcount(found) > _IDLE:
            return empty(shape, dtype)
        return found


scratch = Scratch()
