"""Batch norm on checked arguments, and its gradients: in which order its kernels run."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nbnorm.kernels.batch_norm.gradients import (
    fold_gradient_slices,
    fold_gradients,
    fold_statistics,
)
from nbnorm.launch.layout import Layout, flat
from nbnorm.launch.outputs import Gradients, cast, destination
from nbnorm.launch.plans import (
    Columns,
    Fused,
    Pair,
    Planes,
    Shape,
    elementwise_plan,
    training_plan,
    weighted_plan,
)
from nbnorm.launch.statistics import (
    ChannelMoments,
    Summed,
    Weights,
    as_pair,
    channel_moments,
    channel_parameters,
    finish_blocks,
    finish_slices,
)
from nbnorm.launch.wide import in_double, may_be_wide, wide_channels
from nbnorm.typing import Array

if TYPE_CHECKING:
    from typing_extensions import Self


class Whole(NamedTuple):
    """The statistics of a batch of which x is a part, in the shape of the kept axes; its count.

    rest   what the mean lost where it was rounded to float64
    """

    mean: Array
    var: Array
    rest: Array
    count: float  # type: ignore[assignment]  # not tuple.count


class Normalization(NamedTuple):
    """What a batch norm is to do with its x.

    gamma, beta   in the shape of the kept axes, or None
    statistics    (mean, var) in that shape, or None: those of the batch
    eps, ddof
    activation    None or a tuple of kernels/activations.py
    residual      in the shape of y, or None
    whole         what takes the place of the batch's statistics where x is a part of one: a
                  `Whole`, or what makes one of the moments of x; or None
    weights       of the places of y, or None
    """

    gamma: Array | None = None
    beta: Array | None = None
    statistics: tuple[Array, Array] | None = None
    eps: float = 0.0
    ddof: int = 0
    activation: Any = None
    residual: Array | None = None
    whole: Whole | Callable[[ChannelMoments], Whole] | None = None
    weights: Weights | None = None


class Saved(NamedTuple):
    """What a backward needs of its forward; public as `BatchNormContext`.

    statistics   (4, ...) float64, in the shape of the kept axes: mean, var, inv_std, and the rest
                 of the mean, what it lost where it was rounded to float64
    count        values that they were taken of, or the sum of the weights of these
    frozen       whether they were given as constants
    part         whether they are those of a batch of which x is a part
    weights      (n s,) of x's type in the layout's order, or None
    wide         whether x is float32, and float32 cannot hold all that gradients of it need
    """

    x: Array
    gamma: Array | None
    beta: Array | None
    residual: Array | None
    statistics: Array
    count: float  # type: ignore[assignment]  # not tuple.count
    layout: Layout
    ddof: int
    activation: Any
    frozen: bool
    part: bool = False
    weights: Array | None = None
    wide: bool = False

    @classmethod
    def of(
        cls,
        x: Array,
        layout: Layout,
        normalization: Normalization,
        statistics: Array,
        count: float,
        weights: Array | None = None,
    ) -> Self:
        """What a normalization of x saves, its statistics being those of so many values."""
        gamma, beta, given, eps, ddof, activation, residual, whole, _ = normalization
        wide = may_be_wide(x, eps) and wide_channels(statistics, gamma).size > 0
        return cls(
            x, gamma, beta, residual, statistics, count, layout, ddof, activation,
            given is not None, whole is not None, weights, wide,
        )  # fmt: skip


# --- forward ----------------------------------------------------------------------------------


def infer(
    x: Array, layout: Layout, normalization: Normalization, out: Array | None = None
) -> tuple[Array | None, Array]:
    """Y by the statistics that were given; and these, with inv_std.

    Where a variance is negative there is no y, and nothing has been written to `out`.
    """
    given = normalization.statistics
    assert given is not None
    place = destination(out, x.shape, x.dtype, layout.order)
    statistics, negative = _infer(place.written, x, layout, normalization, given)
    return None if negative else place.deliver(), statistics


def _infer(
    y: Array,
    x: Array,
    layout: Layout,
    normalization: Normalization,
    given: Pair,
    rest: Array | None = None,
) -> tuple[Array, bool]:
    """Writes y by a mean and variance, in the layout's order, unless a variance is negative.

    `rest` is what the mean lost in rounding, if known. Returns the statistics (4, ...), and whether
    a variance is negative.
    """
    c = layout.shape[1]
    statistics = np.zeros((4, c))
    if rest is not None:
        statistics[3] = rest.reshape(-1)
    pair = as_pair(*given)
    if pair is None:
        pair = statistics[0], statistics[1]
        pair[0][:], pair[1][:] = given[0].reshape(-1), given[1].reshape(-1)
    parameters = channel_parameters(normalization.gamma, normalization.beta, c)
    residual = normalization.residual
    if residual is not None:
        residual = flat(residual, layout)
    negative = False
    if c > 0:
        # Of an empty array there are statistics alone.
        plan = elementwise_plan(layout.shape if x.size else (1, c, 1), x.itemsize)
        values = flat(x, layout)
        negative = plan.infer(
            y, statistics, values, residual, pair, parameters, normalization.eps,
            normalization.activation,
        )  # fmt: skip
        if not negative:
            _write_in_double(
                y, statistics, values, residual, parameters, layout.shape, normalization
            )
    return statistics.reshape(4, *layout.kept), negative


def normalize(
    x: Array,
    layout: Layout,
    normalization: Normalization,
    out: Array | None = None,
    summed: Summed | None = None,
) -> tuple[Array, Saved]:
    """Y, and what the backward needs; `summed` are sums of x already taken, if any.

    No variance that is given may be negative.
    """
    place = destination(out, x.shape, x.dtype, layout.order)
    statistics = np.empty((4, *layout.kept))
    n, c, s = layout.shape
    values = flat(x, layout)
    weights = normalization.weights
    count: float = n * s
    if weights is not None:
        weights = weights._replace(places=flat(weights.places, layout))
        count = weights.total
    residual = normalization.residual
    if residual is not None:
        residual = flat(residual, layout)
    given = normalization.statistics
    whole = normalization.whole
    if whole is not None:
        if not isinstance(whole, Whole):
            whole = whole(channel_moments(values, layout.shape, weights, summed))
        count = whole.count
        given = whole.mean, np.maximum(whole.var, 0.0)  # of moments that others merged, and rounded
    if given is not None:
        rest = None if whole is None else whole.rest
        statistics, _ = _infer(place.written, x, layout, normalization, given, rest)
    elif x.size:
        arguments = (
            place.written,
            statistics.reshape(4, c),
            values,
            residual,
            channel_parameters(normalization.gamma, normalization.beta, c),
            layout.shape,
            normalization,
        )
        if summed is None or not _normalize_summed(*arguments, summed):
            _normalize_batch(*arguments, weights)
        _write_in_double(*arguments)
    places = None if weights is None else weights.places
    saved = Saved.of(x, layout, normalization, statistics, count, places)
    return place.deliver(), saved


def _normalize_batch(
    y: Array,
    statistics: Array,
    x: Array,
    residual: Array | None,
    parameters: Pair,
    shape: Shape,
    normalization: Normalization,
    weights: Weights | None,
) -> None:
    """Y from the statistics of the batch, which are written to `statistics`."""
    plan: Fused | Planes | Columns
    if weights is None:
        plan = training_plan(shape, x.itemsize, 2)
    else:
        plan = weighted_plan(shape, x.itemsize)
    eps, ddof, activation = normalization.eps, normalization.ddof, normalization.activation
    if isinstance(plan, Fused):
        plan.forward(y, statistics, x, residual, parameters, eps, ddof, activation)
        return
    constants, folded = plan.constants(3, x.dtype)
    finish_slices(plan, statistics, constants, folded, x, parameters, eps, ddof, weights)
    plan.normalize(y, x, residual, constants, activation)


def _normalize_summed(
    y: Array,
    statistics: Array,
    x: Array,
    residual: Array | None,
    parameters: Pair,
    shape: Shape,
    normalization: Normalization,
    summed: Summed,
) -> bool:
    """As `_normalize_batch`, from sums already taken; False where their pivots were bad."""
    plan = elementwise_plan(shape, x.itemsize)
    constants, folded = plan.constants(3, x.dtype)
    good = finish_blocks(
        plan, statistics, constants, folded, summed, x, parameters, normalization.eps,
        normalization.ddof,
    )  # fmt: skip
    if good:
        plan.normalize(y, x, residual, constants, normalization.activation)
    return good


def _write_in_double(
    y: Array,
    statistics: Array,
    x: Array,
    residual: Array | None,
    parameters: Pair,
    shape: Shape,
    normalization: Normalization,
) -> None:
    """Writes the `wide_channels` of y again, from float64."""
    if not may_be_wide(x, normalization.eps):
        return
    wide = wide_channels(statistics, normalization.gamma)
    if not wide.size:
        return
    n, _, s = shape
    z = np.empty(n * len(wide) * s)
    own = np.ascontiguousarray(statistics[:, wide])
    elementwise_plan((n, len(wide), s), z.itemsize).infer(
        z, own, in_double(x, shape, wide),
        None if residual is None else in_double(residual, shape, wide), (own[0], own[1]),
        (parameters[0][wide], parameters[1][wide]), normalization.eps, normalization.activation,
    )  # fmt: skip
    y.reshape(shape)[:, wide] = z.reshape(n, len(wide), s)


# --- backward ---------------------------------------------------------------------------------


def differentiate(
    dy: Array,
    saved: Saved,
    wanted: Collection[str],
    out: Gradients,
    sums: Array | Callable[[Array], Array] | None = None,
) -> Gradients:
    """The gradients dx, dgamma, dbeta and dresidual, those that are `wanted`.

    `sums` are the `gradient_sums` of a batch of which x is a part, or what makes them of those of
    x; dgamma and dbeta are the part's own.
    """
    x, layout = saved.x, saved.layout
    dx = dgamma = dbeta = dresidual = None
    if "dx" in wanted:
        dx = destination(out[0], x.shape, x.dtype, layout.order)
    if saved.residual is not None and "dresidual" in wanted:
        dresidual = destination(out[3], x.shape, x.dtype, layout.order)
    dgamma_dbeta = np.zeros((2, *layout.kept))
    own_needed = sums is None and not saved.frozen
    if x.size:
        write = _write_wide_gradients if saved.wide else write_gradients
        write(
            None if dx is None else dx.written,
            None if dresidual is None else dresidual.written,
            dgamma_dbeta.reshape(2, layout.shape[1]),
            flat(dy, layout),
            saved,
            sums,
            sums_needed=own_needed or callable(sums) or "dgamma" in wanted or "dbeta" in wanted,
        )
    elif callable(sums):  # the other parts wait for it
        sums(dgamma_dbeta)
    if saved.gamma is not None and "dgamma" in wanted:
        dgamma = cast(dgamma_dbeta[0], saved.gamma.dtype, out[1])
    if saved.beta is not None and "dbeta" in wanted:
        dbeta = cast(dgamma_dbeta[1], saved.beta.dtype, out[2])
    return (
        None if dx is None else dx.deliver(),
        dgamma,
        dbeta,
        None if dresidual is None else dresidual.deliver(),
    )


def gradient_sums(dy: Array, saved: Saved) -> Array:
    """sum(g) and sum(g xh) of the values of x: (2, ...) float64, the rest the kept axes."""
    dgamma_dbeta = np.zeros((2, *saved.layout.kept))
    if saved.x.size:
        rows = dgamma_dbeta.reshape(2, saved.layout.shape[1])
        write = _write_wide_gradients if saved.wide else write_gradients
        write(None, None, rows, flat(dy, saved.layout), saved, None, sums_needed=True)
    return dgamma_dbeta[::-1].copy()


def needed_after_product(owed: Collection[str]) -> set[str]:
    """The gradients that a batch norm is asked for, where those `owed` are of a product and it.

    Its own dx, the gradient of the product, leads to the dx, dweight and dbias of the whole.
    """
    names = {"dgamma", "dbeta", "dresidual"}.intersection(owed)
    return names if names.issuperset(owed) else names | {"dx"}


def write_gradients(
    dx: Array | None,
    dresidual: Array | None,
    dgamma_dbeta: Array,
    dy: Array,
    saved: Saved,
    sums: Array | Callable[[Array], Array] | None,
    *,
    sums_needed: bool,
) -> None:
    """The gradients of a dy in the layout's order: dx and dresidual unless they are None."""
    x, gamma, beta, residual, statistics, count, layout, ddof, activation, frozen = saved[:10]
    n, c, s = shape = layout.shape
    weights = None if frozen else saved.weights
    x = flat(x, layout)
    if residual is not None:
        residual = flat(residual, layout)
    statistics = statistics.reshape(4, c)
    parameters = channel_parameters(gamma, beta, c)
    plan: Fused | Planes | Columns
    if weights is not None:
        plan = weighted_plan(shape, x.itemsize)
    elif count == n * s and sums is None:
        plan = training_plan(shape, x.itemsize, 3)
    else:  # fused kernels count and sum the values for themselves
        plan = elementwise_plan(shape, x.itemsize)
    if isinstance(plan, Fused):
        plan.backward(
            dx, dresidual, dgamma_dbeta, dy, x, residual, statistics, parameters, ddof, activation,
            frozen,
        )  # fmt: skip
        return
    constants, folded = plan.constants(7, x.dtype)
    fold_statistics(constants, folded, statistics, parameters, plan.spans)
    if sums_needed:
        slices = plan.sum(dy, x, residual, None, constants, activation)
    else:
        slices = np.zeros((1, 2, constants.shape[1]))
    m = float(count)
    fold_gradient_slices(
        dgamma_dbeta, constants, folded, slices, statistics, parameters, plan.spans, m, ddof, frozen
    )
    if callable(sums):
        sums = sums(dgamma_dbeta[::-1].reshape(2, *layout.kept))
    if dx is None and dresidual is None:
        return
    if sums is not None:
        whole = np.array(sums[::-1]).reshape(2, c)
        fold_gradients(constants, folded, whole, statistics, parameters, plan.spans, m, ddof)
    plan.apply(dx, dresidual, dy, x, residual, weights, constants, activation, frozen)


