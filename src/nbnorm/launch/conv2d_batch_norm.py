"""A convolution and batch norm in one, on checked arguments."""

from __future__ import annotations

from collections.abc import Callable

from nbnorm.launch import batch_norm
from nbnorm.launch.batch_norm import Normalization, Saved
from nbnorm.launch.conv2d import algorithms
from nbnorm.launch.conv2d.convolution import Convolution
from nbnorm.launch.conv2d.images import destination_of_images, flat_like, images_of, new_images
from nbnorm.launch.gemm import given_constants, shift_by
from nbnorm.launch.layout import layout_of
from nbnorm.launch.outputs import Gradients, cast
from nbnorm.typing import Array


def forward(
    x: Array,
    weight: Array,
    bias: Array | None,
    conv: Convolution,
    normalization: Normalization,
    out: Array | None,
) -> tuple[Array, Saved]:
    """Y, and what the batch norm of z saves."""
    images = images_of(x, conv.axis)
    written = new_images(conv.output_shape, conv.axis, images.last, x.dtype)
    summed = algorithms.forward(
        written, images, weight, conv, constants=shift_by(bias, len(weight), x.dtype),
        sums=normalization.statistics is None and normalization.weights is None and x.size > 0,
    )  # fmt: skip
    z = written.array(conv.axis)
    layout = layout_of(z.shape, z.strides, (conv.axis % 4,))
    return batch_norm.normalize(z, layout, normalization, out, summed)


def inference(
    x: Array,
    weight: Array,
    bias: Array | None,
    conv: Convolution,
    normalization: Normalization,
    out: Array | None,
) -> Array:
    """Y from given statistics, while a block of the output is in cache."""
    images = images_of(x, conv.axis)
    y, written = destination_of_images(out, conv.output_shape, conv.axis, images)
    algorithms.forward(
        written, images, weight, conv,
        constants=given_constants(normalization, bias, x.dtype),
        residual=flat_like(normalization.residual, conv.axis, written),
        activation=normalization.activation,
    )  # fmt: skip
    return y.deliver()


def differentiate(
    dy: Array,
    x: Array,
    weight: Array,
    bias: Array | None,
    saved: Saved,
    conv: Convolution,
    owed: frozenset[str],
    out: Gradients,
    sums: Array | Callable[[Array], Array] | None = None,
) -> Gradients:
    """The gradients dx, dweight, dbias, dgamma, dbeta and dresidual, those that are `owed`."""
    dz, dgamma, dbeta, dresidual = batch_norm.differentiate(
        dy, saved, batch_norm.needed_after_product(owed), (None, *out[3:]), sums
    )
    dx = dweight = dbias = None
    if dz is not None:
        places = out[0], out[1], None
        dx, dweight, dbias = algorithms.differentiate(dz, x, weight, conv, owed, places)
        if dbias is not None and bias is not None:
            dbias = cast(dbias, bias.dtype, out[2])
    return dx, dweight, dbias, dgamma, dbeta, dresidual
