"""Convolutions for kernels, made with plain NumPy: images, where windows go, what is to come out.

Numbers are small integers, so that a direct convolution is exact in any order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nbnorm import reference
from nbnorm.jit.simd import lane_count
from nbnorm.kernels import LeakyReLU
from nbnorm.kernels.channels import HEAD
from nbnorm.kernels.gemm.microkernel import TILE_ROWS
from tests.kernels.views import integers_in

Array = NDArray[Any]


class Convolution(NamedTuple):
    """Sizes of a convolution, and the bands and shares in which it is worked out."""

    n: int
    c: int
    k: int
    image: tuple[int, int]
    window: tuple[int, int] = (3, 3)
    padding: tuple[int, int] = (0, 0)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    band: tuple[int, int] = (1, 2)  # images, and rows of the grid
    shares: tuple[int, int] = (1, 1)  # of the bands, and of the output channels

    def __str__(self) -> str:
        image, window = ("x".join(map(str, pair)) for pair in (self.image, self.window))
        rest = " ".join(f"{name}={self._asdict()[name]}" for name in self._fields[5:])
        return f"{self.n}x{self.c} to {self.k}, {image} by {window} {rest}"

    @property
    def options(self) -> dict[str, Any]:
        names = ("padding", "stride", "dilation", "groups")
        return {name: self._asdict()[name] for name in names}

    @property
    def positions(self) -> tuple[int, int]:
        sizes = zip(self.image, self.padding, self.dilation, self.window, self.stride, strict=True)
        rows, columns = ((h + 2 * p - d * (r - 1) - 1) // s + 1 for h, p, d, r, s in sizes)
        return rows, columns

    def last_band(self, rows: int) -> tuple[int, int]:
        """Images and rows of the last band, for a grid of so many rows.

        Bands of several images have all rows, so that one band at most is not whole.
        """
        images, high = self.band
        assert images == 1 or high >= rows
        return self.n % images or images, rows % high or high

    @property
    def slots(self) -> int:
        return self.shares[0] * self.shares[1]

    def bands(self, rows: int) -> list[tuple[int, int]]:
        """Image and row of the first place of each band, for a grid of so many rows."""
        images, high = self.band
        return [(i, row) for i in range(0, self.n, images) for row in range(0, rows, high)]

    def drawn(self, dtype: Any) -> tuple[Array, Array, Array]:
        """x, weight and dz, channels first."""
        x = integers_in((self.n, self.c, *self.image), dtype)
        weight = integers_in((self.k, self.c // self.groups, *self.window), dtype, seed=1)
        dz = integers_in((self.n, self.k, *self.positions), dtype, seed=2)
        return x, weight, dz


def flat(images: Array, last: bool) -> Array:
    """Images (n, c, h, w) in memory order, channels last or first."""
    order = (0, 2, 3, 1) if last else (0, 1, 2, 3)
    return np.ascontiguousarray(images.transpose(order)).reshape(-1)


def view_of(images: Array, last: bool) -> tuple[int, int, int, int, bool]:
    n, c, h, w = images.shape
    return n, h, w, c, last


def stride_of(k: int, dtype: Any) -> int:
    """Channels rounded up to whole vectors."""
    lanes = lane_count(np.dtype(dtype).itemsize)
    return -(-k // lanes) * lanes


def in_whole_tiles(numbers: Array) -> Array:
    """A table for the multiply, the last number repeated up to whole tiles."""
    numbers = np.asarray(numbers, np.int64)
    return np.concatenate([numbers, np.repeat(numbers[-1:], -numbers.size % TILE_ROWS)])


def tables_of(whole: Array, last: Array) -> Array:
    """Two tables: for a whole band, and for the last one."""
    tables = np.full((2, in_whole_tiles(whole).size), 2**40)
    for table, numbers in zip(tables, (whole, last), strict=True):
        filled = in_whole_tiles(numbers)
        table[: filled.size] = filled
    return tables


def poison(shape: tuple[int, ...], dtype: Any) -> Array:
    """Scratch that nothing has been written to."""
    return np.full(shape, np.nan, dtype)


# What is done with z while it is hot. Each is compiled anew: one for each type.
LEAKY = LeakyReLU(0.25)
AFTER = [("float32", "sums"), ("float64", "constants")]


class After(NamedTuple):
    """Arguments of a kernel for what follows the product."""

    constants: Array | None = None
    residual: Array | None = None
    activation: Any = None
    sums: Array | None = None
    pivots: Array | None = None

    def applied(self, z: Array, last: bool) -> Array:
        """What the constants make of z, channels first."""
        if self.constants is None or self.residual is None:
            return z
        head, scale, shift = self.constants[:, : z.shape[1], np.newaxis, np.newaxis]
        n, c, h, w = z.shape
        shape = (n, h, w, c) if last else z.shape
        residual = self.residual.reshape(shape)
        residual = residual.transpose(0, 3, 1, 2) if last else residual
        entering = (z - head) * scale + shift + residual
        return np.where(entering > 0, entering, 0.25 * entering)


def after(what: str, z: Array, shares: int) -> After:
    """What follows a product of z's shape and type: "sums" or "constants"."""
    k, dtype = z.shape[1], z.dtype
    stride = stride_of(k, dtype)
    if what == "sums":
        sums = np.full((shares, 2, stride), np.nan)
        return After(sums=sums, pivots=poison((shares, 3, stride), dtype))
    rng = np.random.default_rng(9)
    constants = poison((3, stride), dtype)
    constants[0, :k] = rng.integers(-4, 5, k)
    constants[1, :k] = 2.0 ** rng.integers(-1, 2, k)
    constants[2, :k] = rng.integers(-4, 5, k)
    return After(constants, integers_in((z.size,), dtype, seed=4), LEAKY)


def assert_sums(
    found: After, z: Array, places: list[list[tuple[slice, slice]]], rtol: float
) -> None:
    """The sums of each share of the bands, of z's images and rows, about their pivots."""
    k = z.shape[1]
    assert found.sums is not None
    assert found.pivots is not None
    for share, parts in enumerate(places):
        values = [z[images, :, rows].astype(np.float64) for images, rows in parts]
        by_channel = [part.transpose(1, 0, 2, 3).reshape(k, -1) for part in values]
        pivot = found.pivots[share, HEAD, :k].astype(np.float64)
        assert (np.abs(by_channel[0] - pivot[:, np.newaxis]).min(axis=1) == 0).all()
        moved = np.concatenate(by_channel, axis=1) - pivot[:, np.newaxis]
        squares = (moved**2).sum(axis=1)
        np.testing.assert_allclose(
            found.sums[share, 0, :k], moved.sum(axis=1), rtol=rtol, atol=rtol * squares.max()
        )
        np.testing.assert_allclose(found.sums[share, 1, :k], squares, rtol=rtol)
    assert np.isnan(found.sums[:, :, k:]).all()


def shared_out(items: list[Any], shares: int) -> list[list[Any]]:
    """The items of each share."""
    edges = [len(items) * i // shares for i in range(shares + 1)]
    return [items[edges[i] : edges[i + 1]] for i in range(shares)]


def expected(conv: Convolution, x: Array, weight: Array, dz: Array) -> tuple[Array, Array]:
    """The convolution, and the gradient of its weights."""
    z = reference.conv2d_forward(x, weight, **conv.options)
    return z, reference.conv2d_backward(dz, x, weight, **conv.options).dweight
