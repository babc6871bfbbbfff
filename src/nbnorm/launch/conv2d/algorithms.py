"""Convolutions of checked arrays: which algorithm works them out, and its run."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection
from typing import Any, Protocol

from nbnorm.jit import target
from nbnorm.jit.threads import run
from nbnorm.kernels.conv2d.images import turn_images
from nbnorm.kernels.conv2d.winograd_transforms import TILE
from nbnorm.kernels.gemm.epilogue import Epilogue
from nbnorm.launch.conv2d import depthwise, direct, grouped, pointwise, winograd
from nbnorm.launch.conv2d.convolution import Convolution
from nbnorm.launch.conv2d.images import Images, destination_of_images, images_of, new_images
from nbnorm.launch.gemm import shift_by
from nbnorm.launch.machine import LLC_BYTES, PARALLEL_FROM_VALUES
from nbnorm.launch.outputs import Gradients, cast, destination
from nbnorm.launch.statistics import Summed, channel_sums
from nbnorm.typing import Array


class Algorithm(Protocol):
    """What a module of an algorithm has."""

    def forward(
        self,
        z: Images,
        x: Images,
        weight: Array,
        conv: Convolution,
        epilogue: Epilogue,
        activation: Any,
        sums: bool,
    ) -> Summed | None:
        """Z from x and the weights, and its epilogue; with sums of the channels if wanted."""
        ...

    def input_gradient(self, dx: Images, dz: Images, weight: Array, conv: Convolution) -> None:
        """Dx from dz and the weights."""
        ...

    def weight_gradient(self, dweight: Array, dz: Images, x: Images, conv: Convolution) -> None:
        """The gradient of the weights, into a flat array (k, c / groups, r, s)."""
        ...


BY_NAME: dict[str, Algorithm] = {"direct": direct, "winograd": winograd}

# Wider groups than these fill enough of a panel of the multiply.
WIDEST_GROUP = 8

# Depthwise windows of more taps are worked out as narrow groups: (8, 192, 28, 28) by 5 by 5 took
# 0.49 ms so, 0.57 by the depthwise kernel when it copied no image yet (Zen 5, two threads).
MOST_TAPS = 9

# A product packs its part of the weights for each block of pixels, a convolution all of them once;
# but it turns no gradient, and starts one parallel region a call where a convolution starts two.
# Forward, then backward, convolution / product (Zen 5, us): (8, 960, 7, 7) -> 160 336 / 318
# and 871 / 668, (8, 320, 7, 7) -> 1280 912 / 750 and 2699 / 2103, (1, 64, 28, 28) -> 256 100 / 89
# and 224 / 206; but (8, 96, 14, 14) -> 576 427 / 434 and 1005 / 998, (8, 64, 56, 56) -> 256
# 2767 / 3376 and 5543 / 6587.
MOST_PIXELS = 1024

# Winograd's weights are 4 times as many numbers, which fewer tiles than these do not repay; in the
# second case, where a forward finds all of them in the last-level cache: (32, 256, 4, 4) -> 256 of
# 32 tiles takes 0.89 ms instead of 1.57, and (1, 256, 14, 14) -> 256 of 16 tiles 0.6 instead of 0.8
# (Zen 5, two threads). The gradient of the weights has their points in several parts, and gains
# less: 64 channels and 32 tiles take 1.1 times as long.
REPAYING_TILES = 64
REPAYING_TILES_IN_CACHE = 16

# Where that cache does not hold the weights, pixels say more, since overhang saves nothing. With
# 512 channels, direct / Winograd (ms): (32, 4, 4) 6.9 / 6.3, (11, 7, 7) 8.1 / 7.3, (1, 28, 28) 10.5
# / 6.2; but (8, 7, 7), 392 pixels in 32 tiles, 5.8 / 6.4.
REPAYING_PIXELS = 512
CACHED_POINTS_BYTES = LLC_BYTES // 2

# Multiplications of a direct convolution that its tiles must save: (8, 5, 5) has too much overhang.
SAVING = 1.6


def has_winograd(conv: Convolution) -> bool:
    """Whether a convolution can be worked out by Winograd's algorithm at all."""
    options = (conv.window, conv.stride, conv.dilation, conv.groups)
    return options == ((3, 3), (1, 1), (1, 1), 1)


