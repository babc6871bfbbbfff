"""Batch normalization in wide floating point, and the error of a result measured against it.

Everything here works on arrays seen as ``(n, c, p)``: batch, channels and positions, all other
axes flattened. It shares no code with nbnorm, its reference included: a slip there must not hide
here.

The errors are relative to what a rounding in each quantity would weigh, channel by channel:

=========  ===============================  =========================================
quantity   scale                            so that
=========  ===============================  =========================================
``y``      rms(y)                           one ulp of a typical output counts as one
``dx``     rms(gamma dy / s)                a dx that cancels to nearly 0 is not asked for digits
                                            that its terms never had
``dgamma`` sqrt(m) rms(dy) rms(xh)          the size of a sum of m terms of random sign
``dbeta``  sqrt(m) rms(dy)                  the same
=========  ===============================  =========================================

With ``relu`` the normalization is followed by a ReLU, and ``dy`` is the gradient behind it: where
the ReLU gave 0, it counts as 0, in the scales too. The scale of ``y`` is taken before the ReLU,
which may leave next to nothing of a channel.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


BLOCK = 1 << 18  # values compared at a time


class Truth(NamedTuple):
    """What a batch norm has to give, and the scale that its error is divided by."""

    values: dict[str, Array]
    scales: dict[str, Array]


def as_ncp(array: Array, axis: int = 1) -> Array:
    """View an array with channels on ``axis`` as ``(n, c, p)``; an ``(n, c)`` array has p = 1."""
    first = np.moveaxis(array, axis, 1)
    return first.reshape(*first.shape[:2], -1)


def training(
    x: Array,
    dy: Array,
    gamma: Array,
    beta: Array,
    eps: float,
    wide: type = np.float64,
    *,
    relu: bool = False,
) -> Truth:
    """Forward and backward with the statistics of the batch, computed in the type ``wide``."""
    x, dy = x.astype(wide), dy.astype(wide)
    gamma, beta = (p.astype(wide).reshape(1, -1, 1) for p in (gamma, beta))
    m = wide(x.shape[0] * x.shape[2])

    centred = x - _sum(x) / m
    centred -= _sum(centred) / m  # what rounding left of the first mean
    var = _sum(centred * centred) / m
    s = np.sqrt(var + wide(eps))
    inv_s = np.divide(1, s, out=np.zeros_like(s), where=s > 0)
    xh = centred * inv_s
    y = gamma * xh + beta
    rms_y = np.sqrt(_sum(y * y) / m)
    if relu:
        dy = np.where(y > 0, dy, 0)
        y = np.maximum(y, 0)

    dbeta, dgamma = _sum(dy), _sum(dy * xh)
    values = {
        "y": y,
        "dx": gamma * inv_s * (dy - dbeta / m - xh * (dgamma / m)),
        "dgamma": dgamma.ravel(),
        "dbeta": dbeta.ravel(),
    }
    rms_dy, rms_xh = (np.sqrt(_sum(v * v) / m) for v in (dy, xh))
    scales = {
        "y": rms_y,
        "dx": np.abs(gamma) * inv_s * rms_dy,
        "dgamma": (np.sqrt(m) * rms_dy * rms_xh).ravel(),
        "dbeta": (np.sqrt(m) * rms_dy).ravel(),
    }
    return Truth(values, scales)


def inference(
    x: Array,
    mean: Array,
    var: Array,
    gamma: Array,
    beta: Array,
    eps: float,
    wide: type = np.float64,
    *,
    relu: bool = False,
) -> Truth:
    """Normalization by given statistics, computed in the type ``wide``."""
    mean, var, gamma, beta = (p.astype(wide).reshape(1, -1, 1) for p in (mean, var, gamma, beta))
    y = gamma * (x.astype(wide) - mean) / np.sqrt(var + wide(eps)) + beta
    rms_y = np.sqrt(_sum(y * y) / (y.shape[0] * y.shape[2]))
    return Truth({"y": np.maximum(y, 0) if relu else y}, {"y": rms_y})


def errors(outputs: dict[str, Array], truth: Truth, slack_ulps: int = 0) -> dict[str, float]:
    """The largest error of each output over its scale; NaN where an output is not finite.

    ``slack_ulps`` forgives that many units in the last place of each single value: among millions
    of values some lie thousands of rms out, where the output type itself is coarser than the scale.
    """
    return {
        name: _largest(
            output.reshape(truth.values[name].shape),
            truth.values[name],
            truth.scales[name],
            slack_ulps,
        )
        for name, output in outputs.items()
    }


def _largest(output: Array, value: Array, scale: Array, slack_ulps: int) -> float:
    if value.ndim == 3 and len(value) > 1 and value.size > BLOCK:
        # Halves of the batch, until one fits into the cache: up to eight times as fast.
        half = len(value) // 2
        parts = (slice(None, half), slice(half, None))
        return float(np.max([_largest(output[p], value[p], scale, slack_ulps) for p in parts]))
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(output.astype(value.dtype) - value)
    if slack_ulps:
        ulp = np.spacing(np.abs(value).astype(output.dtype))
        difference = np.maximum(difference - slack_ulps * ulp, 0)
    over = np.divide(difference, scale, out=difference, where=scale > 0)
    return float(np.max(over)) if np.isfinite(over).all() else float("nan")


def _sum(array: Array) -> Array:
    """The sum over batch and positions, channels kept: shape ``(1, c, 1)``."""
    return array.sum(axis=(0, 2), keepdims=True)
