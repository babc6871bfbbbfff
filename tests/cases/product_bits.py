"""Dense layers and convolutions large enough for several threads, and all that comes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nbnorm import (
    conv2d_backward,
    conv2d_batch_norm_backward,
    conv2d_batch_norm_forward,
    conv2d_batch_norm_inference,
    conv2d_forward,
    dense_backward,
    dense_batch_norm_backward,
    dense_batch_norm_forward,
    dense_batch_norm_inference,
    dense_forward,
)

Array: TypeAlias = NDArray[Any]


class Functions(NamedTuple):
    forward: Callable[..., Array]
    backward: Callable[..., Any]
    fused_forward: Callable[..., Any]
    fused_backward: Callable[..., Any]
    fused_inference: Callable[..., Array]


DENSE = Functions(
    dense_forward, dense_backward, dense_batch_norm_forward, dense_batch_norm_backward,
    dense_batch_norm_inference,
)  # fmt: skip
CONV = Functions(
    conv2d_forward, conv2d_backward, conv2d_batch_norm_forward, conv2d_batch_norm_backward,
    conv2d_batch_norm_inference,
)  # fmt: skip


class Case(NamedTuple):
    """What is called, the shapes of x and weight, and what else it is given."""

    functions: Functions
    x_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    options: dict[str, Any]

    @property
    def inferred(self) -> bool:
        """Whether inference is looked at too: it compiles every algorithm once more."""
        return self.options.get("algorithm", "direct") == "direct" and "groups" not in self.options


def _conv(x_shape: tuple[int, ...], weight_shape: tuple[int, ...], **options: Any) -> Case:
    if options.get("axis") == -1:
        x_shape = (x_shape[0], *x_shape[2:], x_shape[1])
    return Case(CONV, x_shape, weight_shape, options)


# Each with several slots, or tiles, of every kernel it runs.
CASES = {
    "dense": Case(DENSE, (600, 150), (200, 150), {}),
    "dense, few rows": Case(DENSE, (4, 700), (300, 700), {}),
    "dense, sliced gradient": Case(DENSE, (4096, 70), (60, 70), {}),
    "dense, product not stored": Case(DENSE, (70_000, 7), (64, 7), {}),
    **{
        f"{name}, axis {axis}": _conv(*shapes, **options, axis=axis)
        for axis in (1, -1)
        for name, shapes, options in [
            ("direct", ((4, 24, 21, 18), (40, 24, 3, 3)), {"algorithm": "direct", "padding": 1}),
            ("one pixel", ((4, 72, 13, 14), (90, 72, 1, 1)), {}),
            ("strided", ((4, 24, 21, 18), (80, 24, 3, 2)), {"stride": 2}),
            ("one image", ((1, 24, 9, 18), (150, 24, 3, 3)), {"algorithm": "direct"}),
            ("winograd", ((4, 24, 22, 19), (40, 24, 3, 3)), {"algorithm": "winograd"}),
            ("one image, winograd", ((1, 24, 9, 18), (150, 24, 3, 3)), {"algorithm": "winograd"}),
            ("groups", ((4, 40, 14, 18), (60, 20, 3, 3)), {"groups": 2}),
            ("depthwise", ((4, 40, 22, 18), (40, 1, 3, 3)), {"groups": 40, "padding": 1}),
        ]
    },
}


class Drawn(NamedTuple):
    """Arrays for all functions; dy and the residual are of y's shape."""

    x: Array
    weight: Array
    dy: Array
    residual: Array
    given: tuple[Array, Array]  # mean, var


def drawn(case: Case, seed: int = 7) -> Drawn:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(case.x_shape).astype(np.float32)
    weight = rng.standard_normal(case.weight_shape).astype(np.float32)
    y_shape = case.functions.forward(x, weight, **case.options).shape
    dy, residual = rng.standard_normal((2, *y_shape)).astype(np.float32)
    k = len(weight)
    return Drawn(x, weight, dy, residual, (rng.standard_normal(k), rng.uniform(1, 2, k)))


def results(case: Case, arrays: Drawn) -> dict[str, Array]:
    """All that the functions return of their own."""
    x, weight, dy, residual, given = arrays
    functions, options = case.functions, case.options
    found = {"z": functions.forward(x, weight, **options)}
    found |= functions.backward(dy, x, weight, **options)._asdict()
    after = {"activation": "relu", "residual": residual}
    y, context = functions.fused_forward(x, weight, **after, **options)
    found |= {"y": y, "mean": context.mean, "var": context.var}
    gradients = functions.fused_backward(dy, context)._asdict()
    found |= {f"fused {name}": g for name, g in gradients.items() if g is not None}
    if case.inferred:
        found["inference"] = functions.fused_inference(x, weight, *given, **options)
    return found
