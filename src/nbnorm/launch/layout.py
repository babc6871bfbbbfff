"""How an array of any shape, strides and axis becomes the (n, c, s) that kernels work on."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from nbnorm.typing import Array


class Layout(NamedTuple):
    """Where the kept axes of an array lie in memory.

    order   the axes as they come in memory, None where that is their own order
    shape   (n, c, s): the sizes before, of and after the kept axes, in that order
    kept    the sizes of the kept axes
    """

    order: tuple[int, ...] | None
    shape: tuple[int, int, int]
    kept: tuple[int, ...]


@functools.lru_cache(maxsize=4096)
def layout_of(
    sizes: tuple[int, ...],
    strides: tuple[int, ...],
    axes: tuple[int, ...],
    *,
    ascending: bool = True,
) -> Layout:
    """The layout of an array whose statistics are kept along `axes`.

    Whatever order the axes have in memory is taken as it is, as long as the kept axes are
    neighbours there and in ascending order; an array that is channels-last under a channels-first
    shape is then used in place. Otherwise the kept axes are brought together behind the batch,
    which costs one copy. Their order among themselves matters only if they are to be `ascending`.
    """
    ndim = len(sizes)
    order = tuple(sorted(range(ndim), key=lambda a: -abs(strides[a]) if sizes[a] > 1 else 0))
    if all(sizes[a] == 1 or strides[a] > 0 for a in range(ndim)):
        order = _with_single_axes_at_home(order, sizes)
    places = [order.index(axis) for axis in axes]
    if not ascending:
        places.sort()
    if places != list(range(places[0], places[0] + len(places))):
        reduced = [axis for axis in range(ndim) if axis not in axes]
        order = (*(a for a in reduced if a < axes[0]), *axes, *(a for a in reduced if a > axes[0]))
        places = [order.index(axis) for axis in axes]
    first, last = places[0], places[-1] + 1
    in_order = [sizes[axis] for axis in order]
    return Layout(
        None if order == tuple(range(ndim)) else order,
        (
            math.prod(in_order[:first]),
            math.prod(in_order[first:last]),
            math.prod(in_order[last:]),
        ),
        tuple(sizes[axis] for axis in axes),
    )


def _with_single_axes_at_home(order: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The order with the axes of size 1, whose strides mean nothing, in their own places."""
    others = iter([axis for axis in order if sizes[axis] != 1])
    return tuple(axis if sizes[axis] == 1 else next(others) for axis in range(len(sizes)))


def flat(array: Array, layout: Layout) -> Array:
    """The elements in the layout's order, as one contiguous run: a view where they are one."""
    return run_of(array if layout.order is None else array.transpose(layout.order))


def run_of(array: Array) -> Array:
    """The elements in C order, as one contiguous run: a view where they are one."""
    flags = array.flags
    if not flags.carray:  # contiguous, aligned and writable
        if flags.c_contiguous and flags.aligned:
            array = _Alias(array).writable()
        else:
            array = np.array(array, order="C", copy=True)
    return array.ravel()  # a view, and in half the time of reshape's


class _Alias:
    """A read-only array under a writable name: Numba would compile every kernel anew for it."""

    def __init__(self, array: Array) -> None:
        self._array = array  # keeps the memory alive
        self.__array_interface__ = {
            **array.__array_interface__,
            "data": (array.__array_interface__["data"][0], False),
        }

    def writable(self) -> Array:
        return np.asarray(self)
