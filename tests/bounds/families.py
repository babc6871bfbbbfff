"""Random calls of every public function: a forward and its backward, or an inference.

Which arrays an operation takes is in src/nbnorm/operations.py; here are its sizes and its options.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import nbnorm
from nbnorm.operations import BY_NAME, Operation, Shape, Sizes, parameters
from tests.bounds.drawing import PROFILES, Array, Drawing, Profile

MOST = 1 << 15  # values in an array, so that thousands of calls take a minute


def limited(shape: Sequence[int], most: int = MOST) -> Shape:
    """A shape of no more values than `most`: its largest sizes are halved."""
    sizes = list(shape)
    while math.prod(sizes) > most:
        largest = sizes.index(max(sizes))
        sizes[largest] = sizes[largest] // 2 + 1
    return tuple(sizes)


# --- arguments ------------------------------------------------------------------------------


def _array(d: Drawing, name: str, shape: Shape) -> Array | None:
    """An array that may be missing, where a function can do without, by its name."""
    if name in ("gamma", "beta"):
        return None if d.chance(0.2) else d.channel(shape, spread=(0.5, 1.5))
    if name == "bias":
        return d.channel(shape) if d.chance(0.5) else None
    if name == "residual":
        return d.array(shape) if d.residual else None
    if name == "mean":
        return d.channel(shape)
    if name == "var":
        return d.channel(shape, spread=(0.5, 2.0))
    return d.array(shape)


def _options(d: Drawing, function: str, kept: Shape) -> dict[str, Any]:
    """What a function is told beside its arrays, but for what depends on their sizes."""
    names = parameters(function)
    options: dict[str, Any] = {}
    if "eps" in names:
        options["eps"] = d.one_of([1e-5, 1e-3, 1.0])
    if "activation" in names and d.activation is not None:
        options["activation"] = d.activation
    if "statistics" in names and d.chance(0.2):
        options["statistics"] = (_array(d, "mean", kept), _array(d, "var", kept))
    elif "ddof" in names and d.chance(0.3):
        options["ddof"] = 1
    return options


def _weights(d: Drawing, shape: Shape, axis: Any) -> Array:
    """Weights of the places of an array whose kept axes these are."""
    kept = {a % len(shape) for a in np.atleast_1d(axis)}
    sizes = [1 if a in kept or d.chance(0.2) else size for a, size in enumerate(shape)]
    return d.channel(sizes, spread=(1.0, 2.0))


def _out(d: Drawing, shape: Shape, over: Sequence[Array | None] = ()) -> dict[str, Any]:
    """A place for a result, or an input to be written over."""
    over = [a for a in over if a is not None and a.flags.writeable and a.shape == shape]
    if over and d.chance(0.3):
        return {"out": d.over(d.one_of(over))}
    return {"out": d.place(shape)} if d.chance(0.5) else {}


def _places(d: Drawing, operation: Operation, given: Mapping[str, Any]) -> dict[str, Any]:
    """Gradients to ask for, and places for some of them.

    Kernels that follow a batch norm are compiled anew where a bulky gradient is not wanted.
    """
    kind = getattr(nbnorm, operation.gradients)
    options: dict[str, Any] = {}
    wanted = list(kind._fields)
    if d.chance(0.3):
        few = d.few_variants and operation.context
        always = [name for name in wanted if few and len(operation.axes(name)) > 1]
        wanted = [name for name in wanted if name in always or d.chance(0.6)]
        options["needs"] = wanted
    if d.chance(0.5):
        sources = {name: given.get(name.removeprefix("d")) for name in wanted}
        options["out"] = kind(**{
            # A backward without a context does not know of what type the bias was.
            name: d.place(source.shape, source.dtype if operation.context else None)
            for name, source in sources.items()
            if source is not None and d.chance(0.7)
        })  # fmt: skip
    return options


# --- calls ----------------------------------------------------------------------------------


def call(
    d: Drawing,
    operation: Operation,
    direction: str,
    shapes: Mapping[str, Shape],
    **options: Any,
) -> tuple[Any, dict[str, Any]]:
    """A function's result, and the arguments that it was given."""
    function = operation.function(direction)
    given = {name: _array(d, name, shapes[name]) for name in operation.inputs(direction)}
    given |= _options(d, function, shapes.get("gamma", ())) | options
    if "moments" in given:
        given.pop("statistics", None)
    elif "sample_weight" in parameters(function) and "statistics" not in given and d.chance(0.1):
        given["sample_weight"] = _weights(d, shapes["y"], given.get("axis", -1))
    out = {}
    if "out" in parameters(function):
        # What is read element by element, and not kept for a backward, may be written over.
        over = [array for name, array in given.items() if direction != "forward"
                and operation.arrays.get(name) == operation.arrays["y"]]  # fmt: skip
        out = _out(d, shapes["y"], over)
    return d.call(getattr(nbnorm, function), **given, **out), given


