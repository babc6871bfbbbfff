"""Cases of dense layers and convolutions with batch norm: arguments, the error that is allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nbnorm import reference

Array: TypeAlias = NDArray[Any]

EPS = 1e-3

# Where the value that enters an activation is nearer to 0 than this, dy is 0: see
# tests/batch_norm_cases.py.
KINK = 1e-3


class Product(NamedTuple):
    """What batch norm follows: plain functions of the reference, and the axis of their channels."""

    forward: Callable[..., Array]
    backward: Callable[..., Any]
    axis: int
    geometry: dict[str, Any]


class Variant(NamedTuple):
    """What a kernel is compiled for anew, and what goes along with it."""

    dtype: str
    activation: Any = None
    residual: bool = False
    statistics: str = "of the batch"  # or "given"
    ddof: int = 0
    parameters: tuple[str, ...] = ("gamma", "beta", "bias")

    def __str__(self) -> str:
        words = [
            self.dtype, str(self.activation), "residual" if self.residual else "",
            f"statistics {self.statistics}", f"ddof {self.ddof}", " ".join(self.parameters),
        ]  # fmt: skip
        return ", ".join(word for word in words if word)


# Every activation in one type, every other factor with several of them: each row compiles for
# seconds.
VARIANTS = [
    Variant("float32", "relu", residual=True),
    Variant("float64", "silu", ddof=1, parameters=("gamma",)),
    Variant("float32", None, statistics="given", parameters=("beta", "bias")),
    Variant("float64", ("leaky_relu", 0.2), residual=True, statistics="given"),
    Variant("float32", "mish", ddof=1, parameters=()),
]
ONE_OF_EACH_TYPE = VARIANTS[:2]


class Batch(NamedTuple):
    """A case's arrays: x, weight, dy, and the keyword arguments of the forward."""

    x: Array
    weight: Array
    dy: Array
    options: dict[str, Any]


def draw(
    rng: np.random.Generator,
    variant: Variant,
    product: Product,
    x_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
) -> Batch:
    """Random arrays; every channel has a mean and a standard deviation of its own."""
    dtype = np.dtype(variant.dtype)
    k = weight_shape[0]
    x = rng.standard_normal(x_shape).astype(dtype)
    weight = rng.standard_normal(weight_shape).astype(dtype)
    z = product.forward(x, weight, **product.geometry)
    drawn = {
        "gamma": rng.choice([-1.0, 1.0], k) * rng.uniform(0.5, 1.5, k),
        "beta": rng.uniform(-1.0, 1.0, k),
        "bias": rng.uniform(-1.0, 1.0, k),
    }
    options: dict[str, Any] = {name: drawn[name].astype(dtype) for name in variant.parameters}
    if variant.residual:
        options["residual"] = rng.standard_normal(z.shape).astype(dtype)
    if variant.statistics == "given":
        scale = np.prod(weight_shape[1:])
        given = (rng.uniform(-1.0, 1.0, k), scale * rng.uniform(0.5, 2.0, k))
        options["statistics"] = tuple(value.astype(dtype) for value in given)
    options |= {"eps": EPS, "ddof": variant.ddof, "activation": variant.activation}
    dy = rng.standard_normal(z.shape).astype(dtype)
    if variant.activation is not None:
        entering = normalized(product, x, weight, options)[1]
        dy[np.abs(entering) < KINK] = 0.0
    return Batch(x, weight, dy, options)


def normalized(
    product: Product, x: Array, weight: Array, options: dict[str, Any]
) -> tuple[Array, Array]:
    """z, and the value that enters the activation."""
    others = options | {"activation": None}
    z = product.forward(x, weight, others.pop("bias", None), **product.geometry)
    return z, reference.batch_norm_forward(z, axis=product.axis, **others)


def scales(product: Product, batch: Batch) -> dict[str, Array]:
    """What an error is measured by: the rms that a result of independent terms would have.

    The true gradients can be far smaller: those of bias, or of the weight where c r s = 1, are
    sums of terms that cancel. y, mean and per-channel gradients are measured channel by channel.
    """
    x, weight, dy, options = batch
    x, weight, dy = (array.astype(np.float64) for array in (x, weight, dy))
    z, entering = normalized(product, x, weight, options)
    k = len(weight)
    reduced = tuple(a for a in range(z.ndim) if a != product.axis % z.ndim)
    mean, var = options.get("statistics") or reference.batch_statistics(
        z, axis=product.axis, ddof=options["ddof"]
    )
    inv_std = reference.inverse_std(var, EPS)
    xh = (z - np.expand_dims(mean, reduced)) * np.expand_dims(inv_std, reduced)

    def rms(values: Array) -> Array:
        return np.sqrt(np.mean(values**2, axis=reduced))

    gamma = np.abs(options.get("gamma", np.ones(k)))
    dz = np.broadcast_to(np.expand_dims(gamma * inv_std * rms(dy), reduced), z.shape)
    squares = product.backward(dz**2, x**2, weight**2, **product.geometry)
    root_m = np.sqrt(z.size / k)
    return {
        "y": np.expand_dims(rms(entering), reduced),
        "mean": rms(z),
        "var": np.maximum(var, EPS),
        "dx": np.sqrt(np.mean(squares.dx)),
        "dweight": np.sqrt(np.mean(squares.dweight)),
        "dbias": np.sqrt(squares.dbias),
        "dgamma": root_m * rms(dy) * rms(xh),
        "dbeta": root_m * rms(dy),
        "dresidual": np.expand_dims(rms(dy), reduced),
    }


def assert_within(
    actual: dict[str, Array | None],
    expected: dict[str, Array | None],
    scale: dict[str, Array],
    bound: float,
) -> None:
    """The same results there, of the same shapes, each within the bound times its scale."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        result = actual[name]
        if value is None or result is None:
            assert result is value, name
            continue
        assert result.shape == value.shape, name
        error = np.abs(result - value)
        with np.errstate(divide="ignore", invalid="ignore"):
            worst = np.max(error / scale[name], initial=0.0)
        assert (error <= bound * scale[name]).all(), f"{name}: {worst:.1e} over its scale"


def poisoned(shape: tuple[int, ...], dtype: Any) -> Array:
    """An array to write to that is all NaN."""
    return np.full(shape, np.nan, dtype)


def places(batch: Batch, kind: Any) -> Any:
    """Poisoned places for the gradients of everything that the forward was given."""
    names = ("bias", "gamma", "beta", "residual")
    given = {name: batch.options[name] for name in names if name in batch.options}
    given |= {"x": batch.x, "weight": batch.weight}
    return kind(**{f"d{name}": poisoned(a.shape, a.dtype) for name, a in given.items()})


def strided(values: Array) -> Array:
    """A view with gaps along the last axis that runs backwards along the first."""
    wide = np.full((*values.shape[:-1], 2 * values.shape[-1]), np.nan, values.dtype)
    view = wide[::-1, ..., ::2]
    view[...] = values
    return view


def arrays_in(value: Any) -> Any:
    """All arrays in an argument, however deep."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, dict):
        yield from arrays_in(tuple(value.values()))
    elif isinstance(value, tuple):
        for item in value:
            yield from arrays_in(item)
