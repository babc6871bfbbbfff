"""What follows a convolution's product, done while the block is still in the L2 cache."""

from __future__ import annotations

from nbnorm.jit.options import inlined
from nbnorm.kernels.batch_norm.moments import begin_sums, choose_pivot
from nbnorm.kernels.batch_norm.normalize import normalize_block, normalize_run
from nbnorm.kernels.batch_norm.sums import sum_block, sum_plane


@inlined
def finish(z, epilogue, activation, part, is_first, channels, block, geometry):
    """Applies an epilogue's constants to a block, and adds the block to the sums of its part.

    part      of the blocks, whose sums these are
    is_first  whether the block is the first one of the part
    channels  (first, last + 1)
    block     an `Extent`, in pixels of the output
    """
    # The fields are handed on because Numba leaves out a branch on None for an argument alone.
    _normalize(
        z, epilogue.constants, epilogue.residual, activation, channels, block, geometry
    )  # fmt: skip
    _add_sums(
        epilogue.sums, epilogue.pivots, z, part, is_first, channels, block, geometry
    )  # fmt: skip


@inlined
def _pixel_range(block, geometry):
    """The pixels (first, last + 1) of a block that is one run of pixels."""
    first = (block.image * geometry.z_h + block.row) * geometry.z_w
    return first, first + block.images * block.rows * geometry.z_w


@inlined
def _normalize(z, constants, residual, activation, channels, block, geometry):
    if constants is None:
        return
    k = geometry.k
    if geometry.z_last:
        pixels = _pixel_range(block, geometry)
        normalize_block(z, z, residual, constants, pixels, channels, k, activation, False)
        return
    plane = geometry.z_h * geometry.z_w
    length = block.rows * geometry.z_w
    for image in range(block.image, block.image + block.images):
        for channel in range(channels[0], channels[1]):
            start = (image * k + channel) * plane + block.row * geometry.z_w
            normalize_run(
                z, z, residual, start, start + length, constants, channel, length, activation,
                False, 1, length,
            )  # fmt: skip


@inlined
def _add_sums(sums, pivots, z, part, is_first, channels, block, geometry):
    if sums is None:
        return
    k = geometry.k
    if geometry.z_last:
        pixels = _pixel_range(block, geometry)
        if is_first:
            begin_sums(sums[part], pivots[part], z, pixels, channels, k)
        sum_block(sums[part], None, z, None, None, pivots[part], pixels, channels, k, None)
        return
    plane = geometry.z_h * geometry.z_w
    length = block.rows * geometry.z_w
    begin = block.image * plane + block.row * geometry.z_w
    end = begin + block.images * length
    for channel in range(channels[0], channels[1]):
        if is_first:
            start = (block.image * k + channel) * plane + block.row * geometry.z_w
            choose_pivot(pivots[part][:, channel:], z[start:], 0, (1, 1, length))
            sums[part, 0, channel] = 0.0
            sums[part, 1, channel] = 0.0
        s, q = sum_plane(
            None, z, None, None, pivots[part], channel, begin, end, None, (geometry.n, k, plane)
        )
        sums[part, 0, channel] += s
        sums[part, 1, channel] += q
