"""Depthwise convolutions on checked arguments: see kernels/conv2d/depthwise.py."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from nbnorm.jit.threads import run
from nbnorm.kernels.conv2d import depthwise as kernels
from nbnorm.kernels.conv2d.grouped import collect_weights
from nbnorm.kernels.gemm.epilogue import Epilogue
from nbnorm.launch.conv2d.convolution import (
    Convolution,
    Window,
    forward_window,
    windows_by_remainder,
)
from nbnorm.launch.conv2d.images import Images, View
from nbnorm.launch.conv2d.tiling import Tiling, block_of, parts_of
from nbnorm.launch.layout import run_of
from nbnorm.launch.machine import PARALLEL_FROM_UNPACKED_MACS, whole_vectors
from nbnorm.launch.scratch import scratch
from nbnorm.launch.statistics import Summed
from nbnorm.typing import Array

# Wider images than this are copied by blocks where each pixel is read for all taps: a copy reads
# memory in order. (8, 144, 56, 56) in 2.3 against 2.6 ms, (8, 192, 28, 28) in 0.41 against 0.51 on
# one thread (Zen 5). With stride fewer pixels are read again.
WIDEST_IN_PLACE = 16


class Plan(NamedTuple):
    """How a depthwise convolution runs.

    tiling    its blocks
    passes    (passes, 6) of int64: see `kernels.Pass`
    taps      of the window, in the order of the tiling's
    parallel  whether it is worth more than one thread
    """

    tiling: Tiling
    passes: Array
    taps: Array
    parallel: bool


def _plan(x: View, z: View, windows: tuple[Window, ...], itemsize: int) -> Plan:
    """The plan for passes that are worked out together, from an x to a z."""
    first = windows[0]
    together = first._replace(
        rows=max(window.rows for window in windows),
        columns=max(window.columns for window in windows),
        tap_rows=sum((window.tap_rows for window in windows), ()),
        tap_columns=sum((window.tap_columns for window in windows), ()),
        taps=sum((window.taps for window in windows), ()),
    )
    is_dense = len(windows) == 1 and first.stride == (1, 1)
    copied = not x.last or (is_dense and x.w > WIDEST_IN_PLACE)
    block = block_of(x, z.c, together, itemsize)._replace(copied=copied)
    parts = parts_of(x.n, together.rows, block, 1)
    tiling = Tiling(x, z, together, x.c, block, parts, np.zeros((1, 1), np.int64))
    passes = np.zeros((len(windows), len(kernels.Pass._fields)), np.int64)
    end = 0
    for numbers, window in zip(passes, windows, strict=True):
        begin, end = end, end + len(window.taps)
        row, _, column, _ = window.origin
        numbers[:] = kernels.Pass(window.rows, window.columns, row, column, begin, end)
    values = x.n * first.rows * first.columns * x.c * len(together.taps)
    taps = np.array(together.taps, np.int64)
    return Plan(tiling, passes, taps, parallel=values >= PARALLEL_FROM_UNPACKED_MACS)


@functools.lru_cache(maxsize=1024)
def _forward_plan(x: View, z: View, conv: Convolution, itemsize: int) -> Plan:
    return _plan(x, z, (forward_window(conv),), itemsize)


@functools.lru_cache(maxsize=1024)
def _input_gradient_plan(dz: View, dx: View, conv: Convolution, itemsize: int) -> Plan:
    return _plan(dz, dx, windows_by_remainder(conv), itemsize)


def forward(
    z: Images,
    x: Images,
    weight: Array,
    conv: Convolution,
    epilogue: Epilogue,
    activation: Any,
    sums: bool,
) -> Summed | None:
    """Z from x and the weights, and what follows."""
    plan = _forward_plan(x.view, z.view, conv, z.flat.itemsize)
    summed = None
    if sums:
        epilogue, summed = plan.tiling.with_sums(epilogue, z.flat.dtype)
    _convolve(z, x, weight, conv, plan, epilogue, activation)
    return summed


def input_gradient(dx: Images, dz: Images, weight: Array, conv: Convolution) -> None:
    """Dx from dz and the weights."""
    if not any(window.taps for window in windows_by_remainder(conv)):
        dx.flat[...] = 0.0  # no position meets a pixel
        return
    plan = _input_gradient_plan(dz.view, dx.view, conv, dx.flat.itemsize)
    _convolve(dx, dz, weight, conv, plan, Epilogue(), None)


def _convolve(
    z: Images,
    x: Images,
    weight: Array,
    conv: Convolution,
    plan: Plan,
    epilogue: Epilogue,
    activation: Any,
) -> None:
    dtype = z.flat.dtype
    tiling, passes, taps, parallel = plan
    packed = scratch.take("packed", (conv.taps * z.c,), dtype)
    kernels.pack_weights(packed, run_of(weight), conv.taps, z.c)
    room = 1 if z.last else tiling.positions * z.c
    work = tiling.workspace(dtype)._replace(
        output_blocks=tiling.scratch("output blocks", room, dtype),
        tap_offsets=tiling.scratch("tap offsets", 3 * taps.size, np.int64),
    )
    run(
        kernels.convolve, tiling.partitions, parallel, z.flat, x.flat, packed, taps, passes,
        tuple(work), tuple(epilogue), activation, tuple(tiling.geometry),
    )  # fmt: skip


def weight_gradient(dweight: Array, dz: Images, x: Images, conv: Convolution) -> None:
    """The gradient of the weights, into a flat array (k, 1, r, s)."""
    dtype = x.flat.dtype
    tiling, _, _, parallel = _forward_plan(x.view, dz.view, conv, dtype.itemsize)
    room = 1 if dz.last else tiling.positions * dz.c
    work = tiling.workspace(dtype)._replace(
        output_points=tiling.scratch("output points", room, dtype)
    )
    ld = whole_vectors(dz.c, dtype.itemsize)
    sums = scratch.take("weight sums", (tiling.geometry.block_parts, conv.taps, ld), np.float64)
    run(
        kernels.weight_gradient, tiling.partitions, parallel,
        sums, dz.flat, x.flat, tuple(work), tuple(tiling.geometry),
    )  # fmt: skip
    collect_weights(dweight, sums, (conv.groups, 1, 1))
