"""Dense + batch norm without the product between them, where columns of x are few and rows many.

With x standardized column by column, xs = (x - mean_x) / std_x, and V = weight diag(std_x),
the product is z = xs V^T but for its mean, so that its variance and both gradients follow from
small matrices (sums are over the m rows):

    C     = xs^T xs                            var_k    = V_k C V_k^T / (m - ddof)
    G     = g^T xs                             dgamma_k = inv_std_k (V_k . G_k)
    dV_k  = a_k (G_k - e_k V_k C)              dweight  = dV diag(std_x)
    dx    = (g - mean g) diag(a) weight - xs M         M = V^T diag(a e) weight

    a = gamma inv_std        e = dgamma inv_std / (m - ddof)

where g is dy times the activation's derivative, whose argument is one more product of xs. Arrays
of y's size are y, dy and, with an activation, g: z and dz are never written, nor read.

Two differences lose digits if their terms are large: var where the columns of x are so dependent
that they all but cancel in z, and dx where g has a mean far beyond its standard deviation. Both
are found before anything is written, and so is overflow: the functions then return None, and their
caller takes the direct algorithm, which stores z.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from nbnorm.kernels.batch_norm.moments import SMALLEST_SQUARE_OF_DOUBLES
from nbnorm.kernels.channels import HEAD, OFFSET, SCALE, SHIFT
from nbnorm.kernels.gemm.epilogue import Epilogue
from nbnorm.kernels.gemm.gemm import Matrix
from nbnorm.launch.batch_norm import Normalization, Saved, normalize
from nbnorm.launch.gemm import deep_product, matrix, multiply, sums_for
from nbnorm.launch.layout import layout_of, run_of
from nbnorm.launch.machine import whole_vectors
from nbnorm.launch.scratch import empty, scratch
from nbnorm.launch.statistics import Summed, channel_statistics
from nbnorm.typing import Array

# Columns of x per column of y, rows of x per column, and values of y, from which it pays. C and the
# standardized x cost what z saves where c is k / 4: (65536, 64, 256) ran at 0.93 of the direct
# algorithm's speed forward and 0.91 backward, (65536, 32, 256) at 1.23 and 1.05, (65536, 16, 256)
# at 1.42 and 1.22, with ReLU; 1.3 to 1.5 backward without.
MOST_COLUMNS = 1 / 8
ROWS_A_COLUMN = 256
FEWEST_VALUES = 1 << 22

# var_k loses as many digits as it is smaller than it would be if the columns were independent;
# and dx as many as the mean of g is larger than its standard deviation.
SMALLEST_PART = 1 / 16
LARGEST_MEAN = 4.0


def use_covariance(n: int, k: int, c: int) -> bool:
    """Whether dense + batch norm of these sizes is faster without the product."""
    return 0 < c <= k * MOST_COLUMNS and n >= ROWS_A_COLUMN * c and n * k >= FEWEST_VALUES


class StandardizedInput(NamedTuple):
    """What a backward is given in the place of z.

    rows           (n, c) of x's type: xs
    std            (c,) float64: std_x
    gram           (c, c) float64: C
    scaled_weight  (k, c) of x's type: diag(a) V, with which y = xs scaled_weight^T + beta
    residual       (n, k) of x's type, or None
    """

    rows: Array
    std: Array
    gram: Array
    scaled_weight: Array
    residual: Array | None


# --- forward --------------------------------------------------------------------------------


def normalize_product(
    y: Array,
    x: Array,
    weight: Array,
    bias: Array | None,
    normalization: Normalization,
) -> tuple[Array, StandardizedInput] | None:
    """Writes y, flat; the statistics (4, k) of ``z = x weight^T + bias``.

    None, and y as it was, where var would lose digits or a value overflows.
    """
    gamma, beta, _, eps, ddof, activation, residual = normalization[:7]
    n = len(x)
    rows, saved = normalize(x, layout_of(x.shape, x.strides, (1,)), Normalization())
    x_var, x_inv_std = saved.statistics[1:3]
    if ((x_var < SMALLEST_SQUARE_OF_DOUBLES) & (x_inv_std > 0)).any():
        return None
    std = np.sqrt(x_var)
    gram = deep_product(matrix(rows).transposed, matrix(rows))
    wide = weight.astype(np.float64)
    v = wide * std
    with np.errstate(all="ignore"):  # NaN and infinity are looked for below
        var = (_product(v, gram) * v).sum(axis=1) / (n - ddof)
        independent = np.square(v).sum(axis=1) * (n / (n - ddof))
        held = (var + eps >= SMALLEST_SQUARE_OF_DOUBLES) | (v == 0).all(axis=1)
        if not (held & (var + eps >= SMALLEST_PART * independent)).all():
            return None
        inv_std = np.zeros(len(var))
        np.divide(1.0, np.sqrt(var + eps), out=inv_std, where=var + eps != 0.0)
        a = inv_std if gamma is None else inv_std * gamma
        scaled_weight = (a[:, np.newaxis] * v).astype(x.dtype)
        mean = (wide * saved.statistics[0]).sum(axis=1)
        if bias is not None:
            mean += bias
        if not (np.isfinite(scaled_weight).all() and np.isfinite(mean).all()):
            return None
    standardized = StandardizedInput(rows, std, gram, scaled_weight, residual)
    _apply(y, standardized, beta, activation)
    return np.stack([mean, var, inv_std, np.zeros(len(var))]), standardized


def _apply(
    out: Array,
    standardized: StandardizedInput,
    beta: Array | None,
    activation: Any,
    dy: Array | None = None,
    summed: Summed | None = None,
) -> None:
    """Writes ``activation(xs scaled_weight^T + beta + residual)``, or its gradient if given a dy.

    The sums of its columns are taken where there is a place for them.
    """
    rows, _, _, scaled_weight, residual = standardized
    epilogue = Epilogue(
        constants=_constants_adding(beta, len(scaled_weight), out.dtype),
        residual=None if residual is None else run_of(residual),
    )
    if summed is not None:
        epilogue = epilogue._replace(sums=summed.sums, pivots=summed.pivots)
    multiply(out, matrix(rows), matrix(scaled_weight).transposed, epilogue, activation, dy)


# --- backward -------------------------------------------------------------------------------


class CovarianceGradients(NamedTuple):
    """The gradients but for dx, and what `write_dx` makes it of.

    g                       (n, k) of x's type: dy times the activation's derivative
    dweight, dgamma, dbeta  float64
    dx_from_g               (k, c) of x's type: diag(a) weight
    dx_from_x               (c, c) of x's type: -M
    dx_mean                 (c,) float64: (mean g) diag(a) weight
    """

    g: Array
    dweight: Array
    dgamma: Array
    dbeta: Array
    dx_from_g: Array
    dx_from_x: Array
    dx_mean: Array


def differentiate(
    dy: Array, standardized: StandardizedInput, weight: Array, saved: Saved
) -> CovarianceGradients | None:
    """The gradients from dy (n, k); None where dx would lose digits or a value overflows."""
    n, k = dy.shape
    if saved.activation is None:
        g = run_of(dy)
        mean, var = channel_statistics(g, (n, k, 1))[:2]
    else:
        summed = sums_for((n, k, standardized.rows.shape[1]), dy.dtype)
        g = empty((n * k,), dy.dtype)
        _apply(g, standardized, saved.beta, saved.activation, run_of(dy), summed)
        mean, var = channel_statistics(g, (n, k, 1), summed)[:2]
    if not (np.square(mean) <= LARGEST_MEAN**2 * var).all():
        return None
    cross = deep_product(Matrix(g, k, n, 1, k), matrix(standardized.rows))
    wide = weight.astype(np.float64)
    v = wide * standardized.std
    inv_std = saved.statistics[2]
    a = inv_std if saved.gamma is None else inv_std * saved.gamma
    with np.errstate(all="ignore"):  # NaN and infinity are looked for below
        dgamma = inv_std * (v * cross).sum(axis=1)
        e = dgamma * inv_std / (n - saved.ddof)
        through_var = e[:, np.newaxis] * _product(v, standardized.gram)
        dweight = a[:, np.newaxis] * (cross - through_var) * standardized.std
        from_g = a[:, np.newaxis] * wide
        dx_from_x = _product(np.ascontiguousarray(v.T * -e), from_g).astype(dy.dtype)
        dx_from_g = from_g.astype(dy.dtype)
        if not (np.isfinite(dx_from_g).all() and np.isfinite(dx_from_x).all()):
            return None
    dx_mean = (mean[:, np.newaxis] * from_g).sum(axis=0)
    return CovarianceGradients(
        g.reshape(n, k), dweight, dgamma, n * mean, dx_from_g, dx_from_x, dx_mean
    )


def write_dx(dx: Array, gradients: CovarianceGradients, standardized: StandardizedInput) -> None:
    """Writes ``dx = g dx_from_g + xs dx_from_x - dx_mean``, flat."""
    n, c = standardized.rows.shape
    from_x = empty((n * c,), dx.dtype)
    multiply(from_x, matrix(standardized.rows), matrix(gradients.dx_from_x))
    constants = _constants_adding(None, c, dx.dtype)
    constants[HEAD, :c] = gradients.dx_mean
    constants[SHIFT, :c] = constants[HEAD, :c] - gradients.dx_mean  # the mean's tail
    epilogue = Epilogue(constants=constants, residual=from_x)
    multiply(dx, matrix(gradients.g), matrix(gradients.dx_from_g), epilogue)


# --- both -----------------------------------------------------------------------------------


def _constants_adding(beta: Array | None, columns: int, dtype: Any) -> Array:
    """Constants that add beta, with rows enough for a gradient (kernels/channels.py)."""
    constants = scratch.take("adding", (OFFSET + 1, whole_vectors(columns, dtype.itemsize)), dtype)
    constants[...] = 0.0
    constants[SCALE] = 1.0
    if beta is not None:
        constants[SHIFT, :columns] = beta
    return constants


def _product(a: Array, b: Array) -> Array:
    """A small product in float64. NumPy's threads would keep a core busy long after theirs."""
    result = np.empty((a.shape[0], b.shape[1]))
    multiply(result.reshape(-1), matrix(a), matrix(b))
    return result
