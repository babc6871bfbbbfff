"""Which algorithm works out a convolution: one table."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection
from types import ModuleType
from typing import Any

from nbnorm.jit import target
from nbnorm.jit.threads import run
from nbnorm.kernels.conv2d.images import turn_images, turn_images_parallel
from nbnorm.kernels.conv2d.winograd_transforms import TILE
from nbnorm.launch.conv2d import direct as conv_direct
from nbnorm.launch.conv2d import grouped as conv_grouped
from nbnorm.launch.conv2d import winograd as conv_winograd
from nbnorm.launch.conv2d.images import Images, destination_of_images, images_of, new_images
from nbnorm.launch.conv2d.tiling import Geometry, output_shape
from nbnorm.launch.gemm import shift_by
from nbnorm.launch.machine import PARALLEL_FROM_VALUES
from nbnorm.launch.outputs import Gradients, cast, destination
from nbnorm.launch.statistics import Summed, channel_sums
from nbnorm.typing import Array

BY_NAME: dict[str, ModuleType] = {"direct": conv_direct, "winograd": conv_winograd}

# Wider groups than these fill enough of a panel of the multiply.
WIDEST_GROUP = 8

# Winograd's weights are 4 times as many numbers, which fewer tiles than these do not repay.
REPAYING_TILES = 64

# Multiplications of a direct convolution that its tiles must save: (8, 5, 5) has too much overhang.
SAVING = 1.5


def has_winograd(g: Geometry) -> bool:
    """Whether a convolution can be worked out by Winograd's algorithm at all."""
    return (g.window, g.stride, g.dilation, g.groups) == ((3, 3), (1, 1), (1, 1), 1)


@functools.lru_cache(maxsize=4096)
def chosen(g: Geometry, algorithm: str, itemsize: int) -> ModuleType:
    """The module for a convolution and its gradients."""
    if algorithm == "auto":
        algorithm = "winograd" if _gains_by_winograd(g, itemsize) else "direct"
    if algorithm == "direct" and g.groups > 1 and max(g.c, g.k) <= WIDEST_GROUP:
        return conv_grouped
    return BY_NAME[algorithm]


def _gains_by_winograd(g: Geometry, itemsize: int) -> bool:
    tiles = g.n * math.prod(-(-size // TILE) for size in g.positions)
    places = g.n * math.prod(g.positions)
    return (
        has_winograd(g)
        and min(g.c, g.k) >= target.register_bytes() // itemsize
        and tiles >= REPAYING_TILES
        and SAVING * 36 * tiles <= 9 * places
    )


def forward(
    z: Images, x: Images, weight: Array, g: Geometry, algorithm: str, **after: Any
) -> Summed | None:
    """Z from x and the weights; `after`, what is to be done with it while it is in cache."""
    if z.flat.size == 0:
        return None
    module = chosen(g, algorithm, z.flat.itemsize)
    return module.forward(z, x, weight, g, **after)


def input_gradient(dx: Images, dz: Images, weight: Array, g: Geometry, algorithm: str) -> None:
    """Dx from dz and the weights."""
    if dx.flat.size == 0:
        return
    if dx.last or g.stride == (1, 1):
        chosen(g, algorithm, dx.flat.itemsize).input_gradient(dx, dz, weight, g)
        return
    # With stride, neighbours in dx come from different products: they are put together by pixel.
    shape = (dx.n, dx.h, dx.w, dx.c)
    by_pixel = new_images(shape, -1, True, dx.flat.dtype)
    chosen(g, algorithm, dx.flat.itemsize).input_gradient(by_pixel, dz, weight, g)
    parallel = dx.flat.size >= PARALLEL_FROM_VALUES
    run(turn_images, turn_images_parallel, dx.n, parallel, dx.flat, by_pixel.flat, by_pixel.view)


def weight_gradient(dweight: Array, dz: Images, x: Images, g: Geometry, algorithm: str) -> None:
    """The gradient of the weights, into a flat array (k, c / groups, r, s)."""
    if dz.flat.size == 0:
        dweight[...] = 0.0
        return
    chosen(g, algorithm, dweight.itemsize).weight_gradient(dweight, dz, x, g)


# --- arrays -----------------------------------------------------------------------------------


def convolve(
    x: Array,
    weight: Array,
    bias: Array | None,
    g: Geometry,
    axis: int,
    algorithm: str,
    out: Array | None,
) -> Array:
    """The convolution of an array of images, and a bias."""
    images = images_of(x, axis)
    y, written = destination_of_images(out, output_shape(g, axis), axis, images)
    constants = shift_by(bias, len(weight), x.dtype)
    forward(written, images, weight, g, algorithm, constants=constants)
    return y.deliver()


def differentiate(
    dz: Array,
    x: Array,
    weight: Array,
    g: Geometry,
    axis: int,
    algorithm: str,
    wanted: Collection[str],
    out: Gradients,
) -> Gradients:
    """The gradients dx, dweight and dbias, those that are `wanted`."""
    gradient, images = images_of(dz, axis), images_of(x, axis)
    dx = dweight = dbias = None
    if "dx" in wanted:
        place, written = destination_of_images(out[0], x.shape, axis, images)
        input_gradient(written, gradient, weight, g, algorithm)
        dx = place.deliver()
    if "dweight" in wanted:
        place = destination(out[1], weight.shape, weight.dtype)
        weight_gradient(place.written, gradient, images, g, algorithm)
        dweight = place.deliver()
    if "dbias" in wanted:
        dbias = cast(channel_sums(gradient.array(-1)), weight.dtype, out[2])
    return dx, dweight, dbias