def _write_wide_gradients(
    dx: Array | None,
    dresidual: Array | None,
    dgamma_dbeta: Array,
    dy: Array,
    saved: Saved,
    sums: Array | Callable[[Array], Array] | None,
    *,
    sums_needed: bool,
) -> None:
    """As `write_gradients`; those of the `wide_channels` come from float64."""
    layout, residual, gamma = saved.layout, saved.residual, saved.gamma
    n, c, s = shape = layout.shape
    statistics = saved.statistics.reshape(4, c)
    wide = wide_channels(statistics, gamma)
    part = (n, len(wide), s)
    own = saved._replace(
        x=in_double(flat(saved.x, layout), shape, wide),
        gamma=None if gamma is None else gamma.reshape(-1)[wide],
        beta=None if saved.beta is None else saved.beta.reshape(-1)[wide],
        residual=None if residual is None else in_double(flat(residual, layout), shape, wide),
        statistics=np.ascontiguousarray(statistics[:, wide]),
        layout=Layout(None, part, part[1:2]),
        weights=None if saved.weights is None else saved.weights.astype(np.float64),
    )
    own_dy = in_double(dy, shape, wide)  # now: dx may be written over dy
    own_sums = np.zeros((2, len(wide)))
    write_gradients(None, None, own_sums, own_dy, own, None, sums_needed=True)

    def whole_of(found: Array) -> Array:
        nonlocal sums
        assert callable(sums)
        found = found.reshape(2, c).copy()
        found[:, wide] = own_sums[::-1]
        sums = sums(found.reshape(2, *layout.kept))
        return sums

    given = whole_of if callable(sums) else sums
    write_gradients(dx, dresidual, dgamma_dbeta, dy, saved, given, sums_needed=sums_needed)
    dgamma_dbeta[:, wide] = own_sums
    assert not callable(sums)
    if sums is not None:
        sums = sums.reshape(2, c)[:, wide]
    own_dx, own_dresidual = (
        None if place is None else np.empty(own_dy.size) for place in (dx, dresidual)
    )
    write_gradients(own_dx, own_dresidual, own_sums, own_dy, own, sums, sums_needed=True)
    with np.errstate(over="ignore"):  # kernels do not warn either
        for place, found in ((dx, own_dx), (dresidual, own_dresidual)):
            if place is not None and found is not None:
                place.reshape(shape)[:, wide] = found.reshape(part)
