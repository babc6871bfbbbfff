"""The transforms of Winograd's convolution F(4x4, 3x3), on vectors of channels.

An output tile of 4 by 4 pixels is worked out from 6 by 6 pixels with 36 multiplications instead of
144 (Lavin and Gray 2016, https://arxiv.org/abs/1509.09308, section 4.3)::

    output = A^T [(G weight G^T) * (B^T input B)] A

and its gradients, by the transposes::

    d weight = G^T [(B^T input B) * (A d output A^T)] G

`*` is a product of numbers for one channel and of matrices for many. Each transform is a linear map
of one dimension, applied down the columns and then along the rows of a square of vectors.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

from nbnorm.jit import llvm
from nbnorm.jit.simd import checked_slice, register_lanes
from nbnorm.jit.vectors import twin

TILE = 4  # output pixels across
PATCH = 6  # input pixels across


def _input(d: Sequence[Any]) -> list[Any]:
    """B^T d."""
    even, odd = d[4] - 4 * d[2], d[3] - 4 * d[1]
    near, far = d[4] - d[2], d[3] - d[1]
    return [
        d[4] - 5 * d[2] + 4 * d[0],
        even + odd,
        even - odd,
        near + 2 * far,
        near - 2 * far,
        d[5] - 5 * d[3] + 4 * d[1],
    ]


def _weight(g: Sequence[Any]) -> list[Any]:
    """G g."""
    sixth, small, middle, large = (
        (g[0] + g[2]) * (-1 / 6), g[1] * (1 / 6), g[0] * (1 / 24) + g[2] * (1 / 6), g[1] * (1 / 12),
    )  # fmt: skip
    return [g[0] * 0.25, sixth - small, sixth + small, middle + large, middle - large, g[2]]


def _output(m: Sequence[Any]) -> list[Any]:
    """A^T m."""
    even, odd = m[1] + m[2], m[1] - m[2]
    far, apart = m[3] + m[4], m[3] - m[4]
    return [m[0] + even + far, odd + 2 * apart, even + 4 * far, odd + 8 * apart + m[5]]


def _output_gradient(y: Sequence[Any]) -> list[Any]:
    """A y."""
    even, odd = y[0] + y[2], y[1] + y[3]
    far, apart = y[0] + 4 * y[2], 2 * y[1] + 8 * y[3]
    return [y[0], even + odd, even - odd, far + apart, far - apart, y[3]]


def _weight_gradient(u: Sequence[Any]) -> list[Any]:
    """G^T u."""
    low, high = u[1] + u[2], u[3] + u[4]
    return [
        u[0] * 0.25 + low * (-1 / 6) + high * (1 / 24),
        (u[2] - u[1]) * (1 / 6) + (u[3] - u[4]) * (1 / 12),
        low * (-1 / 6) + high * (1 / 6) + u[5],
    ]


class _Code:
    """A vector in generated code, for the maps above: a product waits to be added, as an fma."""

    def __init__(self, builder, value, factor=None):
        self.builder = builder
        self.vector = value
        self.factor = factor

    def constant(self, number):
        element = self.vector.type.element
        return ir.Constant(self.vector.type, [element(number)] * self.vector.type.count)

    @property
    def value(self):
        if self.factor is None:
            return self.vector
        return self.builder.fmul(self.vector, self.constant(self.factor))

    def _new(self, value):
        return _Code(self.builder, value)

    def __mul__(self, number):
        return _Code(self.builder, self.value, number)

    __rmul__ = __mul__

    def __add__(self, other):
        if other.factor is None and self.factor is not None:
            return other + self
        if other.factor is None:
            return self._new(self.builder.fadd(self.value, other.value))
        return self._fma(other, other.factor)

    def __sub__(self, other):
        if other.factor is None:
            return self._new(self.builder.fsub(self.value, other.value))
        return self._fma(other, -other.factor)

    def _fma(self, other, factor):
        scale = other.constant(factor)
        return self._new(llvm.fma(self.builder, other.vector, scale, self.value))


def _square(map_: Callable[[Sequence[Any]], list[Any]], rows: list[list[Any]]) -> list[list[Any]]:
    """The map down each column, then along each row."""
    columns = [map_(column) for column in zip(*rows, strict=True)]
    return [map_(row) for row in zip(*columns, strict=True)]


def _declare(map_: Callable[[Sequence[Any]], list[Any]], inputs: int, outputs: int) -> Any:
    """The intrinsic that maps a square of `inputs` by `inputs` vectors to one of `outputs`."""
    clips_input, clips_output = inputs < outputs, outputs < inputs

    def reference(to, to_steps, source, steps, size, count):
        count = min(count, register_lanes(to.itemsize))
        zero = np.zeros(count, to.dtype)

        def vector(array, steps, i, j):
            at, down, across = steps
            return checked_slice(array, at + i * down + j * across, count)

        def is_inside(i, j):
            return i < size[0] and j < size[1]

        rows = [
            [
                vector(source, steps, i, j) if not clips_input or is_inside(i, j) else zero
                for j in range(inputs)
            ]
            for i in range(inputs)
        ]
        for i, row in enumerate(_square(map_, rows)):
            for j, mapped in enumerate(row):
                if not clips_output or is_inside(i, j):
                    vector(to, to_steps, i, j)[...] = mapped

    @twin(reference)
    def transform(typing_context, to, to_steps, source, steps, size, count):
        """Maps a square of vectors of `count` channels, a register of them at most.

        With ``steps = (at, down, across)``, the vector of pixel (i, j) begins at
        ``source[at + i down + j across]``, and that of the result likewise. The larger one of the
        two squares has `size`, (height, width), pixels at most: those beyond are neither read nor
        written.
        """
        lanes = register_lanes(to.dtype.bitwidth // 8)

        def generate(context, builder, sig, args):
            _, to_steps, _, steps, size, count = args
            to_data = context.make_array(sig.args[0])(context, builder, args[0]).data
            data = context.make_array(sig.args[2])(context, builder, args[2]).data
            vector = ir.VectorType(context.get_value_type(to.dtype), lanes)
            read = _Square(builder, vector, data, steps, inputs)
            written = _Square(builder, vector, to_data, to_steps, outputs)
            there = _There(builder, vector, size, count)

            loaded = [
                [cgutils.alloca_once(builder, vector) for _ in range(inputs)] for _ in range(inputs)
            ]
            with builder.if_else(there.is_whole(read, clips_input)) as (whole, part):
                with whole:
                    for i, j in read:
                        builder.store(llvm.load(builder, read[i, j], vector), loaded[i][j])
                with part:
                    zero = ir.Constant(vector, None)
                    for i, j in read:
                        mask = there.mask(i, j, clips_input)
                        value = llvm.masked_load(builder, read[i, j], mask, zero)
                        builder.store(value, loaded[i][j])

            rows = [[_Code(builder, builder.load(one)) for one in row] for row in loaded]
            values = [[one.value for one in row] for row in _square(map_, rows)]

            with builder.if_else(there.is_whole(written, clips_output)) as (whole, part):
                with whole:
                    for i, j in written:
                        llvm.store(builder, values[i][j], written[i, j])
                with part:
                    for i, j in written:
                        mask = there.mask(i, j, clips_output)
                        llvm.masked_store(builder, values[i][j], written[i, j], mask)
            return context.get_dummy_value()

        i = types.intp
        steps_type, size_type = types.UniTuple(i, 3), types.UniTuple(i, 2)
        return types.none(to, steps_type, source, steps_type, size_type, i), generate

    return transform


class _Square:
    """The addresses of a square of vectors."""

    def __init__(self, builder, vector, data, steps, size):
        self.builder, self.vector, self.data, self.size = builder, vector, data, size
        self.first, self.down, self.across = cgutils.unpack_tuple(builder, steps)

    def __iter__(self):
        return itertools.product(range(self.size), repeat=2)

    def __getitem__(self, pixel):
        builder = self.builder
        index = self.first
        for number, step in zip(pixel, (self.down, self.across), strict=True):
            index = builder.add(index, builder.mul(step, step.type(number)))
        return llvm.vector_at(builder, self.data, index, self.vector)


class _There:
    """Which pixels and channels of a square are there."""

    def __init__(self, builder, vector, size, count):
        self.builder, self.vector, self.count = builder, vector, count
        self.height, self.width = cgutils.unpack_tuple(builder, size)
        self.lanes = llvm.first_lanes(builder, count, vector)

    def is_whole(self, square, clipped):
        """Whether all of them are."""
        builder = self.builder
        whole = builder.icmp_signed(">=", self.count, self.count.type(self.vector.count))
        if clipped:
            for side in (self.height, self.width):
                inside = builder.icmp_signed(">=", side, side.type(square.size))
                whole = builder.and_(whole, inside)
        return whole

    def mask(self, i, j, clipped):
        """The lanes of a pixel; none where it is not there."""
        if not clipped:
            return self.lanes
        builder = self.builder
        inside = builder.and_(
            builder.icmp_signed(">", self.height, self.height.type(i)),
            builder.icmp_signed(">", self.width, self.width.type(j)),
        )
        return llvm.mask_if(builder, inside, self.lanes)


transform_input = _declare(_input, PATCH, PATCH)
transform_weight = _declare(_weight, 3, PATCH)
transform_output = _declare(_output, PATCH, TILE)
transform_output_gradient = _declare(_output_gradient, TILE, PATCH)
transform_weight_gradient = _declare(_weight_gradient, PATCH, 3)
