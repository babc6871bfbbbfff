"""Hypothesis strategies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numba.core import config

from tests.cases.batch_norm import ACTIVATIONS, DTYPES, Array, Batch, Case, draw, reduced_axes

# Each combination of types is compiled for seconds: few of them, unless nothing is compiled.
_ACTIVATIONS = ACTIVATIONS if config.DISABLE_JIT else ACTIVATIONS[:1]


def arranged(values: Array, order: list[int], steps: list[int]) -> Array:
    """A copy whose axes lie in memory in the given order, taken in the given steps."""
    inner = np.argsort(order)
    sizes = [values.shape[axis] * abs(steps[axis]) for axis in order]
    wide = np.full(sizes, np.nan, values.dtype).transpose(inner)
    view = wide[tuple(slice(None, None, step) for step in steps)]
    view[...] = values
    return view


@st.composite
def arrangements(draw_from: Any, ndim: int) -> tuple[list[int], list[int]]:
    """An order of axes in memory, and a step for each axis."""
    order = draw_from(st.permutations(range(ndim)))
    steps = st.lists(st.sampled_from([1, 1, 2, -1, -2]), min_size=ndim, max_size=ndim)
    return order, draw_from(steps)


@st.composite
def batches(draw_from: Any) -> Batch:
    """Batches of two to five axes in any memory order, any of the axes but one kept."""
    shape = tuple(draw_from(st.lists(st.integers(1, 6), min_size=2, max_size=5)))
    axes = draw_from(
        st.sets(st.integers(-len(shape), len(shape) - 1), min_size=1, max_size=len(shape) - 1)
        .filter(lambda axes: len({axis % len(shape) for axis in axes}) == len(axes))
        .filter(lambda axes: _values_per_channel(shape, tuple(axes)) >= 2)
    )
    case = Case(
        shape,
        tuple(axes),
        dtype=draw_from(st.sampled_from(DTYPES)),
        ddof=draw_from(st.sampled_from([0, 1])),
        activation=draw_from(st.sampled_from(_ACTIVATIONS)),
        residual=config.DISABLE_JIT and draw_from(st.booleans()),
        statistics=draw_from(st.sampled_from(["of the batch", "given"])),
    )
    batch = draw(case, np.random.default_rng(draw_from(st.integers(0, 2**32 - 1))))
    x, dy = (arranged(v, *draw_from(arrangements(len(shape)))) for v in (batch.x, batch.dy))
    return batch._replace(x=x, dy=dy)


def _values_per_channel(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    return math.prod(shape[axis] for axis in reduced_axes(len(shape), axes))
