"""Cases of batch norm: their arguments, the reference's results, the error that is allowed."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numba.core import config
from numpy.typing import NDArray

from nbnorm import BatchNormGradients, batch_norm_backward, batch_norm_forward, reference
from nbnorm.launch import batch_norm as launch
from nbnorm.launch.plans import Columns, Fused
from tests.cases.activations import FEW

Array: TypeAlias = NDArray[Any]
Axis: TypeAlias = int | tuple[int, ...]

ACTIVATIONS = FEW
DTYPES = ["float32", "float64"]
PARAMETERS = [("gamma", "beta"), ("gamma",), ("beta",), ()]

# The largest error over the scales of `scales`, for |mean| / std up to 1.
BOUND = {"float32": 2e-6, "float64": 1e-14}

EPS = 1e-3

# Where the value that enters a ReLU is nearer to 0 than this, dy is 0: one rounding puts it on
# either side, and dx, dgamma and dbeta there are whatever that rounding decides.
KINK = 1e-3


# --- layouts --------------------------------------------------------------------------------


def strided(values: Array) -> Array:
    """A view with gaps along the last axis that runs backwards along the first."""
    wide = np.full((*values.shape[:-1], 2 * values.shape[-1]), np.nan, values.dtype)
    view = wide[::-1, ..., ::2]
    view[...] = values
    return view


def channels_last_memory(values: Array) -> Array:
    """Axis 1 varies fastest in memory, as in PyTorch's channels_last."""
    return np.moveaxis(np.moveaxis(values, 1, -1).copy(order="C"), -1, 1)


def read_only(values: Array) -> Array:
    array = values.copy(order="C")
    array.flags.writeable = False
    return array


def misaligned(values: Array) -> Array:
    """A copy that begins one byte off its alignment."""
    memory = np.empty(values.nbytes + 1, np.uint8)
    array: Array = memory[1:].view(values.dtype).reshape(values.shape)
    array[...] = values
    return array


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "C": lambda values: values.copy(order="C"),
    "Fortran": lambda values: values.copy(order="F"),
    "strided": strided,
    "channels-last memory": channels_last_memory,
    "read-only": read_only,
}


def poisoned(shape: tuple[int, ...], dtype: Any, layout: str = "C") -> Array:
    """An array to write to that is all NaN."""
    return LAYOUTS["C" if layout == "read-only" else layout](np.full(shape, np.nan, dtype))


