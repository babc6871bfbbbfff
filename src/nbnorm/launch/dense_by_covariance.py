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
are seen before anything is written, and the ordinary way is taken instead.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from nbnorm.kernels.channels import HEAD, OFFSET, SCALE, SHIFT
from nbnorm.launch.batch_norm import (
    channel_parameters,
    channel_statistics,
    normalize_batch,
    summed_statistics,
)
from nbnorm.launch.gemm import Matrix, deep_product, matrix, multiply, sums_for
from nbnorm.launch.layout import flat, layout_of, run_of
from nbnorm.launch.machine import whole_vectors
from nbnorm.launch.outputs import destination
from nbnorm.launch.scratch import empty, scratch
from nbnorm.typing import Array

# Columns of x per column of y, rows of x per column, and values of y, from which it pays. C and the
# standardized x cost what z saves where c is k / 4: (65536, 64, 256) ran at 0.93 of the ordinary
# way's speed forward and 0.91 backward, (65536, 32, 256) at 1.23 and 1.05, (65536, 16, 256) at 1.42
# and 1.22, with ReLU; 1.3 to 1.5 backward without.
MOST_COLUMNS = 1 / 8
ROWS_A_COLUMN = 256
FEWEST_VALUES = 1 << 22

# var_k loses as many digits as it is smaller than it would be if the columns were independent;
# and dx as many as the mean of g is larger than its standard deviation.
SMALLEST_PART = 1 / 16
LARGEST_MEAN = 4.0


class Standardized(NamedTuple):
    """What takes the place of z in a context.

    rows      (n, c) of x's type: xs
    std       (c,) float64
    gram      (c, c) float64: C
    folded    (k, c) of x's type: diag(a) V, whose product with xs is y but for beta
    residual  (n, k) of x's type, or None
    """

    rows: Array
    std: Array
    gram: Array
    folded: Array
    residual: Array | None


def pays(n: int, k: int, c: int) -> bool:
    """Whether a dense layer of these sizes is better off without its product."""
    return 0 < c <= k * MOST_COLUMNS and n >= ROWS_A_COLUMN * c and n * k >= FEWEST_VALUES


def normalize_product(
    y: Array,
    x: Array,
    weight: Array,
    bias: Array | None,
    parameters: tuple[Array | None, Array | None],
    eps: float,
    ddof: int,
    activation: Any,
    residual: Array | None,
) -> tuple[Array, Standardized] | None:
    """Writes y, flat; mean, var and inv_std (3, k) of ``z = x weight^T + bias``.

    None, and y as it was, where var would lose digits.
    """
    gamma, beta = parameters
    n, c = x.shape
    layout = layout_of(x.shape, x.strides, (1,))
    rows, written, _ = destination(None, x.shape, x.dtype, layout.order)
    statistics = np.empty((3, c))
    normalize_batch(
        written, statistics, flat(x, layout), None, channel_parameters(None, None, c),
        layout.shape, 0.0, 0, None,
    )  # fmt: skip
    std = np.sqrt(statistics[1])
    gram = deep_product(matrix(rows).transposed, matrix(rows))
    wide = weight.astype(np.float64)
    scaled = wide * std
    # Values beyond all bounds end in the ordinary way, which knows what to make of them.
    with np.errstate(all="ignore"):
        var = (_product(scaled, gram) * scaled).sum(axis=1) / (n - ddof)
        independent = np.square(scaled).sum(axis=1) * (n / (n - ddof))
        if not (var + eps >= SMALLEST_PART * independent).all():
            return None
        inv_std = np.zeros(len(var))
        np.divide(1.0, np.sqrt(var + eps), out=inv_std, where=var + eps != 0.0)
        a = inv_std if gamma is None else inv_std * gamma
        folded = (a[:, np.newaxis] * scaled).astype(x.dtype)
        mean = (wide * statistics[0]).sum(axis=1)
        if bias is not None:
            mean += bias
        if not (np.isfinite(folded).all() and np.isfinite(mean).all()):
            return None
    standardized = Standardized(rows, std, gram, folded, residual)
    _multiply_folded(y, standardized, beta, activation)
    return np.stack([mean, var, inv_std]), standardized


class Differentiated(NamedTuple):
    """The gradients but for dx, and what dx is made of.

    g               (n, k) of x's type: dy times the activation's derivative
    dweight, dgamma, dbeta  float64
    forth, back     (k, c), (c, c) of x's type: ``dx = g forth + xs back - mean``
    mean            (c,) float64
    """

    g: Array
    dweight: Array
    dgamma: Array
    dbeta: Array
    forth: Array
    back: Array
    mean: Array


def differentiate(
    dy: Array,
    standardized: Standardized,
    weight: Array,
    statistics: Array,
    parameters: tuple[Array | None, Array | None],
    ddof: int,
    activation: Any,
) -> Differentiated | None:
    """The gradients from dy (n, k); None where dx would lose digits."""
    gamma, beta = parameters
    n, k = dy.shape
    if activation is None:
        g = run_of(dy)
        mean, var, _ = channel_statistics(g, (n, k, 1))
    else:
        summed = sums_for((n, k, standardized.rows.shape[1]), dy.dtype)
        g = empty((n * k,), dy.dtype)
        _multiply_folded(g, standardized, beta, activation, dy=run_of(dy), summed=summed)
        mean, var, _ = summed_statistics(summed, g, (n, k, 1))
    if not (np.square(mean) <= LARGEST_MEAN**2 * var).all():
        return None
    cross = deep_product(Matrix(g, 1, k, (k, n)), matrix(standardized.rows))
    wide = weight.astype(np.float64)
    scaled = wide * standardized.std
    inv_std = statistics[2]
    a = inv_std if gamma is None else inv_std * gamma
    with np.errstate(all="ignore"):
        dgamma = inv_std * (scaled * cross).sum(axis=1)
        e = dgamma * inv_std / (n - ddof)
        part = _product(scaled, standardized.gram)
        dweight = a[:, np.newaxis] * (cross - e[:, np.newaxis] * part) * standardized.std
        through = a[:, np.newaxis] * wide
        back = _product(np.ascontiguousarray(scaled.T * -e), through).astype(dy.dtype)
        forth = through.astype(dy.dtype)
        if not (np.isfinite(forth).all() and np.isfinite(back).all()):
            return None
    middle = (mean[:, np.newaxis] * through).sum(axis=0)
    return Differentiated(g.reshape(n, k), dweight, dgamma, n * mean, forth, back, middle)


def write_dx(dx: Array, found: Differentiated, standardized: Standardized) -> None:
    """Writes dx, flat."""
    n, c = standardized.rows.shape
    residual = empty((n * c,), dx.dtype)
    multiply(residual, matrix(standardized.rows), matrix(found.back))
    constants = _adding(None, c, dx.dtype)
    constants[HEAD, :c] = found.mean
    constants[SHIFT, :c] = constants[HEAD, :c] - found.mean
    multiply(dx, matrix(found.g), matrix(found.forth), constants=constants, residual=residual)


def _multiply_folded(
    out: Array, standardized: Standardized, beta: Array | None, activation: Any, **others: Any
) -> None:
    """``activation(xs folded^T + beta + residual)``, or its gradient where there is a dy."""
    rows, _, _, folded, residual = standardized
    multiply(
        out, matrix(rows), matrix(folded).transposed,
        constants=_adding(beta, len(folded), out.dtype),
        residual=None if residual is None else run_of(residual), activation=activation, **others,
    )  # fmt: skip


def _adding(beta: Array | None, columns: int, dtype: Any) -> Array:
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