@functools.lru_cache(maxsize=4096)
def chosen(conv: Convolution, itemsize: int, last: bool, of_weights: bool = False) -> Algorithm:
    """The module for a convolution and its gradients; `of_weights` for the gradient of these.

    `last` is whether all images have their channels last in memory.
    """
    algorithm = conv.algorithm
    if algorithm == "auto":
        gains = _gains_by_winograd(conv, itemsize, of_weights)
        algorithm = "winograd" if gains else "direct"
    if algorithm == "direct" and conv.groups > 1:
        if conv.c == conv.k == 1 and conv.taps <= MOST_TAPS:
            return depthwise
        if max(conv.c, conv.k) <= WIDEST_GROUP:
            return grouped
    pixels = conv.n * math.prod(conv.positions)
    if last and pixels <= MOST_PIXELS and pointwise.is_pointwise(conv):
        return pointwise
    return BY_NAME[algorithm]


def _gains_by_winograd(conv: Convolution, itemsize: int, of_weights: bool) -> bool:
    tiles = conv.n * math.prod(-(-size // TILE) for size in conv.positions)
    pixels = conv.n * math.prod(conv.positions)
    if of_weights:
        repays = tiles >= REPAYING_TILES
    elif 36 * conv.c * conv.k * itemsize <= CACHED_POINTS_BYTES:
        repays = tiles >= REPAYING_TILES_IN_CACHE
    else:
        repays = pixels >= REPAYING_PIXELS
    return (
        has_winograd(conv)
        and min(conv.c, conv.k) >= target.register_bytes() // itemsize
        and repays
        and SAVING * 36 * tiles <= 9 * pixels
    )


def forward(
    z: Images,
    x: Images,
    weight: Array,
    conv: Convolution,
    *,
    constants: Array | None = None,
    residual: Array | None = None,
    activation: Any = None,
    sums: bool = False,
) -> Summed | None:
    """Z from x and the weights, and what is to be done with it while it is in cache."""
    if z.flat.size == 0:
        return None
    module = chosen(conv, z.flat.itemsize, x.last and z.last)
    epilogue = Epilogue(constants=constants, residual=residual)
    return module.forward(z, x, weight, conv, epilogue, activation, sums)


def input_gradient(dx: Images, dz: Images, weight: Array, conv: Convolution) -> None:
    """Dx from dz and the weights."""
    if dx.flat.size == 0:
        return
    module = chosen(conv, dx.flat.itemsize, dx.last and dz.last)
    if dx.last or conv.stride == (1, 1):
        module.input_gradient(dx, dz, weight, conv)
        return
    # With stride, neighbours in dx come from different passes: they are put together by pixel.
    shape = (dx.n, dx.h, dx.w, dx.c)
    by_pixel = new_images(shape, -1, True, dx.flat.dtype)
    module.input_gradient(by_pixel, dz, weight, conv)
    parallel = dx.flat.size >= PARALLEL_FROM_VALUES
    run(turn_images, dx.n, parallel, dx.flat, by_pixel.flat, shape[1:])


def weight_gradient(dweight: Array, dz: Images, x: Images, conv: Convolution) -> None:
    """The gradient of the weights, into a flat array (k, c / groups, r, s)."""
    if dz.flat.size == 0:
        dweight[...] = 0.0
        return
    module = chosen(conv, dweight.itemsize, x.last and dz.last, of_weights=True)
    module.weight_gradient(dweight, dz, x, conv)


# --- arrays ---------------------------------------------------------------------------------


def convolve(
    x: Array,
    weight: Array,
    bias: Array | None,
    conv: Convolution,
    out: Array | None,
) -> Array:
    """The convolution of an array of images, and a bias."""
    images = images_of(x, conv.axis)
    y, written = destination_of_images(out, conv.output_shape, conv.axis, images)
    constants = shift_by(bias, len(weight), x.dtype)
    forward(written, images, weight, conv, constants=constants)
    return y.deliver()


def differentiate(
    dz: Array,
    x: Array,
    weight: Array,
    conv: Convolution,
    wanted: Collection[str],
    out: Gradients,
) -> Gradients:
    """The gradients dx, dweight and dbias, those that are `wanted`."""
    gradient, images = images_of(dz, conv.axis), images_of(x, conv.axis)
    dx = dweight = dbias = None
    if "dx" in wanted:
        place, written = destination_of_images(out[0], x.shape, conv.axis, images)
        input_gradient(written, gradient, weight, conv)
        dx = place.deliver()
    if "dweight" in wanted:
        place = destination(out[1], weight.shape, weight.dtype)
        weight_gradient(place.written, gradient, images, conv)
        dweight = place.deliver()
    if "dbias" in wanted:
        dbias = cast(channel_sums(gradient.array(-1)), weight.dtype, out[2])
    return dx, dweight, dbias
