"""How arrays of images become what kernels/conv2d/images.py works on."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from nbnorm.launch.layout import run_of
from nbnorm.launch.scratch import empty
from nbnorm.typing import Array


class Images(NamedTuple):
    """An array of images for a kernel: its numbers in memory order, and how they are laid out."""

    flat: Array
    n: int
    h: int
    w: int
    c: int
    last: bool

    @property
    def view(self) -> tuple[int, int, int, int, bool]:
        """As kernels take it."""
        return self.n, self.h, self.w, self.c, self.last

    def array(self, axis: int) -> Array:
        """The images as an array (n, c, h, w), or (n, h, w, c) for axis -1; a view."""
        if self.last:
            by_pixel = self.flat.reshape(self.n, self.h, self.w, self.c)
            return by_pixel if axis == -1 else by_pixel.transpose(0, 3, 1, 2)
        by_channel = self.flat.reshape(self.n, self.c, self.h, self.w)
        return by_channel if axis == 1 else by_channel.transpose(0, 2, 3, 1)


def images_of(array: Array, axis: int) -> Images:
    """Images in the order of their own memory where that is one of the two, else a copy."""
    by_channel = array if axis == 1 else array.transpose(0, 3, 1, 2)
    by_pixel = array if axis == -1 else array.transpose(0, 2, 3, 1)
    n, h, w, c = by_pixel.shape
    if not array.flags.c_contiguous:
        if by_pixel.flags.c_contiguous:
            return Images(run_of(by_pixel), n, h, w, c, True)
        if by_channel.flags.c_contiguous:
            return Images(run_of(by_channel), n, h, w, c, False)
    return Images(run_of(array), n, h, w, c, axis == -1)


def new_images(shape: tuple[int, ...], axis: int, last: bool, dtype: Any) -> Images:
    """New images of the shape of an array, their channels last in memory or first."""
    n, c, h, w = shape if axis == 1 else (shape[0], shape[3], shape[1], shape[2])
    return Images(empty((math.prod(shape),), dtype), n, h, w, c, last)


def images_for(out: Array | None, shape: tuple[int, ...], axis: int, like: Images) -> Images:
    """Where a kernel writes: `out` itself if it can, or new images laid out as `like`."""
    if out is not None:
        found = images_of(out, axis)
        if np.may_share_memory(found.flat, out):
            return found
    return new_images(shape, axis, like.last, like.flat.dtype)


def returned(out: Array | None, written: Images, axis: int) -> Array:
    """The array to return: `out`, holding what was written, or the new images."""
    array = written.array(axis)
    if out is None:
        return array
    if not np.may_share_memory(written.flat, out):
        out[...] = array
    return out


def flat_like(array: Array | None, axis: int, written: Images) -> Array | None:
    """The numbers of an array of the same shape in the order of other images.

    A copy where they are in another order, or where they are about to be written over.
    """
    if array is None:
        return None
    order = {(1, True): (0, 2, 3, 1), (-1, False): (0, 3, 1, 2)}.get((axis, written.last))
    flat = run_of(array if order is None else array.transpose(order))
    return flat.copy() if np.may_share_memory(flat, written.flat) else flat
