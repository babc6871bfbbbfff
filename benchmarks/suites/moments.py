"""The asv suite of `Moments.of`: beside reading the array once, and beside NumPy's mean and var.

As in batch_norm.py, the `track_` benchmarks are the ones to compare between commits.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from nbnorm.typing import Array

from .calls import Run
from .ratio import on_one_thread, ratio

# Shape and kept axis.
SHAPES = {
    "1000000x64": ((1_000_000, 64), 1),
    "32x64x112x112": ((32, 64, 112, 112), 1),
    "1000x100x100, axis 0": ((1000, 100, 100), 0),
    "32x256x14x14": ((32, 256, 14, 14), 1),
}
TYPES = ["float32", "float64"]

BLOCK = 1 << 16  # values that a thread takes at a time
CHUNKS = 16  # of a Dask array, along its first axis


def drawn(shape: str, dtype: str) -> tuple[Array, int]:
    """An array, and its axis."""
    sizes, axis = SHAPES[shape]
    return np.random.default_rng(0).standard_normal(sizes, dtype), axis


def reading(x: Array) -> Run:
    """Reads an array once, in order, on all of Numba's threads."""
    flat, found = x.reshape(-1), np.empty(-(-x.size // BLOCK))

    def run() -> None:
        _read(flat, found)

    run()
    return run


def numpys(x: Array, axis: int) -> Run:
    """NumPy's mean and variance."""
    others = tuple(a for a in range(x.ndim) if a != axis)
    return lambda: (np.mean(x, axis=others), np.var(x, axis=others))


def dasks(x: Array, axis: int) -> tuple[Run, Run]:
    """The moments of a Dask array on its threads, and its own mean and variance, taken together."""
    import dask
    import dask.array as da

    from nbnorm.interop.dask import moments

    others = tuple(a for a in range(x.ndim) if a != axis)
    chunked: Any = da.from_array(x, chunks=(-(-len(x) // CHUNKS), *x.shape[1:]))
    found, both = moments(chunked, axis=axis), (chunked.mean(axis=others), chunked.var(axis=others))
    return (
        lambda: found.compute(scheduler="threads"),
        lambda: dask.compute(*both, scheduler="threads"),
    )


def nbnorms(x: Array, axis: int) -> Run:
    """`Moments.of`, and the mean and variance that they hold."""
    from nbnorm import Moments

    def run() -> tuple[Array, Array]:
        moments = Moments.of(x, axis=axis)
        return moments.mean, moments.var()

    run()
    return run


@numba.njit(parallel=True, cache=True)
def _read(x, found):  # type: ignore[no-untyped-def]  # pragma: no cover
    for block in numba.prange(len(found)):
        found[block] = _sum(x[block * BLOCK : (block + 1) * BLOCK])


# In any order: else one chain of additions would be what is measured. By index: a loop over the
# values themselves is not vectorized.
@numba.njit(fastmath={"reassoc", "nsz"}, cache=True)
def _sum(values):  # type: ignore[no-untyped-def]  # pragma: no cover
    total = values[0]
    for i in range(1, len(values)):
        total += values[i]
    return total


class Function:
    """Times of single calls."""

    params = (list(SHAPES), TYPES)
    param_names = ("shape", "type")

    def setup(self, shape: str, dtype: str) -> None:
        self.call = nbnorms(*drawn(shape, dtype))

    def time_of(self, shape: str, dtype: str) -> None:
        self.call()


class Ratio:
    """Times over those of a read, and NumPy's over those."""

    params = (list(SHAPES), TYPES)
    param_names = ("shape", "type")
    unit = "times"

    def setup(self, shape: str, dtype: str) -> None:
        on_one_thread()
        x, axis = drawn(shape, dtype)
        self.call, self.read, self.numpy = nbnorms(x, axis), reading(x), numpys(x, axis)

    def track_of_over_read(self, shape: str, dtype: str) -> float:
        return ratio(self.call, self.read)

    def track_numpy_over_of(self, shape: str, dtype: str) -> float:
        return ratio(self.numpy, self.call)


class Dask:
    """The time of Dask's mean and var over that of `nbnorm.interop.dask.moments`."""

    params = (list(SHAPES), TYPES)
    param_names = ("shape", "type")
    unit = "times"

    def setup(self, shape: str, dtype: str) -> None:
        try:
            self.call, self.dask = dasks(*drawn(shape, dtype))
        except ImportError:
            raise NotImplementedError("dask is not installed") from None

    def track_dask_over_moments(self, shape: str, dtype: str) -> float:
        return ratio(self.dask, self.call)