def train(d: Drawing, operation: Operation, shapes: Mapping[str, Shape], **options: Any) -> None:
    """A forward and its backward."""
    backward = operation.function("backward")
    takes_moments = "moments" in parameters(operation.function("forward"))
    if is_part := takes_moments and d.chance(0.1):
        options["moments"] = lambda part: part
    result, given = call(d, operation, "forward", shapes, **options)
    dy = d.array(shapes["y"])
    taken = {name: given[name] for name in parameters(backward) if name in given}
    if operation.context:
        taken = {"context": result[1]}
    if is_part:
        taken["sums"] = lambda part: part
    places = _places(d, operation, given) if operation.gradients else _out(d, shapes["x"])
    dx = getattr(places.get("out"), "dx", None)
    elementwise = operation.gradients and "weight" not in operation.arrays
    if elementwise and dx is not None and dy.flags.writeable and d.chance(0.3):
        places["out"] = places["out"]._replace(dx=d.over(dy))
    if "gradient_sums" in operation.directions:
        d.call(nbnorm.batch_norm_gradient_sums, dy=dy, context=taken["context"])
    d.call(getattr(nbnorm, backward), dy=dy, **taken, **places)


# --- families -------------------------------------------------------------------------------


def _batch(d: Drawing, operation: Operation) -> tuple[dict[str, Shape], Any]:
    """The shapes of a batch norm, and an axis or several."""
    ndim = int(d.one_of([2, 2, 3, 4, 4, 5]))
    most = {2: 700, 3: 300, 4: 80, 5: 20}[ndim]
    shape = limited([d.size(most) for _ in range(ndim)], 8 * MOST if d.chance(0.1) else MOST)
    axis: Any = d.one_of([1, 1, -1])
    if d.chance(0.2):
        axis = tuple(int(a) for a in d.rng.permutation(ndim)[: d.rng.integers(1, ndim)])
    axes = {a % ndim for a in np.atleast_1d(axis)}
    kept = tuple(shape[a] for a in sorted(axes))
    names = operation.arrays.items()
    return {name: kept if letters == "c" else shape for name, letters in names}, axis


def batch_norm(d: Drawing) -> None:
    """Forward and backward, or inference."""
    operation = BY_NAME["batch_norm"]
    shapes, axis = _batch(d, operation)
    if d.chance(0.4) or math.prod(shapes["x"]) // math.prod(shapes["gamma"]) < 2:
        call(d, operation, "inference", shapes, axis=axis)
    else:
        train(d, operation, shapes, axis=axis)


def cross_iteration(d: Drawing) -> None:
    """Batch norm over two batches, and the moments of one alone."""
    operation = BY_NAME["cross_iteration_batch_norm"]
    shapes, axis = _batch(d, operation)
    x = d.array(shapes["x"])
    own = d.call(nbnorm.Moments.of, x=x, axis=axis)
    train(d, operation, shapes, axis=axis, earlier=[own])


def _product(
    d: Drawing, operation: Operation, sizes: Sizes, shapes: Mapping[str, Shape], **options: Any
) -> None:
    """Forward and backward, or inference."""
    few_values = math.prod(shapes["y"]) // sizes["k"] < 2
    if operation.parts and (d.chance(0.4) or few_values):
        call(d, operation, "inference", shapes, **options)
    else:
        train(d, operation, shapes, **options)


def dense(d: Drawing, name: str) -> None:
    """Without batch norm the rows are sometimes none."""
    operation = BY_NAME[name]
    least = 2 if operation.parts else 0 if d.chance(0.1) else 1
    rows = d.size(400 if d.chance(0.9) else 3000, least)
    c, k = d.size(300 if d.chance(0.7) else 12), d.size(300)
    while rows * c * k > 1 << 22:
        rows = rows // 2 + 1
    sizes = {"n": (d.size(4), rows) if d.chance(0.2) else rows, "c": c, "k": k}
    _product(d, operation, sizes, operation.shapes(sizes))


