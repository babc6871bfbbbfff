"""Arrays as kernels see them, made with plain NumPy: layout.py says what planes and columns are.

Numbers are small integers and powers of two wherever the arithmetic allows it: every sum and
product is then exact in any order, and results must be equal, not close.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nbnorm.jit.simd import lane_count
from nbnorm.kernels import LeakyReLU, ReLU
from nbnorm.kernels.gemm.microkernel import panel_width
from tests.cases.batch_norm import surrounded

Array = NDArray[Any]
DTYPES = ["float32", "float64"]


class Variant(NamedTuple):
    """The types that a kernel is compiled for; each costs a second, so few stand for all."""

    dtype: str
    activation: Any
    residual: bool

    def __str__(self) -> str:
        name = type(self.activation).__name__ if self.activation else "no activation"
        return f"{self.dtype} {name}{' residual' if self.residual else ''}"


VARIANTS = [
    Variant("float32", ReLU(), True),
    Variant("float64", None, False),
    Variant("float64", LeakyReLU(0.5), True),
]
SLOPES = {None: 1.0, ReLU(): 0.0, LeakyReLU(0.5): 0.5}  # of negative values

PLANES = (1, 1, 0)  # the spans of channels that are planes


class Columns(NamedTuple):
    """An array (n, c, s) as rows of `copies` samples."""

    shape: tuple[int, int, int]
    copies: int
    stride: int

    @property
    def spans(self) -> tuple[int, int, int]:
        _, c, s = self.shape
        return s, self.copies, c * s

    @property
    def row_length(self) -> int:
        return self.copies * self.shape[1] * self.shape[2]

    @property
    def rows(self) -> int:
        """Whole rows; the samples beyond make one that is cut short."""
        return self.shape[0] // self.copies

    @property
    def channels(self) -> Array:
        """The channel of each column."""
        _, c, s = self.shape
        return np.arange(self.row_length) // s % c

    def tiles(self, height: int) -> int:
        return -(-self.rows // height)

    @property
    def are_channels(self) -> bool:
        """Whether each column is a channel: one array then holds the numbers of both."""
        return self.spans[:2] == (1, 1)

    def spread(self, per_channel: Array) -> Array:
        """Rows of one number a channel as rows of one number a column, NaN beyond them."""
        constants = np.full((len(per_channel), self.stride), np.nan, per_channel.dtype)
        constants[:, : self.row_length] = per_channel[:, self.channels]
        return constants

    def gather(self, sums: Array) -> Array:
        """(..., stride) sums of columns added up to (..., c) sums of channels."""
        c = self.shape[1]
        found = np.zeros((*sums.shape[:-1], c))
        for channel in range(c):
            mine = np.flatnonzero(self.channels == channel)
            found[..., channel] = sums[..., mine].sum(axis=-1)
        return found


def columns(shape: tuple[int, int, int], copies: int, dtype: str) -> Columns:
    lanes = lane_count(np.dtype(dtype).itemsize)
    return Columns(shape, copies, -(-copies * shape[1] * shape[2] // lanes) * lanes)


class Drawn(NamedTuple):
    """What a kernel is given, the data flat, and the numbers of each channel."""

    shape: tuple[int, int, int]
    dy: Array
    x: Array
    residual: Array
    statistics: Array  # (4, c) mean, var, inv_std, rest of the mean
    parameters: Array  # (2, c) gamma, beta

    @property
    def constants(self) -> Array:
        """Head, scale and shift of y = (x - head) scale + shift, of the data's type."""
        mean, _, inv_std, _ = self.statistics
        gamma, beta = self.parameters
        return np.array([mean, gamma * inv_std, beta]).astype(self.x.dtype)

    def along(self, per_channel: Array) -> Array:
        """A number a channel, laid along x."""
        n, c, s = self.shape
        return np.broadcast_to(np.reshape(per_channel, (1, c, 1)), (n, c, s)).reshape(-1)

    def total(self, values: Array) -> Array:
        """The sum of each channel."""
        return values.astype(np.float64).reshape(self.shape).sum(axis=(0, 2))

    def entering(self, variant: Variant) -> Array:
        """The value that enters the activation."""
        head, scale, shift = (self.along(row) for row in self.constants)
        return (self.x - head) * scale + shift + (self.residual if variant.residual else 0)

    def data(self, variant: Variant) -> dict[str, Any]:
        """The arguments that every kernel has."""
        residual = self.residual if variant.residual else None
        return {"x": self.x, "residual": residual, "activation": variant.activation}


def integers(shape: tuple[int, int, int], dtype: str, offset: int = 0) -> Drawn:
    """Integer data and powers of two; arrays lie in NaN, `offset` elements off a cache line."""
    rng = np.random.default_rng(3)
    c = shape[1]

    def data() -> Array:
        return surrounded(rng.integers(-8, 9, np.prod(shape)).astype(dtype), offset)[0]

    def powers() -> Array:
        return 2.0 ** rng.integers(-1, 2, c)

    inv_std = powers()
    statistics = np.array([rng.integers(-4, 5, c), 1 / inv_std**2, inv_std, np.zeros(c)])
    signs = rng.choice([-1.0, 1.0], c)
    parameters = np.array([signs * powers(), rng.integers(-4, 5, c)])
    return Drawn(shape, data(), data(), data(), statistics, parameters)


def integers_in(shape: tuple[int, ...], dtype: Any, most: int = 8, seed: int = 0) -> Array:
    """Integers from -most to most."""
    rng = np.random.default_rng(seed)
    return rng.integers(-most, most + 1, shape).astype(dtype)


def panel_widths(columns: int, dtype: Any) -> list[int]:
    """Widths of the panels of so many columns: see microkernel.py."""
    like = np.empty(0, dtype)
    widths: list[int] = []
    while sum(widths) < columns:
        widths.append(int(panel_width(like, columns - sum(widths))))
    return widths
