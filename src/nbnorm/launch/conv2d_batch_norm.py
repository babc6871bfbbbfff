"""A convolution and batch norm in one, on checked arguments."""

from __future__ import annotations

from nbnorm.launch import batch_norm
from nbnorm.launch.batch_norm import Normalization, Saved
from nbnorm.launch.conv2d import algorithms
from nbnorm.launch.conv2d.images import destination_of_images, flat_like, images_of, new_images
from nbnorm.launch.conv2d.tiling import Geometry, output_shape
from nbnorm.launch.gemm import given_constants, shift_by
from nbnorm.launch.layout import layout_of
from nbnorm.launch.outputs import Gradients, cast
from nbnorm.typing import Array


def forward(
    x: Array,
    weight: Array,
    bias: Array | None,
    g: Geometry,
    axis: int,
    algorithm: str,
    normalization: Normalization,
    out: Array | None,
) -> tuple[Array, Saved]:
    """Y, and what the batch norm of z saves."""
    images = images_of(x, axis)
    written = new_images(output_shape(g, axis), axis, images.last, x.dtype)
    summed = algorithms.forward(
        written, images, weight, g, algorithm, constants=shift_by(bias, len(weight), x.dtype),
        sums=normalization.statistics is None,
    )  # fmt: skip
    z = written.array(axis)
    layout = layout_of(z.shape, z.strides, (axis % 4,))
    y, statistics = batch_norm.normalize(z, layout, normalization, out, summed)
    return y, Saved.of(z, layout, normalization, statistics, z.size // len(weight))


def inference(
    x: Array,
    weight: Array,
    bias: Array | None,
    g: Geometry,
    axis: int,
    algorithm: str,
    normalization: Normalization,
    out: Array | None,
) -> Array:
    """Y from given statistics, while a band of the output is in cache."""
    images = images_of(x, axis)
    y, written = destination_of_images(out, output_shape(g, axis), axis, images)
    algorithms.forward(
        written, images, weight, g, algorithm,
        constants=given_constants(normalization, bias, x.dtype),
        residual=flat_like(normalization.residual, axis, written),
        activation=normalization.activation,
    )  # fmt: skip
    return y.deliver()


def differentiate(
    dy: Array,
    x: Array,
    weight: Array,
    bias: Array | None,
    saved: Saved,
    g: Geometry,
    axis: int,
    algorithm: str,
    owed: frozenset[str],
    out: Gradients,
) -> Gradients:
    """The gradients dx, dweight, dbias, dgamma, dbeta and dresidual, those that are `owed`."""
    dz, dgamma, dbeta, dresidual = batch_norm.differentiate(
        dy, saved, batch_norm.needed_after_product(owed), (None, *out[3:])
    )
    dx = dweight = dbias = None
    if dz is not None:
        places = out[0], out[1], None
        dx, dweight, dbias = algorithms.differentiate(
            dz, x, weight, g, axis, algorithm, owed, places
        )
        if dbias is not None and bias is not None:
            dbias = cast(dbias, bias.dtype, out[2])
    return dx, dweight, dbias, dgamma, dbeta, dresidual
