"""A dense layer and batch norm in one, on checked arguments."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from nbnorm.kernels.gemm.epilogue import Epilogue
from nbnorm.launch import batch_norm, dense, dense_by_covariance
from nbnorm.launch.batch_norm import Normalization, Saved
from nbnorm.launch.dense_by_covariance import StandardizedInput
from nbnorm.launch.gemm import as_rows, given_constants, matrix, multiply, shift_by, sums_for
from nbnorm.launch.layout import layout_of, run_of
from nbnorm.launch.outputs import Gradients, cast, destination
from nbnorm.launch.scratch import empty
from nbnorm.launch.statistics import Summed, channel_sums
from nbnorm.typing import Array


def forward(
    x: Array,
    weight: Array,
    bias: Array | None,
    normalization: Normalization,
    out: Array | None,
) -> tuple[Array, Saved, StandardizedInput | None]:
    """Y, what the batch norm of z saves, and what takes the place of a z that was not stored."""
    k, c = weight.shape
    n = math.prod(x.shape[:-1])
    if normalization.residual is not None:
        normalization = normalization._replace(residual=normalization.residual.reshape(n, k))
    y = destination(out, (*x.shape[:-1], k), x.dtype)
    of_batch = normalization.statistics is None
    weights = normalization.weights
    if weights is not None:
        places = np.broadcast_to(weights.places, (*x.shape[:-1], 1)).reshape(n, 1)
        normalization = normalization._replace(weights=weights._replace(places=places))
    plain = of_batch and weights is None and normalization.whole is None
    if plain and dense_by_covariance.use_covariance(n, k, c):
        found = dense_by_covariance.normalize_product(
            y.written, x.reshape(n, c), weight, bias, normalization
        )
        if found is not None:
            statistics, standardized = found
            nothing = np.empty((0, k), x.dtype)
            layout = layout_of(nothing.shape, nothing.strides, (1,))
            normalization = normalization._replace(residual=None)
            saved = Saved.of(nothing, layout, normalization, statistics, n)
            return y.deliver(), saved, standardized
    summed = sums_for((n, k, c), x.dtype) if of_batch and weights is None and k and n else None
    z = _product(x, weight, bias, summed)
    layout = layout_of(z.shape, z.strides, (1,))
    rows = y.written.reshape(n, k)
    _, saved = batch_norm.normalize(z, layout, normalization, rows, summed)
    return y.deliver(), saved, None


def _product(x: Array, weight: Array, bias: Array | None, summed: Summed | None) -> Array:
    """Z (n, k), and the sums of its columns."""
    k = len(weight)
    z = empty((math.prod(x.shape[:-1]), k), x.dtype)
    epilogue = Epilogue(constants=shift_by(bias, k, x.dtype))
    if summed is not None:
        epilogue = epilogue._replace(sums=summed.sums, pivots=summed.pivots)
    multiply(z.reshape(-1), as_rows(x), matrix(weight).transposed, epilogue)
    return z


def inference(
    x: Array,
    weight: Array,
    bias: Array | None,
    normalization: Normalization,
    out: Array | None,
) -> Array:
    """Y from given statistics, while a block of the product is in cache."""
    y = destination(out, (*x.shape[:-1], len(weight)), x.dtype)
    residual = normalization.residual
    if residual is not None:
        residual = run_of(residual)
        if np.may_share_memory(residual, y.written):  # blocks are written before others are read
            residual = residual.copy()
    epilogue = Epilogue(given_constants(normalization, bias, x.dtype), residual)
    multiply(y.written, as_rows(x), matrix(weight).transposed, epilogue, normalization.activation)
    return y.deliver()


def differentiate(
    dy: Array,
    x: Array,
    weight: Array,
    bias: Array | None,
    saved: Saved,
    standardized: StandardizedInput | None,
    owed: frozenset[str],
    out: Gradients,
    sums: Array | Callable[[Array], Array] | None = None,
) -> Gradients:
    """The gradients dx, dweight, dbias, dgamma, dbeta and dresidual, those that are `owed`."""
    if standardized is not None:
        gradients = _differentiate_without_product(
            dy, x, weight, bias, saved, standardized, owed, out
        )
        if gradients is not None:
            return gradients
        z = _product(x, weight, bias, None)
        layout = layout_of(z.shape, z.strides, (1,))
        saved = saved._replace(x=z, layout=layout, residual=standardized.residual)
    shape = saved.x.shape
    rows = None
    if "dresidual" in owed:
        place = destination(out[5], dy.shape, dy.dtype)
        rows = place.written.reshape(shape)
    wanted = batch_norm.needed_after_product(owed)
    dz, dgamma, dbeta, dresidual = batch_norm.differentiate(
        dy.reshape(shape), saved, wanted, (None, out[3], out[4], rows), sums
    )
    if dresidual is not None:
        dresidual = place.deliver()
    dx = dweight = dbias = None
    if dz is not None:
        dz = dz.reshape(dy.shape)
        dx, dweight, _ = dense.differentiate(dz, x, weight, owed - {"dbias"}, out)
        if bias is not None and "dbias" in owed:
            dbias = cast(channel_sums(dz), bias.dtype, out[2])
    return dx, dweight, dbias, dgamma, dbeta, dresidual


def _differentiate_without_product(
    dy: Array,
    x: Array,
    weight: Array,
    bias: Array | None,
    saved: Saved,
    standardized: StandardizedInput,
    owed: frozenset[str],
    out: Gradients,
) -> Gradients | None:
    """The gradients from small matrices; None if dx would lose digits, nothing being written."""
    gamma, beta = saved.gamma, saved.beta
    k = len(weight)
    found = dense_by_covariance.differentiate(dy.reshape(-1, k), standardized, weight, saved)
    if found is None:
        return None
    dx = dweight = dbias = dgamma = dbeta = dresidual = None
    if "dx" in owed:
        place = destination(out[0], x.shape, x.dtype)
        dense_by_covariance.write_dx(place.written, found, standardized)
        dx = place.deliver()
    if "dweight" in owed:
        dweight = cast(found.dweight, weight.dtype, out[1])
    if bias is not None and "dbias" in owed:  # the mean takes the bias out
        dbias = cast(np.zeros(k), bias.dtype, out[2])
    if gamma is not None and "dgamma" in owed:
        dgamma = cast(found.dgamma, gamma.dtype, out[3])
    if beta is not None and "dbeta" in owed:
        dbeta = cast(found.dbeta, beta.dtype, out[4])
    if "dresidual" in owed:
        dresidual = out[5]
        if dresidual is not None:
            dresidual[...] = found.g.reshape(dy.shape)
        else:
            # g is a fresh array unless there was no activation; then it aliases dy.
            dresidual = found.g.reshape(dy.shape)
            if np.may_share_memory(dresidual, dy):
                dresidual = dresidual.copy()
    return dx, dweight, dbias, dgamma, dbeta, dresidual
