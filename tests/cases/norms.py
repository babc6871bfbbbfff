"""Cases of L1 and L2 normalization: what is called, on which shapes, and how exact it has to be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import nbnorm
from nbnorm import reference
from nbnorm.jit.simd import lane_count

Array = NDArray[Any]
Axis = int | tuple[int, ...] | str | None


class Functions(NamedTuple):
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    expected_forward: Callable[..., Any]
    expected_backward: Callable[..., Any]


FUNCTIONS = {
    "l1": Functions(
        nbnorm.l1_normalize_forward, nbnorm.l1_normalize_backward,
        reference.l1_normalize_forward, reference.l1_normalize_backward,
    ),
    "l2": Functions(
        nbnorm.l2_normalize_forward, nbnorm.l2_normalize_backward,
        reference.l2_normalize_forward, reference.l2_normalize_backward,
    ),
}  # fmt: skip

# Shapes (n, c, s) with axis 1 for each way that a kernel goes through an array, whatever the lanes
# of a vector: see kernels/norms/divide.py.
_LANES = lane_count(4)
KINDS: dict[str, list[tuple[int, int, int]]] = {
    "short": [(1, 1, 1), (1, 5, 1), (2 * _LANES + 3, 3, 1), (_LANES, 32, 1), (70, 48, 1)],
    "one": [(3, 2 * _LANES, 1), (1, 5 * _LANES + 7, 1), (4, 20 * _LANES + 1, 1), (2, 49, 1)],
    "together": [(2, 1, 2), (3, 40, 2), (1, 41, 3), (2, 30, 7), (2, 9, _LANES // 4)],
    "apart": [(2, 3, _LANES), (2, 20, _LANES + 1), (1, 7, 3 * _LANES - 2), (3, 5, _LANES - 3)],
}

# The largest error over rms(y) and over rms(dy) / d, the rms along the axis: that of batch norm.
BOUND = {"float32": 2e-6, "float64": 1e-14}


def summed_axes(ndim: int, axis: Axis) -> tuple[int, ...]:
    if axis is None or axis == "sample":
        return tuple(range(0 if axis is None else 1, ndim))
    return tuple(a % ndim for a in np.atleast_1d(axis))


def draw(shape: tuple[int, ...], dtype: str, seed: int = 0) -> tuple[Array, Array]:
    """x, of a size of its own in each sample, and dy."""
    rng = np.random.default_rng([seed, *shape])
    x = rng.standard_normal(shape) * rng.uniform(0.3, 3.0, (shape[0], *[1] * (len(shape) - 1)))
    return x.astype(dtype), rng.standard_normal(shape).astype(dtype)


def assert_within_bounds(
    y: Array, dx: Array, norm: Array, x: Array, dy: Array, order: str, axis: Axis, eps: float
) -> None:
    """Shapes, types, and errors against the reference."""
    functions, dtype = FUNCTIONS[order], x.dtype
    axes = summed_axes(x.ndim, axis)
    x, dy = x.astype(np.float64), dy.astype(np.float64)
    sums = np.sum(np.abs(x) if order == "l1" else x * x, axis=axes, keepdims=True) + eps
    d = sums if order == "l1" else np.sqrt(sums)
    wanted_y = functions.expected_forward(x, axis=axis, eps=eps)
    wanted_dx = functions.expected_backward(dy, x, axis=axis, eps=eps)

    def rms(values: Array) -> Array:
        return np.sqrt(np.mean(values * values, axis=axes, keepdims=True))

    bound = BOUND[str(dtype)]
    for result, wanted, scale in ((y, wanted_y, rms(wanted_y)), (dx, wanted_dx, rms(dy) / d)):
        assert (result.shape, result.dtype) == (wanted.shape, dtype)
        assert np.all(np.abs(result - wanted) <= bound * scale)
    assert norm.dtype == np.float64
    assert norm.shape == d.squeeze(axes).shape
    np.testing.assert_allclose(norm, d.squeeze(axes), rtol=bound)


def results(order: str, x: Array, dy: Array, axis: Axis = 1, **options: Any) -> dict[str, Any]:
    functions = FUNCTIONS[order]
    y, context = functions.forward(x, axis=axis, **options)
    return {"y": y, "norm": context.norm, "dx": functions.backward(dy, context)}
