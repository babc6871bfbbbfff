"""Random calls of every public function: a forward and its backward, or an inference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

import nbnorm
from tests.bounds.drawing import PROFILES, Array, Drawing, Profile

Shape: TypeAlias = tuple[int, ...]

MOST = 1 << 15  # values in an array, so that thousands of calls take a minute


def limited(shape: Sequence[int], most: int = MOST) -> Shape:
    """A shape of no more values than `most`: its largest sizes are halved."""
    sizes = list(shape)
    while math.prod(sizes) > most:
        largest = sizes.index(max(sizes))
        sizes[largest] = sizes[largest] // 2 + 1
    return tuple(sizes)


# --- what the functions have in common ------------------------------------------------------


def _affine(d: Drawing, kept: Shape) -> dict[str, Array | None]:
    return {
        name: None if d.chance(0.2) else d.channel(kept, spread=(0.5, 1.5))
        for name in ("gamma", "beta")
    }


def _given(d: Drawing, kept: Shape) -> tuple[Array, Array]:
    return d.channel(kept), d.channel(kept, spread=(0.5, 2.0))


def _after(d: Drawing, shape: Shape) -> dict[str, Any]:
    """What follows the normalization."""
    options: dict[str, Any] = {"eps": d.one_of([1e-5, 1e-3, 1.0])}
    if d.activation is not None:
        options["activation"] = d.activation
    if d.residual:
        options["residual"] = d.array(shape)
    return options


def _statistics(d: Drawing, kept: Shape) -> dict[str, Any]:
    """Those of the batch or given ones."""
    if d.chance(0.2):
        return {"statistics": _given(d, kept)}
    return {"ddof": 1} if d.chance(0.3) else {}


def _out(d: Drawing, shape: Shape, over: Sequence[Any] = ()) -> dict[str, Any]:
    """A place for a result, or an input to be written over."""
    over = [a for a in over if a is not None and a.flags.writeable and a.shape == shape]
    if over and d.chance(0.3):
        return {"out": d.over(d.one_of(over))}
    return {"out": d.place(shape)} if d.chance(0.5) else {}


def _places(
    d: Drawing, kind: Any, sources: dict[str, Array | None], bulky: Sequence[str]
) -> dict[str, Any]:
    """Gradients to ask for, and places for some of them.

    Kernels are compiled anew where a bulky gradient is not wanted.
    """
    options: dict[str, Any] = {}
    wanted = list(kind._fields)
    if d.chance(0.3):
        always = bulky if d.few_variants else ()
        wanted = [name for name in wanted if name in always or d.chance(0.6)]
        options["needs"] = wanted
    if d.chance(0.5):
        options["out"] = kind(**{
            f"d{name}": d.place(source.shape, source.dtype)
            for name, source in sources.items()
            if source is not None and f"d{name}" in wanted and d.chance(0.7)
        })  # fmt: skip
    return options


# --- batch norm -----------------------------------------------------------------------------


def _batch(d: Drawing) -> tuple[Shape, Any, Shape]:
    """A shape, an axis or several, and the sizes of those."""
    ndim = int(d.one_of([2, 2, 3, 4, 4, 5]))
    most = {2: 700, 3: 300, 4: 80, 5: 20}[ndim]
    shape = limited([d.size(most) for _ in range(ndim)], 8 * MOST if d.chance(0.1) else MOST)
    axis: Any = d.one_of([1, 1, -1])
    if d.chance(0.2):
        axis = tuple(int(a) for a in d.rng.permutation(ndim)[: d.rng.integers(1, ndim)])
    axes = {a % ndim for a in np.atleast_1d(axis)}
    return shape, axis, tuple(shape[a] for a in sorted(axes))


def batch_norm(d: Drawing) -> None:
    """Forward and backward, or inference."""
    shape, axis, kept = _batch(d)
    x = d.array(shape)
    affine = _affine(d, kept)
    if d.chance(0.4) or x.size // math.prod(kept) < 2:
        options = _after(d, shape)
        over = [x, options.get("residual")]
        mean, var = _given(d, kept)
        d.call(
            nbnorm.batch_norm_inference, x, mean, var, **affine, axis=axis, **options,
            **_out(d, shape, over),
        )  # fmt: skip
        return
    after = _after(d, shape)
    _, context = d.call(
        nbnorm.batch_norm_forward, x, **affine, axis=axis, **_statistics(d, kept), **after,
        **_out(d, shape),
    )  # fmt: skip
    _differentiate(d, context, {"x": x, **affine, "residual": after.get("residual")})


def _differentiate(d: Drawing, context: Any, sources: dict[str, Array | None]) -> None:
    dy = d.array(context.x.shape)
    options = _places(d, nbnorm.BatchNormGradients, sources, ("dx", "dresidual"))
    if "out" in options and options["out"].dx is not None and dy.flags.writeable and d.chance(0.3):
        options["out"] = options["out"]._replace(dx=d.over(dy))
    d.call(nbnorm.batch_norm_backward, dy, context, **options)


def cross_iteration(d: Drawing) -> None:
    """Batch norm over two batches, and their statistics alone."""
    shape, axis, kept = _batch(d)
    first, x = d.array(shape), d.array(shape)
    affine = _affine(d, kept)
    own = d.call(nbnorm.batch_statistics, first, axis=axis)
    d.call(nbnorm.merge_statistics, [own, own])
    after = _after(d, shape)
    _, context, _ = d.call(
        nbnorm.cross_iteration_batch_norm_forward, x, [own], **affine, axis=axis, **after,
        **_out(d, shape),
    )  # fmt: skip
    _differentiate(d, context, {"x": x, **affine, "residual": after.get("residual")})


# --- dense ----------------------------------------------------------------------------------


def _dense_operands(d: Drawing, *, least: int) -> tuple[Array, Array, Array | None, Shape]:
    rows = d.size(400 if d.chance(0.9) else 3000, least)
    c, k = d.size(300 if d.chance(0.7) else 12), d.size(300)
    while rows * c * k > 1 << 22:
        rows = rows // 2 + 1
    leading = (rows,)
    if d.chance(0.2):
        leading = (d.size(4), rows)
    x = d.array((*leading, c))
    weight = d.array((k, c))
    bias = d.channel((k,)) if d.chance(0.5) else None
    return x, weight, bias, (*leading, k)


def dense(d: Drawing) -> None:
    """Forward and backward, the batch sometimes empty."""
    x, weight, bias, shape = _dense_operands(d, least=0 if d.chance(0.1) else 1)
    d.call(nbnorm.dense_forward, x, weight, bias, **_out(d, shape))
    dy = d.array(shape)
    sources = {"x": x, "weight": weight}
    d.call(
        nbnorm.dense_backward, dy, x, weight,
        **_places(d, nbnorm.DenseGradients, sources, ()),
    )  # fmt: skip


def dense_batch_norm(d: Drawing) -> None:
    """Forward and backward, or inference."""
    x, weight, bias, shape = _dense_operands(d, least=2)
    k = len(weight)
    affine = _affine(d, (k,))
    after = _after(d, shape)
    if d.chance(0.4):
        mean, var = _given(d, (k,))
        d.call(
            nbnorm.dense_batch_norm_inference, x, weight, mean, var, **affine, bias=bias, **after,
            **_out(d, shape, [after.get("residual")]),
        )  # fmt: skip
        return
    _, context = d.call(
        nbnorm.dense_batch_norm_forward, x, weight, **affine, bias=bias, **_statistics(d, (k,)),
        **after, **_out(d, shape),
    )  # fmt: skip
    sources = {"x": x, "weight": weight, "bias": bias, **affine, "residual": after.get("residual")}
    bulky = ("dx", "dweight", "dresidual")
    d.call(
        nbnorm.dense_batch_norm_backward, d.array(shape), context,
        **_places(d, nbnorm.DenseBatchNormGradients, sources, bulky),
    )  # fmt: skip


# --- convolutions ---------------------------------------------------------------------------


def _conv_operands(d: Drawing) -> tuple[Array, Array, Array | None, dict[str, Any], Shape]:
    n, groups = d.size(5), 1
    c, k = d.size(70), d.size(70)
    kind = d.one_of(["any", "any", "winograd", "winograd", "groups", "depthwise"])
    if kind == "groups":
        groups = int(d.one_of([2, 3, 4]))
        c, k = (d.one_of([d.size(8), d.size(24)]) for _ in "ck")
        c, k = c * groups, k * groups
    elif kind == "depthwise":
        groups = c
        k = c * int(d.one_of([1, 1, 2]))
    window = (3, 3) if kind == "winograd" or d.chance(0.3) else (d.size(5), d.size(5))
    stride = dilation = (1, 1)
    if kind != "winograd":
        stride = (int(d.one_of([1, 1, 2, 3])), int(d.one_of([1, 1, 2, 3])))
        dilation = (int(d.one_of([1, 1, 1, 2])), int(d.one_of([1, 1, 1, 3])))
    reach = [e * (r - 1) for e, r in zip(dilation, window, strict=True)]
    padding = [int(d.rng.integers(0, e + 2)) for e in reach]
    h, w = (max(1, e + 1 - 2 * p) + d.size(30) - 1 for e, p in zip(reach, padding, strict=True))
    n = max(1, min(n, (1 << 22) // (h * w * c * k * math.prod(window) // groups + 1)))
    axis = d.one_of([1, -1])
    x = d.array((n, c, h, w) if axis == 1 else (n, h, w, c))
    weight = d.array((k, c // groups, *window))
    options: dict[str, Any] = {"axis": axis, "padding": tuple(padding)}
    if stride != (1, 1):
        options["stride"] = stride
    elif d.chance(0.2):
        options["padding"] = "same"
        padding = []
    if dilation != (1, 1):
        options["dilation"] = dilation
    if groups > 1:
        options["groups"] = groups
    options["algorithm"] = d.one_of(["auto", "direct"])
    if kind == "winograd" and groups == 1:
        options["algorithm"] = "winograd"
    positions = (
        ((h + 2 * padding[0] - reach[0] - 1) // stride[0] + 1,
         (w + 2 * padding[1] - reach[1] - 1) // stride[1] + 1)
        if padding else (h, w)
    )  # fmt: skip
    shape = (n, k, *positions) if axis == 1 else (n, *positions, k)
    return x, weight, d.channel((k,)) if d.chance(0.5) else None, options, shape


def conv2d(d: Drawing) -> None:
    """Forward and backward."""
    x, weight, bias, options, shape = _conv_operands(d)
    d.call(nbnorm.conv2d_forward, x, weight, bias, **options, **_out(d, shape))
    sources = {"x": x, "weight": weight}
    d.call(
        nbnorm.conv2d_backward, d.array(shape), x, weight, **options,
        **_places(d, nbnorm.Conv2dGradients, sources, ()),
    )  # fmt: skip


def conv2d_batch_norm(d: Drawing) -> None:
    """Forward and backward, or inference."""
    x, weight, bias, options, shape = _conv_operands(d)
    k = len(weight)
    affine = _affine(d, (k,))
    after = _after(d, shape)
    if d.chance(0.4) or math.prod(shape) // k < 2:
        mean, var = _given(d, (k,))
        d.call(
            nbnorm.conv2d_batch_norm_inference, x, weight, mean, var, **affine, bias=bias,
            **options, **after, **_out(d, shape, [after.get("residual")]),
        )  # fmt: skip
        return
    _, context = d.call(
        nbnorm.conv2d_batch_norm_forward, x, weight, **affine, bias=bias, **options,
        **_statistics(d, (k,)), **after, **_out(d, shape),
    )  # fmt: skip
    sources = {"x": x, "weight": weight, "bias": bias, **affine, "residual": after.get("residual")}
    bulky = ("dx", "dweight", "dresidual")
    d.call(
        nbnorm.conv2d_batch_norm_backward, d.array(shape), context,
        **_places(d, nbnorm.Conv2dBatchNormGradients, sources, bulky),
    )  # fmt: skip


# --- others ---------------------------------------------------------------------------------


def folding(d: Drawing) -> None:
    """The weights of a dense layer or a convolution."""
    shape = limited([d.size(100) for _ in range(d.one_of([2, 4]))])
    k = shape[0]
    mean, var = _given(d, (k,))
    bias = d.channel((k,)) if d.chance(0.5) else None
    affine = _affine(d, (k,))
    d.call(nbnorm.fold_batch_norm, d.array(shape), bias, mean, var, **affine, eps=1e-3)


def norms(d: Drawing) -> None:
    """L1 or L2 normalization, forward and backward, and a penalty."""
    shape = limited([d.size(300) for _ in range(d.one_of([1, 2, 3, 4]))])
    axis: Any = int(d.rng.integers(-len(shape), len(shape)))
    if d.chance(0.3):
        axis = tuple(int(a) for a in d.rng.permutation(len(shape))[: d.rng.integers(1, 4)])
    name = d.one_of(["l1", "l2"])
    x = d.array(shape)
    _, context = d.call(
        getattr(nbnorm, f"{name}_normalize_forward"), x, axis=axis, **_out(d, shape)
    )
    d.call(getattr(nbnorm, f"{name}_normalize_backward"), d.array(shape), context, **_out(d, shape))
    d.call(getattr(nbnorm, f"{name}_penalty"), x, 0.1, **_out(d, shape, [x]))


class Family(NamedTuple):
    """What draws a call, and the types to draw it with.

    `few` are those that the other tests of this repository compile the same kernels for.
    """

    draw: Callable[[Drawing], None]
    few: list[Profile]
    many: list[Profile]


_FLOAT32 = Profile("float32", "relu", True)
_PRODUCTS = [
    _FLOAT32,
    Profile("float64", "silu", False),
    Profile("float32", None, False),
    Profile("float64", ("leaky_relu", 0.2), True),
    Profile("float32", "mish", False),
]

FAMILIES = [
    Family(batch_norm, [_FLOAT32, Profile("float64", None, False)], PROFILES),
    Family(batch_norm, [_FLOAT32], PROFILES),
    Family(dense, [_FLOAT32, Profile("float64", None, False)], _PRODUCTS),
    Family(dense_batch_norm, _PRODUCTS[:2], _PRODUCTS),
    Family(conv2d, [_FLOAT32], _PRODUCTS[:2]),
    Family(conv2d_batch_norm, [_FLOAT32], _PRODUCTS),
    Family(cross_iteration, [_FLOAT32], PROFILES),
    Family(folding, PROFILES, PROFILES),
    Family(norms, [_FLOAT32], _PRODUCTS[:2]),
]
