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

    def reference(
        to, to_at, to_down, to_across, source, at, down, across, height, width, count
    ):  # fmt: skip
        count = min(count, register_lanes(to.itemsize))
        zero = np.zeros(count, to.dtype)
        rows = []
        for i in range(inputs):
            row = []
            for j in range(inputs):
                start = at + i * down + j * across
                inside = outputs <= inputs or (i < height and j < width)
                row.append(checked_slice(source, start, count) if inside else zero)
            rows.append(row)
        for i, row in enumerate(_square(map_, rows)):
            for j, vector in enumerate(row):
                start = to_at + i * to_down + j * to_across
                if outputs >= inputs or (i < height and j < width):
                    checked_slice(to, start, count)[...] = vector

    @twin(reference)
    def transform(
        typing_context, to, to_at, to_down, to_across, source, at, down, across, height, width,
        count,
    ):  # fmt: skip
        """Maps the square at ``source[at + i down + j across]`` to ``to[to_at + i to_down + ...]``.

        Each place has a vector of `count` channels, a register at most. Of the larger picture of
        the two, input or output, pixels beyond height and width are neither read nor written.
        """
        lanes = register_lanes(to.dtype.bitwidth // 8)

        def generate(context, builder, sig, args):
            _, to_at, to_down, to_across, _, at, down, across, height, width, count = args
            to_data = context.make_array(sig.args[0])(context, builder, args[0]).data
            data = context.make_array(sig.args[4])(context, builder, args[4]).data
            vector = ir.VectorType(context.get_value_type(to.dtype), lanes)
            word = at.type
            places = _Places(builder, vector, height, width, count)

            def place(start, first, step_down, step_across, i, j):
                index = builder.add(first, builder.mul(step_down, word(i)))
                index = builder.add(index, builder.mul(step_across, word(j)))
                return llvm.vector_at(builder, start, index, vector)

            def each(size, action):
                for i in range(size):
                    for j in range(size):
                        action(i, j)

            loaded = [
                [cgutils.alloca_once(builder, vector) for _ in range(inputs)] for _ in range(inputs)
            ]

            def load(i, j, masked):
                pointer = place(data, at, down, across, i, j)
                builder.store(places.load(pointer, i, j, masked, clipped_in), loaded[i][j])

            clipped_in, clipped_out = inputs < outputs, outputs < inputs
            with builder.if_else(places.whole(inputs, clipped_in)) as (plain, masked):
                with plain:
                    each(inputs, lambda i, j: load(i, j, False))
                with masked:
                    each(inputs, lambda i, j: load(i, j, True))
            rows = [[_Code(builder, builder.load(one)) for one in row] for row in loaded]
            mapped = _square(map_, rows)
            values = [[one.value for one in row] for row in mapped]

            def store(i, j, masked):
                pointer = place(to_data, to_at, to_down, to_across, i, j)
                places.store(values[i][j], pointer, i, j, masked, clipped_out)

            with builder.if_else(places.whole(outputs, clipped_out)) as (plain, masked):
                with plain:
                    each(outputs, lambda i, j: store(i, j, False))
                with masked:
                    each(outputs, lambda i, j: store(i, j, True))
            return context.get_dummy_value()

        i = types.intp
        return types.none(to, i, i, i, source, i, i, i, i, i, i), generate

    return transform


class _Places:
    """Loads and stores of the channels and pixels that are there."""

    def __init__(self, builder, vector, height, width, count):
        self.builder, self.vector = builder, vector
        self.height, self.width, self.count = height, width, count
        self.word = count.type
        self.lanes = llvm.first_lanes(builder, count, vector)

    def whole(self, size, clipped):
        builder = self.builder
        whole = builder.icmp_signed(">=", self.count, self.word(self.vector.count))
        if clipped:
            for side in (self.height, self.width):
                whole = builder.and_(whole, builder.icmp_signed(">=", side, self.word(size)))
        return whole

    def _mask(self, i, j, clipped):
        if not clipped:
            return self.lanes
        builder = self.builder
        inside = builder.and_(
            builder.icmp_signed(">", self.height, self.word(i)),
            builder.icmp_signed(">", self.width, self.word(j)),
        )
        return llvm.mask_if(builder, inside, self.lanes)

    def load(self, pointer, i, j, masked, clipped):
        if not masked:
            return llvm.load(self.builder, pointer, self.vector)
        zero = ir.Constant(self.vector, None)
        return llvm.masked_load(self.builder, pointer, self._mask(i, j, clipped), zero)

    def store(self, value, pointer, i, j, masked, clipped):
        if masked:
            llvm.masked_store(self.builder, value, pointer, self._mask(i, j, clipped))
        else:
            llvm.store(self.builder, value, pointer)


transform_input = _declare(_input, PATCH, PATCH)
transform_weight = _declare(_weight, 3, PATCH)
transform_output = _declare(_output, PATCH, TILE)
transform_output_gradient = _declare(_output_gradient, TILE, PATCH)
transform_weight_gradient = _declare(_weight_gradient, PATCH, 3)
