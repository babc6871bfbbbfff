"""Convolutions for kernels, made with plain NumPy: sizes, scratch, what is to come out.

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
from nbnorm.kernels.conv2d.geometry import Geometry
from nbnorm.kernels.gemm.epilogue import Epilogue
from nbnorm.kernels.gemm.microkernel import TILE_ROWS
from tests.kernels.views import integers_in

Array = NDArray[Any]


class Convolution(NamedTuple):
    """Sizes of a convolution, and the blocks and parts in which it is worked out."""

    n: int
    c: int
    k: int
    image: tuple[int, int]
    window: tuple[int, int] = (3, 3)
    padding: tuple[int, int] = (0, 0)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    block: tuple[int, int] = (1, 2)  # images, and rows of positions
    parts: tuple[int, int] = (1, 1)  # of the blocks, and of the output channels

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

    @property
    def taps(self) -> tuple[Array, Array]:
        """Pixels from a position to each tap."""
        rows, columns = np.indices(self.window).reshape(2, -1)
        return (
            rows * self.dilation[0] - self.padding[0],
            columns * self.dilation[1] - self.padding[1],
        )

    @property
    def input_block(self) -> tuple[int, int]:
        """Height and width of the input block."""
        sizes = (self.block[1], self.positions[1])
        height, width = (
            (size - 1) * s + d * (r - 1) + 1
            for size, s, d, r in zip(sizes, self.stride, self.dilation, self.window, strict=True)
        )
        return height, width

    def last_block(self, rows: int) -> tuple[int, int]:
        """Images and rows of the last block, for so many rows of positions.

        Blocks of several images have all rows, so that one block at most is not whole.
        """
        images, high = self.block
        assert images == 1 or high >= rows
        return self.n % images or images, rows % high or high

    @property
    def partitions(self) -> int:
        return self.parts[0] * self.parts[1]

    def blocks(self, rows: int) -> list[tuple[int, int]]:
        """Image and row of the first position of each block, for so many rows of positions."""
        images, high = self.block
        return [(i, row) for i in range(0, self.n, images) for row in range(0, rows, high)]

    def drawn(self, dtype: Any) -> tuple[Array, Array, Array]:
        """x, weight and dz, channels first."""
        x = integers_in((self.n, self.c, *self.image), dtype)
        weight = integers_in((self.k, self.c // self.groups, *self.window), dtype, seed=1)
        dz = integers_in((self.n, self.k, *self.positions), dtype, seed=2)
        return x, weight, dz

    def geometry(self, x_last: bool, z_last: bool, **others: Any) -> Geometry:
        """What kernels are told; blocks are read in place where that can be."""
        tap_rows, tap_columns = self.taps
        height, width = self.input_block
        fields = {
            "n": self.n, "h": self.image[0], "w": self.image[1], "c": self.c, "x_last": x_last,
            "z_h": self.positions[0], "z_w": self.positions[1], "k": self.k, "z_last": z_last,
            "groups": self.groups, "rows": self.positions[0], "columns": self.positions[1],
            "stride_h": self.stride[0], "stride_w": self.stride[1],
            "z_row": 0, "z_row_step": 1, "z_column": 0, "z_column_step": 1,
            "tap_rows": tap_rows, "tap_columns": tap_columns,
            "block_images": self.block[0], "block_rows": self.block[1],
            "input_height": height, "input_width": width,
            "top": -self.padding[0], "left": -self.padding[1],
            "copied": self.padding != (0, 0) or not x_last,
            "block_parts": self.parts[0], "channel_parts": self.parts[1],
            "row_offsets": np.zeros((1, 1), np.int64),
        }  # fmt: skip
        return Geometry(**(fields | others))


def input_scratch(conv: Convolution, geometry: Geometry, dtype: Any) -> dict[str, Array]:
    """The fields of a workspace that every kernel needs: to read an input block."""
    g = geometry
    pixels = g.block_images * g.input_height * g.input_width
    beside = 1 if g.x_last else g.block_images * g.input_height * g.w * g.c
    return {
        "input_blocks": poison((conv.partitions, pixels * g.c if g.copied else 1), dtype),
        "transposed": poison((conv.partitions, beside), dtype),
    }


def offsets_scratch(conv: Convolution, count: int) -> Array:
    return np.full((conv.partitions, count), 2**40)


def flat(images: Array, last: bool) -> Array:
    """Images (n, c, h, w) in memory order, channels last or first."""
    order = (0, 2, 3, 1) if last else (0, 1, 2, 3)
    return np.ascontiguousarray(images.transpose(order)).reshape(-1)


def ld_of(k: int, dtype: Any) -> int:
    """Channels rounded up to whole vectors."""
    lanes = lane_count(np.dtype(dtype).itemsize)
    return -(-k // lanes) * lanes


def in_whole_tiles(*tables: Array) -> Array:
    """Tables of offsets for the multiply, the last number repeated up to whole tiles."""
    longest = -(-max(map(len, tables)) // TILE_ROWS) * TILE_ROWS
    found = np.full((len(tables), longest), 2**40)
    for row, numbers in zip(found, tables, strict=True):
        whole = -(-len(numbers) // TILE_ROWS) * TILE_ROWS
        row[:whole] = numbers[np.minimum(np.arange(whole), len(numbers) - 1)]
    return found


def poison(shape: tuple[int, ...], dtype: Any) -> Array:
    """Scratch that nothing has been written to."""
    return np.full(shape, np.nan, dtype)


# What is done with z while it is hot. Each is compiled anew: one for each type.
LEAKY = LeakyReLU(0.25)
EPILOGUES = [("float32", "sums"), ("float64", "constants")]


def epilogue_of(what: str, z: Array, parts: int) -> tuple[Epilogue, Any]:
    """An epilogue of z's shape and type, "sums" or "constants", and its activation."""
    k, dtype = z.shape[1], z.dtype
    ld = ld_of(k, dtype)
    if what == "sums":
        sums = np.full((parts, 2, ld), np.nan)
        return Epilogue(sums=sums, pivots=poison((parts, 3, ld), dtype)), None
    rng = np.random.default_rng(9)
    constants = poison((3, ld), dtype)
    constants[0, :k] = rng.integers(-4, 5, k)
    constants[1, :k] = 2.0 ** rng.integers(-1, 2, k)
    constants[2, :k] = rng.integers(-4, 5, k)
    return Epilogue(constants, integers_in((z.size,), dtype, seed=4)), LEAKY


