"""L1 and L2 norms and penalties on checked arguments: cut into tiles, lent memory, run."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from nbnorm.jit.simd import lane_count
from nbnorm.jit.threads import run
from nbnorm.kernels.norms import divide as dividing
from nbnorm.kernels.norms import penalties
from nbnorm.kernels.norms.divide import NormTiling, NormWorkspace, Passes
from nbnorm.kernels.norms.kinds import L1
from nbnorm.launch.machine import (
    BALANCED_TILES,
    MOST_SLICES,
    PARALLEL_FROM_VALUES,
    SHORTEST_SLICE_VALUES,
    TILE_BYTES,
    TILE_VALUES,
    is_streamed,
)
from nbnorm.launch.scratch import ALIGNMENT, address, scratch
from nbnorm.typing import Array

# Up to so many contiguous values with a norm of their own are transposed first: with 48, a value
# takes 0.2 to 0.3 ns either way; with 8, it takes 0.4 transposed and 1.6 as it lies.
SHORT_FIBRE = 48


class NormPlan(NamedTuple):
    """How the kernel of L1 and L2 normalization runs: see kernels/norms/divide.py.

    tiles     of the kernel
    parallel  whether it is worth more than one thread
    streamed  whether to write past the caches, alignment permitting
    """

    tiling: NormTiling
    tiles: int
    parallel: bool
    streamed: bool


@functools.lru_cache(maxsize=4096)
def norm_plan(shape: tuple[int, int, int], itemsize: int, arrays: int) -> NormPlan:
    """The plan for n s norms of c values each."""
    n, c, s = shape
    lanes = lane_count(itemsize)
    values = math.prod(shape)
    parallel = values >= PARALLEL_FROM_VALUES
    if s == 1 and c <= SHORT_FIBRE:
        sample_strips, step, strips = 1, 0, -(-n // lanes)
    else:
        together = 2 * s <= lanes
        sample_strips = 1 if together else -(-s // lanes)
        step = lanes // s * s if together else s
        strips = n * sample_strips
    tile_strips = slices = 1
    if not parallel:
        tile_strips = strips
    elif strips >= BALANCED_TILES or step == 0:
        wanted = max(BALANCED_TILES, min(MOST_SLICES, values * itemsize // TILE_BYTES))
        tile_strips = max(1, strips // wanted)
    else:
        slices = max(1, min(MOST_SLICES, values // SHORTEST_SLICE_VALUES) // strips)
    return NormPlan(
        NormTiling(tile_strips, slices, sample_strips, step),
        -(-strips // tile_strips) * slices,
        parallel,
        is_streamed(shape, itemsize, arrays, c if s == 1 else s),
    )


def divide(
    out: Array,
    norms: Array,
    dy: Array | None,
    x: Array,
    shape: tuple[int, int, int],
    kind: Any,
    eps: float,
) -> None:
    """Writes y and its norms, or dx where there is a dy; all arrays are flat."""
    plan = norm_plan(shape, x.itemsize, 2 if dy is None else 3)
    lanes = lane_count(x.itemsize)
    short = plan.tiles * shape[1] * lanes if plan.tiling.step == 0 else 0
    work = NormWorkspace(
        scratch.take("lanes", (plan.tiles, lanes), np.float64),
        scratch.take("sums of slices", (plan.tiles, lanes), np.float64),
        scratch.take("transposed", (short,), x.dtype),
        None if dy is None else scratch.take("transposed dy", (short,), x.dtype),
    )
    streaming = _streams(out, plan, shape)

    def run_passes(summing: bool, writing: bool) -> None:
        passes = Passes(summing, writing, streaming)
        run(
            dividing.divide_by_norms, plan.tiles, plan.parallel,
            out, norms, dy, x, kind, eps, tuple(work), tuple(passes), tuple(plan.tiling), shape,
        )  # fmt: skip

    if plan.tiling.slices == 1:
        run_passes(True, True)
    else:
        run_passes(True, False)
        dividing.add_parts(work.sums, plan.tiling.slices)
        run_passes(False, True)


def _streams(out: Array, plan: NormPlan, shape: tuple[int, int, int]) -> bool:
    """Whether to write past the caches: if all vectors of an output so large are on cache lines."""
    if not plan.streamed:
        return False
    steps = (shape[1] * shape[2] * out.itemsize, plan.tiling.step * out.itemsize)
    return address(out) % ALIGNMENT == 0 and all(step % ALIGNMENT == 0 for step in steps)


def penalize(gradient: Array | None, dy: Array | None, x: Array, weight: float, kind: Any) -> float:
    """The penalty of x; its gradient is written to `gradient`, dy added to it. Arrays are flat."""
    tiles = -(-x.size // TILE_VALUES)
    sums = scratch.take("sums", (tiles,), np.float64)
    run(
        penalties.penalize, tiles, x.size >= PARALLEL_FROM_VALUES,
        sums, gradient, dy, x, weight, kind, TILE_VALUES,
    )  # fmt: skip
    total = float(sums.sum())
    return weight * total if isinstance(kind, L1) else weight / 2 * total
