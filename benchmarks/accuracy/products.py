"""Dense layers and convolutions in float64 or wider: what `truth.py` is for batch norm.

Like it, this shares no code with nbnorm. A convolution is summed up tap by tap, each tap being a
matrix product over the channels of a group.

An error of a gradient is relative to the size of a sum of as many terms of random sign:

===========  ===================================  ======================================
quantity     scale                                with
===========  ===================================  ======================================
``dx``       sqrt(sum over k, r, s of (u W)^2)    u: the scale of each z's gradient
``dweight``  sqrt(m) u rms(x)                     m: the number of values of a channel z
===========  ===================================  ======================================
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.accuracy.truth import Array, Truth

Slices = tuple[slice, slice, slice, slice]


@dataclass(frozen=True)
class Dense:
    """A dense layer of n rows from c to k channels."""

    n: int
    c: int
    k: int

    @property
    def x_shape(self) -> tuple[int, ...]:
        return self.n, self.c

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return self.k, self.c

    @property
    def y_shape(self) -> tuple[int, ...]:
        return self.n, self.k

    def forward(self, x: Array, weight: Array) -> Array:
        return _wide(x) @ _wide(weight).T

    def backward(self, dz: Array, x: Array, weight: Array) -> dict[str, Array]:
        return {"dx": dz @ _wide(weight), "dweight": dz.T @ _wide(x)}


@dataclass(frozen=True)
class Conv2d:
    """A convolution of n square images, padded so that stride 1 keeps their size."""

    n: int
    c: int
    h: int
    k: int
    r: int  # the window is as high as wide, too
    stride: int = 1
    dilation: int = 1
    groups: int = 1

    @property
    def padding(self) -> int:
        return self.dilation * (self.r - 1) // 2

    @property
    def x_shape(self) -> tuple[int, ...]:
        return self.n, self.c, self.h, self.h

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return self.k, self.c // self.groups, self.r, self.r

    @property
    def y_shape(self) -> tuple[int, ...]:
        reach = self.dilation * (self.r - 1)
        positions = (self.h + 2 * self.padding - reach - 1) // self.stride + 1
        return self.n, self.k, positions, positions

    @property
    def options(self) -> dict[str, int]:
        """What a library is told of the convolution beside its arrays."""
        names = ("stride", "padding", "dilation", "groups")
        return {name: getattr(self, name) for name in names}

    def forward(self, x: Array, weight: Array) -> Array:
        padded = self._padded(x)
        z = np.zeros(self._grouped(self.y_shape), padded.dtype)
        for r, s, window in self._taps():
            z += self._tap(weight, r, s) @ padded[window].reshape(self._grouped_columns)
        return z.reshape(self.y_shape)

    def backward(self, dz: Array, x: Array, weight: Array) -> dict[str, Array]:
        padded, dz = self._padded(x), dz.reshape(self._grouped(self.y_shape))
        dpadded, dweight = np.zeros_like(padded), np.zeros(self.weight_shape, padded.dtype)
        for r, s, window in self._taps():
            back = self._tap(weight, r, s).swapaxes(-1, -2) @ dz
            dpadded[window] += back.reshape(dpadded[window].shape)
            columns = padded[window].reshape(self._grouped_columns)
            product = (dz @ columns.swapaxes(-1, -2)).sum(axis=0)
            dweight[:, :, r, s] = product.reshape(dweight.shape[:2])
        inside = slice(self.padding, self.padding + self.h)
        return {"dx": dpadded[:, :, inside, inside], "dweight": dweight}

    def _padded(self, x: Array) -> Array:
        around = (self.padding, self.padding)
        return np.pad(_wide(x), ((0, 0), (0, 0), around, around))

    def _taps(self) -> Iterator[tuple[int, int, Slices]]:
        """Each tap of the window, and which values of the padded image it meets."""
        span = self.stride * self.y_shape[-1]
        everything = slice(None)
        for r in range(self.r):
            down = slice(r * self.dilation, r * self.dilation + span, self.stride)
            for s in range(self.r):
                across = slice(s * self.dilation, s * self.dilation + span, self.stride)
                yield r, s, (everything, everything, down, across)

    def _tap(self, weight: Array, r: int, s: int) -> Array:
        """The matrices of one tap: (groups, k / groups, c / groups)."""
        return _wide(weight[:, :, r, s]).reshape(self.groups, -1, self.c // self.groups)

    def _grouped(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(n, channels, h, w) as (n, groups, channels / groups, h w)."""
        n, channels, h, w = shape
        return n, self.groups, channels // self.groups, h * w

    @property
    def _grouped_columns(self) -> tuple[int, ...]:
        _, _, h, w = self.y_shape
        return self._grouped((self.n, self.c, h, w))


def _wide(array: Array) -> Array:
    """In float64, if it is not in a wider type."""
    return array.astype(np.result_type(array, np.float64), copy=False)


def gradients(product: Dense | Conv2d, x: Array, weight: Array, dz: Truth) -> Truth:
    """The gradients of x and the weights, from that of z: the "dx" of a batch norm's truth.

    Seen as (n, c, p) and (k, c r s), the shapes that `truth.errors` compares.
    """
    found = product.backward(dz.values["dx"].reshape(product.y_shape), x, weight)
    u = dz.scales["dx"].reshape(-1)
    k, c, *window = weight.shape
    m = dz.values["dx"].size / k
    groups = x.shape[1] // c
    taps = (u.reshape(-1, *[1] * (weight.ndim - 1)) * np.float64(weight)) ** 2
    per_channel = taps.reshape(groups, k // groups, c, -1).sum(axis=(1, 3))
    others = tuple(axis for axis in range(x.ndim) if axis != 1)
    rms_x = np.sqrt(np.mean(np.float64(x) ** 2, axis=others)).reshape(groups, 1, c, 1)
    dweight = np.broadcast_to(
        np.sqrt(m) * u.reshape(groups, -1, 1, 1) * rms_x,
        (groups, k // groups, c, int(np.prod(window))),
    )
    return Truth(
        {
            "dx": found["dx"].reshape(*x.shape[:2], -1),
            "dweight": found["dweight"].reshape(k, -1),
        },
        {"dx": np.sqrt(per_channel).reshape(1, -1, 1), "dweight": dweight.reshape(k, -1)},
    )