def applied(epilogue: Epilogue, z: Array, last: bool) -> Array:
    """What the constants of an epilogue and its activation make of z, channels first."""
    if epilogue.constants is None:
        return z
    head, scale, shift = epilogue.constants[:, : z.shape[1], np.newaxis, np.newaxis]
    n, c, h, w = z.shape
    residual = epilogue.residual.reshape((n, h, w, c) if last else z.shape)
    residual = residual.transpose(0, 3, 1, 2) if last else residual
    entering = (z - head) * scale + shift + residual
    return np.where(entering > 0, entering, 0.25 * entering)


def assert_sums(
    found: Epilogue, z: Array, parts: list[list[tuple[slice, slice]]], rtol: float
) -> None:
    """The sums of each part of the blocks, of z's images and rows, about their pivots."""
    k = z.shape[1]
    for part, blocks in enumerate(parts):
        values = [z[images, :, rows].astype(np.float64) for images, rows in blocks]
        by_channel = [block.transpose(1, 0, 2, 3).reshape(k, -1) for block in values]
        pivot = found.pivots[part, HEAD, :k].astype(np.float64)
        assert (np.abs(by_channel[0] - pivot[:, np.newaxis]).min(axis=1) == 0).all()
        moved = np.concatenate(by_channel, axis=1) - pivot[:, np.newaxis]
        squares = (moved**2).sum(axis=1)
        np.testing.assert_allclose(
            found.sums[part, 0, :k], moved.sum(axis=1), rtol=rtol, atol=rtol * squares.max()
        )
        np.testing.assert_allclose(found.sums[part, 1, :k], squares, rtol=rtol)
    assert np.isnan(found.sums[:, :, k:]).all()


def divided(items: list[Any], parts: int) -> list[list[Any]]:
    """The items of each part."""
    edges = [len(items) * i // parts for i in range(parts + 1)]
    return [items[edges[i] : edges[i + 1]] for i in range(parts)]


def expected(conv: Convolution, x: Array, weight: Array, dz: Array) -> tuple[Array, Array]:
    """The convolution, and the gradient of its weights."""
    z = reference.conv2d_forward(x, weight, **conv.options)
    return z, reference.conv2d_backward(dz, x, weight, **conv.options).dweight
