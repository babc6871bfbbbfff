"""Moments of Dask arrays in one pass over their chunks, and normalization chunk by chunk."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.delayed import Delayed

from nbnorm import checks
from nbnorm.functional.arguments import Activation
from nbnorm.functional.batch_norm import batch_norm_inference
from nbnorm.functional.moments import Moments
from nbnorm.typing import Array

# How many moments one task merges: they are small, and a task costs more than they do.
SPLIT_EVERY = 16


def moments(
    x: da.Array,
    axis: int | tuple[int, ...] = 1,
    sample_weight: Any = None,
    *,
    split_every: int = SPLIT_EVERY,
) -> Delayed:
    """The moments of a Dask array, in one pass over its chunks.

    Each chunk is reduced to its `Moments`, and these are merged in a tree, in the same order each
    time: results have the same bits on any scheduler and any number of workers.

    Parameters
    ----------
    x : dask array of float32 or float64, any shape of two axes or more, any chunks
    axis : int or tuple of ints
        The axis or axes that keep moments of their own; all others are reduced.
    sample_weight : array of NumPy or Dask, optional
        What each place counts: it broadcasts against x, with the kept axes at length 1.
    split_every : int, 2 or more
        How many moments one task merges.

    Returns
    -------
    Delayed
        Its ``compute()`` returns `Moments`.

    Raises
    ------
    ValueError
        axis or sample_weight does not fit, or the sizes of chunks are unknown.
    TypeError
        An argument is of the wrong type.

    Examples
    --------
    >>> import dask.array as da
    >>> from nbnorm.interop.dask import moments
    >>> x = da.arange(24.0, chunks=5).reshape(6, 2, 2)
    >>> moments(x).compute(scheduler="synchronous").mean
    array([10.5, 12.5])
    """
    function = "moments"
    axes = _checked_axes(function, x, axis)
    if not checks.is_int(split_every) or split_every < 2:
        raise checks.wrong_value(function, "split_every", split_every, "an int of 2 or more")
    blocks = x.to_delayed()
    weights = _blocks_of_weights(function, x, axes, sample_weight)
    reduced = [axis for axis in range(x.ndim) if axis not in axes]

    def of_channels(place: Sequence[int]) -> Delayed:
        """The moments of one chunk's channels, over all the chunks that have these."""
        parts = []
        for others in itertools.product(*(range(x.numblocks[axis]) for axis in reduced)):
            index = dict(zip((*axes, *reduced), (*place, *others), strict=True))
            block = tuple(index[axis] for axis in range(x.ndim))
            weight = None
            if weights is not None:
                weight = weights[tuple(0 if a in axes else i for a, i in enumerate(block))]
            parts.append(_task(_of_chunk)(blocks[block], axes, weight))
        while len(parts) > 1:
            parts = [
                _task(_merged)(parts[i : i + split_every])
                for i in range(0, len(parts), split_every)
            ]
        return parts[0]

    grid = [x.numblocks[axis] for axis in axes]
    return _task(_joined)(_nested(of_channels, grid, ()))


def normalize(
    x: da.Array,
    moments: Moments | Delayed,
    gamma: Array | None = None,
    beta: Array | None = None,
    *,
    axis: int | tuple[int, ...] = 1,
    eps: float = 1e-5,
    ddof: int = 0,
    activation: Activation = None,
) -> da.Array:
    """Normalize a Dask array by moments, each chunk by itself.

    ``activation(gamma (x - mean) / sqrt(var + eps) + beta)``, as `nbnorm.batch_norm_inference` has
    it.

    Parameters
    ----------
    x : dask array of float32 or float64, any chunks
    moments : Moments, or the Delayed that `moments` returns
        Of x, or of any other array with these channels.
    gamma, beta : arrays in the shape of the kept axes, optional
    axis, eps, ddof, activation
        As in `nbnorm.batch_norm_forward`.

    Returns
    -------
    dask array of x's shape, chunks and type

    Raises
    ------
    ValueError
        A shape does not fit, a value is out of range, or the sizes of chunks are unknown.
    TypeError
        An argument is of the wrong type.

    Examples
    --------
    >>> import dask.array as da
    >>> from nbnorm.interop.dask import moments, normalize
    >>> x = da.arange(6.0, chunks=2).reshape(3, 2)
    >>> normalize(x, moments(x), eps=0).compute(scheduler="synchronous").round(3)
    array([[-1.225, -1.225],
           [ 0.   ,  0.   ],
           [ 1.225,  1.225]])
    """
    function = "normalize"
    axes = _checked_axes(function, x, axis)
    kept = tuple(x.shape[axis] for axis in axes)
    if isinstance(moments, Moments):
        if moments.shape != kept:
            raise checks.wrong_value(function, "moments", moments, f"Moments of shape {kept}")
    elif not isinstance(moments, Delayed):
        raise checks.wrong_type(function, "moments", moments, "Moments, or a Delayed of them")
    checks.number(function, "eps", eps)
    ddof = checks.degrees_of_freedom(function, ddof)
    for name, parameter in (("gamma", gamma), ("beta", beta)):
        if parameter is not None:
            checks.like(function, name, parameter, kept)
    statistics = da.from_delayed(_task(_statistics)(moments, kept, ddof), (2, *kept), np.float64)

    def along(parameter: Any) -> Any:
        """Per-channel numbers as an array along x, in x's chunks."""
        if parameter is None:
            return None
        index = tuple(slice(None) if axis in axes else np.newaxis for axis in range(x.ndim))
        chunks = tuple(x.chunks[axis] if axis in axes else (1,) for axis in range(x.ndim))
        return da.asarray(parameter)[index].rechunk(chunks)

    return da.map_blocks(
        _normalized, x, *map(along, (statistics[0], statistics[1], gamma, beta)), axes=axes,
        eps=eps, activation=activation, dtype=x.dtype, meta=np.empty((0,) * x.ndim, x.dtype),
    )  # fmt: skip


