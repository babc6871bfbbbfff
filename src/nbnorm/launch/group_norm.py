"""Group norm on checked arguments, and its gradients: batch norms of parts of the array.

A part is what has statistics of its own for every group of its channels. Where the channels of a
sample are planes, all samples are one part with the channels of them all: (n, c, s) is seen as
(1, n c, s), and an instance norm is a batch norm of that. With channels last each sample is a part.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

from nbnorm.jit.threads import run
from nbnorm.kernels.batch_norm import groups
from nbnorm.kernels.batch_norm.gradients import fold_gradient_slices, fold_statistics
from nbnorm.kernels.batch_norm.moments import SMALLEST_SQUARE
from nbnorm.launch import batch_norm
from nbnorm.launch.batch_norm import Normalization, Whole
from nbnorm.launch.layout import Layout, layout_of, run_of
from nbnorm.launch.outputs import Gradients, cast, destination
from nbnorm.launch.plans import Fused, Shape, elementwise_plan, training_plan
from nbnorm.launch.scratch import scratch
from nbnorm.launch.statistics import channel_parameters, finish_slices
from nbnorm.launch.wide import wide_channels
from nbnorm.typing import Array

# float32 holds all that gradients need of smaller 1 / s, whatever gamma is in practice.
LARGE_INVERSE = 1e18


class Parts(NamedTuple):
    """Parts of an array that have statistics of their own.

    order      the axes as they come in memory, None where that is their own order
    number     parts, one after the other
    shape      (n, c, s) of each
    groups     of neighbours among its channels: the statistics of a part
    samples    whose channels are those of a part
    """

    order: tuple[int, ...] | None
    number: int
    shape: Shape
    groups: int
    samples: int

    @property
    def size(self) -> int:
        """Values in a part."""
        return math.prod(self.shape)

    @property
    def layout(self) -> Layout:
        """Of a part."""
        return Layout(None, self.shape, self.shape[1:2])

    @property
    def channels_of_group(self) -> int:
        """Channels in a group."""
        return self.shape[1] // self.groups

    @property
    def values_of_group(self) -> int:
        """Values in a group."""
        return self.size // self.groups


def parts_of(shape: tuple[int, ...], strides: tuple[int, ...], axis: int, groups: int) -> Parts:
    """The parts of an array of samples, whose channels along an axis are in so many groups."""
    within = layout_of(shape[1:], strides[1:], (axis - 1,))
    order = None if within.order is None else (0, *(a + 1 for a in within.order))
    before, c, s = within.shape
    samples = shape[0]
    if before == 1:
        return Parts(order, 1, (1, samples * c, s), samples * groups, samples)
    return Parts(order, samples, within.shape, groups, 1)


class Saved(NamedTuple):
    """What a backward needs of its forward; public as `GroupNormContext`.

    statistics   (4, samples, groups) float64: as those of a batch norm
    axis         of the channels
    """

    x: Array
    gamma: Array | None
    beta: Array | None
    residual: Array | None
    statistics: Array
    axis: int
    activation: Any

    @property
    def parts(self) -> Parts:
        """Those of x."""
        return parts_of(self.x.shape, self.x.strides, self.axis, self.statistics.shape[2])


def normalize(
    x: Array, axis: int, num_groups: int, normalization: Normalization, out: Array | None = None
) -> tuple[Array, Saved]:
    """Y, and what the backward needs."""
    parts = parts_of(x.shape, x.strides, axis, num_groups)
    place = destination(out, x.shape, x.dtype, parts.order)
    gamma, beta, residual = normalization.gamma, normalization.beta, normalization.residual
    statistics = np.zeros((4, parts.number, parts.groups))
    if x.size:
        own = normalization._replace(gamma=_repeated(gamma, parts), beta=_repeated(beta, parts))
        values, added = _run(x, parts), _run(residual, parts)
        for part in range(parts.number):
            here = slice(part * parts.size, (part + 1) * parts.size)
            own = own._replace(residual=None if added is None else added[here])
            statistics[:, part] = _normalize_part(place.written[here], values[here], parts, own)
    statistics = statistics.reshape(4, len(x), num_groups)
    saved = Saved(x, gamma, beta, residual, statistics, axis, normalization.activation)
    return place.deliver(), saved


def _normalize_part(y: Array, x: Array, parts: Parts, normalization: Normalization) -> Array:
    """Writes the y of a part; returns its statistics (4, groups)."""
    if parts.channels_of_group == 1:
        return batch_norm.normalize(x, parts.layout, normalization, y)[1].statistics
    n, c, s = parts.shape
    statistics = np.empty((4, parts.groups))
    fused = _fused_plan(parts, x.itemsize, 2)
    if fused is not None and (x.itemsize > 4 or normalization.eps >= SMALLEST_SQUARE):
        run(
            groups.forward_groups, fused.tiles, fused.parallel, y, statistics,
            scratch.take("sums", (2, parts.groups), np.float64),
            scratch.take("channel constants", (3, parts.groups), x.dtype),
            scratch.take("constants", (3, c), x.dtype), x, normalization.residual,
            (np.ones(parts.groups), np.zeros(parts.groups)),
            channel_parameters(normalization.gamma, normalization.beta, c), normalization.eps,
            normalization.activation, fused.streamed, fused.width, parts.channels_of_group,
            parts.shape,
        )  # fmt: skip
        return statistics
    plan = elementwise_plan((n, parts.groups, parts.channels_of_group * s), x.itemsize)
    constants, folded = plan.constants(3, x.dtype)
    ones = channel_parameters(None, None, parts.groups)
    finish_slices(plan, statistics, constants, folded, x, ones, normalization.eps, 0)
    mean, var, _, rest = np.repeat(statistics, parts.channels_of_group, axis=1)
    rest[~np.isfinite(rest)] = 0.0
    whole = Whole(mean, var, rest, parts.values_of_group)
    batch_norm.normalize(x, parts.layout, normalization._replace(whole=whole), y)
    return statistics


def _fused_plan(parts: Parts, itemsize: int, arrays: int) -> Fused | None:
    """The plan for a kernel that does whole groups of planes; None where none does."""
    n, _, s = parts.shape
    if n > 1 or s == 1:
        return None
    plan = training_plan((1, parts.groups, parts.channels_of_group * s), itemsize, arrays)
    return plan if isinstance(plan, Fused) and not plan.columns else None


def differentiate(dy: Array, saved: Saved, wanted: Collection[str], out: Gradients) -> Gradients:
    """The gradients dx, dgamma, dbeta and dresidual, those that are `wanted`."""
    x, gamma, beta, residual, statistics, _, activation = saved
    parts = saved.parts
    if x.itemsize == 4 and _is_wide(saved, parts):
        return _differentiate_in_double(dy, saved, wanted, out)
    dx = dgamma = dbeta = dresidual = None
    if "dx" in wanted:
        dx = destination(out[0], x.shape, x.dtype, parts.order)
    if residual is not None and "dresidual" in wanted:
        dresidual = destination(out[3], x.shape, x.dtype, parts.order)
    sums = np.zeros((2, parts.number, parts.shape[1]))
    if x.size:
        values, gradient, added = _run(x, parts), _run(dy, parts), _run(residual, parts)
        given = statistics.reshape(4, parts.number, parts.groups)
        parameters = _repeated(gamma, parts), _repeated(beta, parts)
        for part in range(parts.number):
            here = slice(part * parts.size, (part + 1) * parts.size)
            sums[:, part] = _differentiate_part(
                None if dx is None else dx.written[here],
                None if dresidual is None else dresidual.written[here],
                gradient[here],
                batch_norm.Saved(
                    values[here], *parameters, None if added is None else added[here],
                    np.repeat(given[:, part], parts.channels_of_group, axis=1),
                    parts.values_of_group, parts.layout, 0, activation, False,
                ),
                parts,
            )  # fmt: skip
    dgamma_dbeta = sums.reshape(2, len(x), x.shape[saved.axis]).sum(axis=1)
    if gamma is not None and "dgamma" in wanted:
        dgamma = cast(dgamma_dbeta[0], gamma.dtype, out[1])
    if beta is not None and "dbeta" in wanted:
        dbeta = cast(dgamma_dbeta[1], beta.dtype, out[2])
    return (
        None if dx is None else dx.deliver(),
        dgamma,
        dbeta,
        None if dresidual is None else dresidual.deliver(),
    )


def _is_wide(saved: Saved, parts: Parts) -> bool:
    """Whether float32 cannot hold all that gradients of a part need."""
    inverses = saved.statistics[2]
    if inverses.size == 0 or inverses.max() < LARGE_INVERSE:  # as nearly always
        return False
    statistics = np.repeat(saved.statistics.reshape(4, -1), parts.channels_of_group, axis=1)
    gamma = None if saved.gamma is None else np.tile(saved.gamma, len(saved.x))
    return wide_channels(statistics, gamma).size > 0


def _differentiate_in_double(
    dy: Array, saved: Saved, wanted: Collection[str], out: Gradients
) -> Gradients:
    """As `differentiate`, by float64: for deviations so small that nobody waits for them."""
    residual = None if saved.residual is None else saved.residual.astype(np.float64)
    own = saved._replace(x=saved.x.astype(np.float64), residual=residual)
    found = differentiate(dy.astype(np.float64), own, wanted, (None,) * len(out))
    types = (saved.x, saved.gamma, saved.beta, saved.x)
    with np.errstate(over="ignore"):  # kernels do not warn either
        return tuple(
            None if gradient is None or like is None else cast(gradient, like.dtype, place)
            for gradient, like, place in zip(found, types, out, strict=True)
        )


def _differentiate_part(
    dx: Array | None, dresidual: Array | None, dy: Array, saved: batch_norm.Saved, parts: Parts
) -> Array:
    """Writes dx and dresidual of a part unless they are None; returns dgamma and dbeta (2, c)."""
    if parts.channels_of_group == 1:
        sums = np.zeros((2, parts.shape[1]))
        batch_norm.write_gradients(dx, dresidual, sums, dy, saved, None, sums_needed=True)
        return sums
    x, residual, statistics = saved.x, saved.residual, saved.statistics
    c, m = parts.shape[1], float(parts.values_of_group)
    parameters = channel_parameters(saved.gamma, saved.beta, c)
    sums = np.empty((2, c))
    fused = _fused_plan(parts, x.itemsize, 3)
    if fused is not None:
        run(
            groups.backward_groups, fused.tiles, fused.parallel, dx, dresidual, sums,
            scratch.take("sums", (2, c), np.float64),
            scratch.take("constants", (7, c), x.dtype), dy, x, residual, statistics, parameters,
            saved.activation, fused.streamed and dx is not None, fused.width,
            parts.channels_of_group, parts.shape,
        )  # fmt: skip
        return sums
    plan = elementwise_plan(parts.shape, x.itemsize)
    constants, folded = plan.constants(7, x.dtype)
    channels = statistics, parameters
    fold_statistics(constants, folded, *channels, plan.spans)
    slices = plan.sum(dy, x, residual, None, constants, saved.activation)
    fold_gradient_slices(sums, constants, folded, slices, *channels, plan.spans, m, 0, True)
    if dx is not None or dresidual is not None:
        groups.fold_group_gradients(
            constants, folded, sums, statistics, parameters[0], plan.spans,
            parts.channels_of_group, m,
        )  # fmt: skip
        plan.apply(dx, dresidual, dy, x, residual, None, constants, saved.activation, False)
    return sums


def _run(array: Array | None, parts: Parts) -> Any:
    """The elements in the parts' order; None where there is no array."""
    if array is None:
        return None
    return run_of(array if parts.order is None else array.transpose(parts.order))


def _repeated(parameter: Array | None, parts: Parts) -> Array | None:
    """A number for each channel of a part, float64."""
    if parameter is None:
        return None
    return np.tile(parameter.astype(np.float64), parts.samples)
