"""Convolutions by one pixel of images with channels last: products of matrices.

A pixel's channels lie together, so that images are a matrix (pixels, channels), the weights one of
(k, c), and every gradient is written as it lies: nothing is turned, collected or copied.
"""

from __future__ import annotations

from typing import Any

from nbnorm.kernels.gemm.epilogue import Epilogue
from nbnorm.kernels.gemm.gemm import Matrix
from nbnorm.launch.conv2d.convolution import Convolution
from nbnorm.launch.conv2d.images import Images
from nbnorm.launch.gemm import matrix, multiply, sums_for
from nbnorm.launch.statistics import Summed
from nbnorm.typing import Array


def is_pointwise(conv: Convolution) -> bool:
    """Whether every output pixel is made of the input pixel in its place, and of all channels."""
    options = (conv.groups, conv.window, conv.stride, conv.before, conv.positions)
    return options == (1, (1, 1), (1, 1), (0, 0), conv.image)


def forward(
    z: Images,
    x: Images,
    weight: Array,
    conv: Convolution,
    epilogue: Epilogue,
    activation: Any,
    sums: bool,
) -> Summed | None:
    """``z = x weight^T``, and what follows."""
    pixels = _pixels(x)
    summed = None
    if sums:
        summed = sums_for((pixels.rows, conv.k, conv.c), x.flat.dtype)
        epilogue = epilogue._replace(sums=summed.sums, pivots=summed.pivots)
    multiply(z.flat, pixels, _weights(weight, conv).transposed, epilogue, activation)
    return summed


def input_gradient(dx: Images, dz: Images, weight: Array, conv: Convolution) -> None:
    """``dx = dz weight``."""
    multiply(dx.flat, _pixels(dz), _weights(weight, conv))


def weight_gradient(dweight: Array, dz: Images, x: Images, conv: Convolution) -> None:  # noqa: ARG001
    """``dweight = dz^T x``."""
    multiply(dweight, _pixels(dz).transposed, _pixels(x))


def _pixels(images: Images) -> Matrix:
    return Matrix(images.flat, images.n * images.h * images.w, images.c, images.c, 1)


def _weights(weight: Array, conv: Convolution) -> Matrix:
    return matrix(weight.reshape(conv.k, conv.c))