def surrounded(values: Array, offset: int = 0) -> tuple[Array, Array]:
    """A C-contiguous copy inside a larger buffer of NaN, `offset` elements off a cache line.

    Returns the copy and the buffer.
    """
    margin = 512  # several vectors of the widest registers
    buffer = np.full(values.size + 3 * margin, np.nan, values.dtype)
    line = 64 // values.itemsize
    first = margin + (-buffer.ctypes.data // values.itemsize - margin) % line + offset
    inside = buffer[first : first + values.size].reshape(values.shape)
    inside[...] = values
    return inside, buffer


# --- cases ----------------------------------------------------------------------------------


class Case(NamedTuple):
    """One combination of everything that batch norm accepts."""

    shape: tuple[int, ...]
    axis: Axis = 1
    layout: str = "C"
    dtype: str = "float32"
    ddof: int = 0
    activation: Any = None
    residual: bool = False
    statistics: str = "of the batch"  # or "given"
    parameters: tuple[str, ...] = ("gamma", "beta")

    def __str__(self) -> str:
        words = [
            "x".join(map(str, self.shape)), f"axis {self.axis}", self.layout, self.dtype,
            f"ddof {self.ddof}", str(self.activation), "residual" if self.residual else "",
            f"statistics {self.statistics}", " ".join(self.parameters),
        ]  # fmt: skip
        return ", ".join(word for word in words if word)


class Batch(NamedTuple):
    """A case's arrays: x, dy, and the keyword arguments of the forward."""

    x: Array
    dy: Array
    options: dict[str, Any]


def reduced_axes(ndim: int, axis: Axis) -> tuple[int, ...]:
    kept = {a % ndim for a in np.atleast_1d(axis)}
    return tuple(a for a in range(ndim) if a not in kept)


def kept_shape(shape: tuple[int, ...], axis: Axis) -> tuple[int, ...]:
    reduced = reduced_axes(len(shape), axis)
    return tuple(size for a, size in enumerate(shape) if a not in reduced)


def draw(case: Case, rng: np.random.Generator) -> Batch:
    """Random arrays for a case; every channel has a mean and a standard deviation of its own."""
    arrange = LAYOUTS[case.layout]
    channels = kept_shape(case.shape, case.axis)
    reduced = reduced_axes(len(case.shape), case.axis)

    def normal(shape: tuple[int, ...]) -> Array:
        return rng.standard_normal(shape)

    def uniform(low: float, high: float) -> Array:
        return rng.uniform(low, high, channels)

    std = np.expand_dims(uniform(0.5, 2.0), reduced)
    x = std * (normal(case.shape) + np.expand_dims(uniform(-1.0, 1.0), reduced))
    signs = rng.choice([-1.0, 1.0], channels)
    options: dict[str, Any] = {
        "gamma": signs * uniform(0.5, 1.5) if "gamma" in case.parameters else None,
        "beta": uniform(-1.0, 1.0) if "beta" in case.parameters else None,
        "residual": normal(case.shape) if case.residual else None,
    }
    options = {k: None if v is None else v.astype(case.dtype) for k, v in options.items()}
    if case.residual:
        options["residual"] = arrange(options["residual"])
    options |= {"axis": case.axis, "eps": EPS, "ddof": case.ddof, "activation": case.activation}
    if case.statistics == "given":
        given = (uniform(-1.0, 1.0), uniform(0.5, 4.0))
        options["statistics"] = tuple(value.astype(case.dtype) for value in given)
    x = arrange(x.astype(case.dtype))
    dy = normal(case.shape).astype(case.dtype)
    if case.activation is not None:
        dy[np.abs(entering(x, options)) < KINK] = 0.0
    return Batch(x, arrange(dy), options)


def widened(values: Array, axis: Axis) -> Array:
    """A float64 copy in which a channel's values are neighbours.

    NumPy adds neighbours pairwise and others one by one, which for thousands of values would be
    less exact than what is to be judged.
    """
    reduced = reduced_axes(values.ndim, axis)
    order = [*(a for a in range(values.ndim) if a not in reduced), *reduced]
    return values.transpose(order).astype(np.float64, order="C").transpose(np.argsort(order))


def for_reference(options: dict[str, Any]) -> dict[str, Any]:
    residual = options["residual"]
    return options | {"residual": None if residual is None else widened(residual, options["axis"])}


def entering(x: Array, options: dict[str, Any]) -> Array:
    """The value that enters the activation."""
    x = widened(x, options["axis"])
    return reference.batch_norm_forward(x, **for_reference(options) | {"activation": None})


def run(batch: Batch, layout: str = "C") -> dict[str, Array | None]:
    """What the functions make of a batch: y and the gradients, written over NaN."""
    x, dy, options = batch
    gamma, beta, residual = (options[name] for name in ("gamma", "beta", "residual"))
    y = poisoned(x.shape, x.dtype, layout)
    out = BatchNormGradients(
        dx=poisoned(x.shape, x.dtype, layout),
        dgamma=None if gamma is None else poisoned(gamma.shape, gamma.dtype),
        dbeta=None if beta is None else poisoned(beta.shape, beta.dtype),
        dresidual=None if residual is None else poisoned(x.shape, x.dtype, layout),
    )
    returned, context = batch_norm_forward(x, **options, out=y)
    gradients = batch_norm_backward(dy, context, out=out)
    assert returned is y
    for given, got in zip(out, gradients, strict=True):
        assert got is given
    return {"y": y, **gradients._asdict()}


def allocated(batch: Batch) -> dict[str, Array | None]:
    """`run` without out=: what the functions return of their own."""
    y, context = batch_norm_forward(batch.x, **batch.options)
    return {"y": y, **batch_norm_backward(batch.dy, context)._asdict()}


def expected(batch: Batch) -> dict[str, Array | None]:
    """What the reference makes of a batch."""
    x, dy = (widened(values, batch.options["axis"]) for values in (batch.x, batch.dy))
    options = for_reference(batch.options)
    gradients = reference.batch_norm_backward(dy, x, **options)
    y = reference.batch_norm_forward(x, **options)
    return {"y": y, **gradients._asdict()}


def scales(batch: Batch) -> dict[str, Array]:
    """What an error is measured by, channel by channel, in a shape that fits the result.

    y over the rms of what enters the activation, dx over rms(gamma dy / s), dgamma over
    sqrt(m) rms(dy) rms(xh), dbeta over sqrt(m) rms(dy), dresidual over rms(dy).
    """
    options = batch.options
    x, dy = (widened(values, options["axis"]) for values in (batch.x, batch.dy))
    reduced = reduced_axes(x.ndim, options["axis"])
    mean, var = options.get("statistics") or reference.batch_statistics(
        x, axis=options["axis"], ddof=options["ddof"]
    )
    inv_std = reference.inverse_std(var, options["eps"])
    xh = (x - np.expand_dims(mean, reduced)) * np.expand_dims(inv_std, reduced)

    def rms(values: Array) -> Array:
        return np.sqrt(np.mean(values**2, axis=reduced))

    gamma = 1.0 if options["gamma"] is None else np.abs(options["gamma"])
    root_m = np.sqrt(x.size / inv_std.size)
    return {
        "y": np.expand_dims(rms(entering(x, options)), reduced),
        "dx": np.expand_dims(gamma * inv_std * rms(dy), reduced),
        "dgamma": root_m * rms(dy) * rms(xh),
        "dbeta": root_m * rms(dy),
        "dresidual": np.expand_dims(rms(dy), reduced),
    }


def assert_within_bounds(
    actual: dict[str, Array | None], batch: Batch, bound: float | None = None
) -> None:
    """Every result has the reference's shape, the given type and an error within the bound."""
    bound = BOUND[str(batch.x.dtype)] if bound is None else bound
    scale = scales(batch)
    for name, value in expected(batch).items():
        result = actual[name]
        if value is None:
            assert result is None, name
            continue
        assert result is not None, name
        assert (result.shape, result.dtype) == (value.shape, batch.x.dtype), name
        error = np.abs(result - value)
        within = error <= bound * scale[name]
        with np.errstate(divide="ignore", invalid="ignore"):
            worst = np.max(error / scale[name])
        assert within.all(), f"{name}: {worst:.1e} over its scale, allowed are {bound:.1e}"


def assert_same_bits(actual: dict[str, Array | None], wanted: dict[str, Array | None]) -> None:
    """Equality of every bit, so that -0.0 is not 0.0; a NaN is a NaN."""
    assert actual.keys() == wanted.keys()
    for name, value in wanted.items():
        result = actual[name]
        if value is None or result is None:
            assert result is value, name
            continue
        np.testing.assert_array_equal(result, value, err_msg=name)
        np.testing.assert_array_equal(np.signbit(result), np.signbit(value), err_msg=name)


def digest(results: dict[str, Array | None]) -> str:
    """A fingerprint of every bit."""
    parts = [(name, None if v is None else v.tobytes()) for name, v in sorted(results.items())]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


# --- which kernels serve a case --------------------------------------------------------------


class Site(NamedTuple):
    """An array in C order, and the kind of plan that serves its training."""

    kind: str
    shape: tuple[int, ...]
    axis: int
    dtype: str
    parallel: bool

    def __str__(self) -> str:
        return f"{self.kind}{', parallel' if self.parallel else ''}"

    def in_layout(self, layout: str) -> dict[str, Any]:
        """Shape and axis of an array of this layout that lies in memory as the site does."""
        ndim = len(self.shape)
        strides = LAYOUTS[layout](np.empty(range(2, ndim + 2))).strides
        order = np.argsort(np.abs(strides))[::-1]  # as the axes come in memory
        places = np.argsort(order)  # of the array's axes, among those of the site
        axis = int(order[self.axis]) - ndim * (self.axis < 0)
        return {"shape": tuple(self.shape[p] for p in places), "axis": axis, "layout": layout}


SITES = [
    Site("fused columns", (12, 256), 1, "float32", False),
    Site("fused columns", (9, 300), -1, "float64", False),
    Site("fused columns", (512, 300), -1, "float64", True),  # several tiles, the last one short
    Site("fused columns", (600, 520), 1, "float32", True),
    Site("sliced columns", (4500, 3), 1, "float32", False),  # copies, and a row that is cut short
    Site("sliced columns", (8201, 37), -1, "float64", False),
    Site("sliced columns", (8201, 100), 1, "float64", True),
    Site("sliced columns", (150_001, 1), -1, "float32", True),
    Site("fused planes", (4, 6, 5, 5), 1, "float32", False),
    Site("fused planes", (3, 2, 7, 3, 4), 1, "float64", False),
    Site("fused planes", (2, 9, 360, 350), 1, "float64", True),
    Site("fused planes", (16, 9, 32, 32), 1, "float32", True),
    Site("sliced planes", (2, 3, 300, 300), 1, "float32", False),
    Site("sliced planes", (4, 16, 70, 100), 1, "float64", False),
    Site("sliced planes", (2, 3, 217, 301), 1, "float64", True),
    Site("sliced planes", (1, 3, 500, 700), 1, "float32", True),
]
KINDS = list(dict.fromkeys(site.kind for site in SITES))

# A case for each kind of plan, and one large enough for several threads; of one combination of
# types each, so that there is little to compile.
ONE_OF_EACH_KIND = {
    site.kind: Case(site.shape, site.axis, activation="relu", residual=True)
    for site in SITES
    if site.dtype == "float32" and not site.parallel
    # As plain NumPy it takes seconds a call; tests/kernels has small arrays for its kernels.
    if not (config.DISABLE_JIT and site.kind == "sliced planes")
}
ONE_PARALLEL_OF_EACH_KIND = {
    site.kind: Case(site.shape, site.axis, activation="relu", residual=True)
    for site in SITES
    if site.dtype == "float32" and site.parallel
}


class Plans:
    """Notes the plans that the functions ask for, and changes fields of them if told to."""

    def __init__(self, monkeypatch: Any, **changes: Any) -> None:
        self.training: list[Any] = []
        self.elementwise: list[Any] = []
        for name, seen in (("training", self.training), ("elementwise", self.elementwise)):
            choose = getattr(launch, f"{name}_plan")
            noting = functools.partial(self._choose, choose, seen, changes)
            monkeypatch.setattr(launch, f"{name}_plan", noting)

    @staticmethod
    def _choose(choose: Any, seen: list[Any], changes: dict[str, Any], *arguments: Any) -> Any:
        plan = choose(*arguments)
        seen.append(plan)
        return plan._replace(**changes)


def kind_of(plan: Any) -> str:
    fused = isinstance(plan, Fused)
    columns = plan.columns if fused else isinstance(plan, Columns)
    return f"{'fused' if fused else 'sliced'} {'columns' if columns else 'planes'}"


# --- combinations ---------------------------------------------------------------------------

FREE = {
    "layout": list(LAYOUTS),
    "ddof": [0, 1],
    "statistics": ["of the batch", "given"],
    "parameters": PARAMETERS,
}


def full_product(shape: tuple[int, ...], axes: Sequence[Axis]) -> Iterator[Case]:
    """Every combination of every factor."""
    for values in itertools.product(axes, DTYPES, ACTIVATIONS, (False, True), *FREE.values()):
        axis, dtype, activation, residual, *free = values
        yield Case(
            shape, axis, dtype=dtype, activation=activation, residual=residual,
            **dict(zip(FREE, free, strict=True)),
        )  # fmt: skip


def sited_cases() -> list[tuple[Site, Case]]:
    """Cases in which every pair of values of two factors occurs.

    To compile for each kind of plan every activation, but for one type and either serial or
    parallel, is what takes the time: another kind gets another type.
    """
    rows = []
    for i, site in enumerate(SITES):
        kind, place = divmod(i, 4)
        for j, activation in enumerate(ACTIVATIONS):
            if (j + kind) % 4 == place:
                residual = (j + kind // 2) % 2 == 0
                case = Case(site.shape, dtype=site.dtype, activation=activation, residual=residual)
                rows.append((site, case))
    return list(_with_every_pair(rows))


def pairs(site: Site, case: Case) -> set[tuple[Any, ...]]:
    """The pairs of values of two factors that a case has."""
    values = {
        "kind": site.kind, "activation": case.activation, "dtype": case.dtype,
        "residual": case.residual, "parallel": site.parallel,
        **{name: getattr(case, name) for name in FREE},
    }  # fmt: skip
    return set(itertools.combinations(values.items(), 2))


def _with_every_pair(rows: Iterable[tuple[Site, Case]]) -> Iterator[tuple[Site, Case]]:
    """The rows with free factors that add pairs, again and again until no row adds any."""
    seen: set[tuple[Any, ...]] = set()
    added = True
    while added:
        added = False
        for site, case in rows:
            choices = []
            for values in itertools.product(*FREE.values()):
                free = dict(zip(FREE, values, strict=True))
                choices.append(case._replace(**free | site.in_layout(free["layout"])))
            best = max(choices, key=lambda choice: len(pairs(site, choice) - seen))
            if pairs(site, best) - seen:
                seen |= pairs(site, best)
                added = True
                yield site, best