def conv2d(d: Drawing, name: str) -> None:
    """Of every kind: those that Winograd's algorithm can do, in groups, depthwise."""
    operation = BY_NAME[name]
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
    r, s = (3, 3) if kind == "winograd" or d.chance(0.3) else (d.size(5), d.size(5))
    stride = dilation = (1, 1)
    if kind != "winograd":
        stride = (int(d.one_of([1, 1, 2, 3])), int(d.one_of([1, 1, 2, 3])))
        dilation = (int(d.one_of([1, 1, 1, 2])), int(d.one_of([1, 1, 1, 3])))
    reach = [e * (t - 1) for e, t in zip(dilation, (r, s), strict=True)]
    padding: Any = [(int(d.rng.integers(0, e + 2)), int(d.rng.integers(0, e + 2))) for e in reach]
    if d.chance(0.5):
        padding = [(before, before) for before, _ in padding]
    h, w = (max(1, e + 1 - sum(p)) + d.size(30) - 1 for e, p in zip(reach, padding, strict=True))
    n = max(1, min(n, (1 << 22) // (h * w * c * k * r * s // groups + 1)))
    options = {
        "axis": d.one_of([1, -1]), "padding": tuple(padding), "stride": stride,
        "dilation": dilation, "groups": groups, "algorithm": d.one_of(["auto", "direct"]),
    }  # fmt: skip
    if kind == "winograd":
        options["algorithm"] = "winograd"
    sizes = {"n": n, "c": c, "k": k, "h": h, "w": w, "r": r, "s": s}
    if d.chance(0.2):
        options["padding"] = d.one_of(["same", "same_lower"])
    _product(d, operation, sizes, operation.shapes(sizes, **options), **options)


def folding(d: Drawing) -> None:
    """The weights of a dense layer or a convolution, with output channels along any axes."""
    shape = limited([d.size(100) for _ in range(d.one_of([2, 3, 4, 5]))])
    out_axis = sorted(int(a) for a in d.rng.permutation(len(shape))[: d.rng.integers(1, 3)])
    operation = BY_NAME["fold_batch_norm"]
    k = math.prod(shape[axis] for axis in out_axis)
    shapes = operation.shapes({"k": k, "c": 1, "r": (), "s": ()}) | {"weight": shape}
    call(d, operation, "", shapes, out_axis=tuple(out_axis))


def groups(d: Drawing) -> None:
    """Group or instance norm, forward and backward."""
    ndim = int(d.one_of([3, 4, 4, 5]))
    axis = d.one_of([1, 1, -1])
    most = {3: 100, 4: 40, 5: 12}[ndim]
    sizes = [d.size(5), *(d.size(most, 2) for _ in range(ndim - 1))]
    sizes[axis] = d.one_of([d.size(8), d.size(30)]) * (num_groups := int(d.one_of([1, 2, 3])))
    shape = tuple(sizes)
    name, options = "instance_norm", {"axis": axis}
    if d.chance(0.6):
        name, options = "group_norm", options | {"num_groups": num_groups}
    operation = BY_NAME[name]
    kept = shape[axis : axis + 1 or None]
    arrays = operation.arrays.items()
    shapes = {array: kept if letters == "c" else shape for array, letters in arrays}
    train(d, operation, shapes, **options)


def norms(d: Drawing) -> None:
    """L1 or L2 normalization, forward and backward, and a penalty."""
    shape = limited([d.size(300) for _ in range(d.one_of([1, 2, 3, 4]))])
    axis: Any = int(d.rng.integers(-len(shape), len(shape)))
    if d.chance(0.3):
        axis = tuple(int(a) for a in d.rng.permutation(len(shape))[: d.rng.integers(1, 4)])
    name = d.one_of(["l1", "l2"])
    shapes = {"x": shape, "y": shape}
    train(d, BY_NAME[f"{name}_normalize"], shapes, axis=axis)
    call(d, BY_NAME[f"{name}_penalty"], "", shapes, weight=0.1)


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
    Family(partial(dense, name="dense"), [_FLOAT32, Profile("float64", None, False)], _PRODUCTS),
    Family(partial(dense, name="dense_batch_norm"), _PRODUCTS[:2], _PRODUCTS),
    Family(partial(conv2d, name="conv2d"), [_FLOAT32], _PRODUCTS[:2]),
    Family(partial(conv2d, name="conv2d_batch_norm"), [_FLOAT32], _PRODUCTS),
    Family(cross_iteration, [_FLOAT32], PROFILES),
    Family(groups, [_FLOAT32], PROFILES),
    Family(folding, PROFILES, PROFILES),
    Family(norms, [_FLOAT32], _PRODUCTS[:2]),
]
