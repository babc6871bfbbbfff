"""How arrays of images become what the kernels of convolutions work on."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from nbnorm.launch.layout import run_of
from nbnorm.launch.outputs import Destination, destination
from nbnorm.launch.scratch import empty
from nbnorm.typing import Array


class View(NamedTuple):
    """The sizes of images, and whether their channels lie last in memory, or first."""

    n: int
    h: int
    w: int
    c: int
    last: bool


class Images(NamedTuple):
    """An array of images for a kernel: its numbers in memory order, and how they are laid out."""

    flat: Array
    n: int
    h: int
    w: int
    c: int
    last: bool

    @property
    def view(self) -> View:
        """How they are laid out."""
        return View(*self[1:])

    def array(self, axis: int) -> Array:
        """The images as an array (n, c, h, w), or (n, h, w, c) for axis -1; a view."""
        if self.last:
            by_pixel = self.flat.reshape(self.n, self.h, self.w, self.c)
            return by_pixel if axis == -1 else by_pixel.transpose(0, 3, 1, 2)
        by_channel = self.flat.reshape(self.n, self.c, self.h, self.w)
        return by_channel if axis == 1 else by_channel.transpose(0, 2, 3, 1)


def _order(axis: int, last: bool) -> tuple[int, ...] | None:
    """The axes of an array of images as they come in memory; None for their own order."""
    return {(1, True): (0, 2, 3, 1), (-1, False): (0, 3, 1, 2)}.get((axis, last))


def _in_order(array: Array, axis: int, last: bool) -> Array:
    order = _order(axis, last)
    return array if order is None else array.transpose(order)


def _lies_last(array: Array, axis: int) -> bool | None:
    """Whether channels lie last in memory; None where they lie neither last nor first."""
    for last in (axis == -1, axis == 1):
        if _in_order(array, axis, last).flags.c_contiguous:
            return last
    return None


def _images(flat: Array, shape: tuple[int, ...], axis: int, last: bool) -> Images:
    n, c, h, w = shape if axis == 1 else (shape[0], shape[3], shape[1], shape[2])
    return Images(flat, n, h, w, c, last)


def images_of(array: Array, axis: int) -> Images:
    """Images in the order of their own memory where that is one of the two, else a copy."""
    last = _lies_last(array, axis)
    if last is None:
        last = axis == -1
    return _images(run_of(_in_order(array, axis, last)), array.shape, axis, last)


def new_images(shape: tuple[int, ...], axis: int, last: bool, dtype: Any) -> Images:
    """New images of the shape of an array, their channels last in memory or first."""
    return _images(empty((math.prod(shape),), dtype), shape, axis, last)


def destination_of_images(
    out: Array | None, shape: tuple[int, ...], axis: int, like: Images
) -> tuple[Destination, Images]:
    """Where a result goes, and the images that a kernel writes: laid out as `like` where free."""
    last = None if out is None else _lies_last(out, axis)
    if last is None:
        last = like.last
    place = destination(out, shape, like.flat.dtype, _order(axis, last))
    return place, _images(place.written, shape, axis, last)


def flat_like(array: Array | None, axis: int, written: Images) -> Array | None:
    """The numbers of an array of the same shape in the order of other images.

    A copy where they are in another order, or where they are about to be written over.
    """
    if array is None:
        return None
    flat = run_of(_in_order(array, axis, written.last))
    return flat.copy() if np.may_share_memory(flat, written.flat) else flat