# --- what tasks do ----------------------------------------------------------------------------

# Pure: the same arguments make the same task, which is then done once.
_task = functools.partial(dask.delayed, pure=True)


def _of_chunk(chunk: Array, axes: tuple[int, ...], weight: Array | None) -> Moments:
    return Moments.of(np.asarray(chunk), axis=axes, sample_weight=weight)


def _merged(parts: list[Moments]) -> Moments:
    first, *others = parts
    return sum(others, first)


def _joined(grid: Any) -> Moments:
    """Those of all channels, from a nested list of those of each chunk's."""
    first = grid
    while isinstance(first, list):
        first = first[0]
    numbers = np.block(_nested_map(lambda m: m.to_array()[1:].reshape(3, *m.shape), grid))
    array = np.concatenate([[first.count], numbers.reshape(-1)])
    return Moments.from_array(array, shape=numbers.shape[1:])


def _statistics(moments: Moments, kept: tuple[int, ...], ddof: int) -> Array:
    if moments.shape != kept:
        raise checks.wrong_value("normalize", "moments", moments, f"Moments of shape {kept}")
    return np.stack((moments.mean, moments.var(ddof)))


def _normalized(
    chunk: Array,
    mean: Array,
    var: Array,
    gamma: Array | None,
    beta: Array | None,
    *,
    axes: tuple[int, ...],
    eps: float,
    activation: Activation,
) -> Array:
    kept = tuple(chunk.shape[axis] for axis in axes)
    return batch_norm_inference(
        chunk, mean.reshape(kept), var.reshape(kept),
        None if gamma is None else gamma.reshape(kept),
        None if beta is None else beta.reshape(kept),
        axis=axes, eps=eps, activation=activation,
    )  # fmt: skip


# --- checks -----------------------------------------------------------------------------------


def _checked_axes(function: str, x: Any, axis: Any) -> tuple[int, ...]:
    if not isinstance(x, da.Array):
        raise checks.wrong_type(function, "x", x, "a dask array")
    if x.dtype not in checks.FLOATS:
        raise checks.wrong_type(function, "x", x, "a dask array of float32 or float64")
    if x.ndim < 2:
        raise checks.wrong_value(function, "x", x, "two axes or more")
    if any(np.isnan(size) for size in x.shape):
        raise checks.wrong_value(function, "x", x, "known sizes: see compute_chunk_sizes()")
    return checks.kept_axes(function, axis, x.ndim)


def _blocks_of_weights(
    function: str, x: da.Array, axes: tuple[int, ...], sample_weight: Any
) -> Any:
    """The weights of each chunk of x, 0 along the kept axes; None where there are none."""
    if sample_weight is None:
        return None
    if not isinstance(sample_weight, (np.ndarray, da.Array)):
        expected = "an array of NumPy or Dask"
        raise checks.wrong_type(function, "sample_weight", sample_weight, expected)
    ones = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
    try:
        weights = da.broadcast_to(da.asarray(sample_weight), ones)
    except ValueError:
        expected = f"an array that broadcasts to {ones}: one weight for all kept axes"
        raise checks.wrong_value(function, "sample_weight", sample_weight, expected) from None
    chunks = tuple((1,) if axis in axes else x.chunks[axis] for axis in range(x.ndim))
    return weights.rechunk(chunks).to_delayed()


def _nested(make: Any, grid: Sequence[int], place: tuple[int, ...]) -> Any:
    """Nested lists of what is made for each place of a grid."""
    if len(place) == len(grid):
        return make(place)
    return [_nested(make, grid, (*place, i)) for i in range(grid[len(place)])]


def _nested_map(function: Any, nested: Any) -> Any:
    if isinstance(nested, list):
        return [_nested_map(function, one) for one in nested]
    return function(nested)
