"""Where results go: to a new array, or to the caller's `out=`, whose strides may be any."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from nbnorm.launch.scratch import empty
from nbnorm.typing import Array

# The gradients of a function, None for those not wanted; or the arrays to write them to, None for
# those to be allocated.
Gradients: TypeAlias = tuple[Array | None, ...]


class Destination(NamedTuple):
    """Where one result goes.

    out        the array to return
    written    what the kernel writes: flat, a view of `out` where a kernel can write to that
    copied_to  a view of `out` with its axes in the order of `written`, where it cannot; else None
    """

    out: Array
    written: Array
    copied_to: Array | None = None

    def deliver(self) -> Array:
        """`out`, holding what the kernel wrote."""
        if self.copied_to is not None:
            self.copied_to[...] = self.written.reshape(self.copied_to.shape)
        return self.out


def destination(
    out: Array | None,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    order: tuple[int, ...] | None = None,
) -> Destination:
    """The checked `out`, or a new array that lies in memory as the kernel writes.

    `order` is the order in which the kernel goes through the axes; None is their own.
    """
    if out is None:
        if order is None:
            out = empty(shape, dtype)
            return Destination(out, out.ravel())
        in_order = empty(tuple(shape[axis] for axis in order), dtype)
        return Destination(in_order.transpose(tuple(np.argsort(order))), in_order.ravel())
    in_order = out if order is None else out.transpose(order)
    if in_order.flags.carray:  # contiguous, aligned and writable
        return Destination(out, in_order.ravel())
    return Destination(out, empty((out.size,), dtype), in_order)


def cast(gradient: Array, dtype: DTypeLike, out: Array | None) -> Array:
    """The float64 gradient of a parameter in the parameter's type, or in `out`."""
    if out is None:
        return gradient.astype(dtype)
    out[...] = gradient
    return out
