"""What a forward hands its backward: contexts, and whether they are still as they were made."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, cast

import numpy as np

from nbnorm import checks
from nbnorm.functional.arguments import check_places
from nbnorm.launch.batch_norm import Saved
from nbnorm.launch.dense_by_covariance import StandardizedInput
from nbnorm.typing import Array


class BatchNormContext(Saved):
    """What a backward needs of its forward. It can be used any number of times.

    x, residual, gamma, beta
        The forward's own arrays, by reference: do not change them before the backward.
    statistics : array (4, ...) of float64
        mean, var and inv_std in the shape of the kept axes, and the rest of the mean: what it lost
        where it was rounded to float64.
    count : int or float
        The number m of values in a channel, or the sum of their weights; of the whole batch where
        `moments` were given.
    layout : Layout
        Where the kept axes lie in memory.
    frozen : bool
        Whether the statistics were given, so that the backward takes them for constants.
    part : bool
        Whether `moments` were given, so that x is a part of what the statistics were taken of.
    weights : array, or None
        The weights of all places of a channel, in the layout's order and x's type.
    wide : bool
        Whether x is float32 and a channel's deviation so small that float64 takes its place.
    """

    __slots__ = ()

    @property
    def mean(self) -> Array:
        """Mean of each channel, float64."""
        return self.statistics[0]

    @property
    def var(self) -> Array:
        """Variance of each channel over m - ddof, float64."""
        return self.statistics[1]

    @property
    def inv_std(self) -> Array:
        """1 / sqrt(var + eps) of each channel, float64; 0 where var + eps is 0."""
        return self.statistics[2]


class FusedContext:
    """What the contexts of dense layers and convolutions say of the batch norm in them."""

    __slots__ = ()

    normalization: BatchNormContext

    def product(self) -> dict[str, Array]:
        """What the context holds of the product that was normalized, under its name in errors."""
        return {"context.normalization.x": self.normalization.x}

    def product_fits(self, shape: tuple[int, ...]) -> bool:
        """Whether it is the product of a y of this shape."""
        return self.normalization.x.size == math.prod(shape)

    @property
    def mean(self) -> Array:
        """Mean of each channel, float64."""
        return self.normalization.mean

    @property
    def var(self) -> Array:
        """Variance of each channel over m - ddof, float64."""
        return self.normalization.var

    @property
    def inv_std(self) -> Array:
        """1 / sqrt(var + eps) of each channel, float64; 0 where var + eps is 0."""
        return self.normalization.inv_std

    @property
    def count(self) -> float:
        """The number m of values in a channel, or the sum of their weights."""
        return self.normalization.count

    @property
    def part(self) -> bool:
        """Whether the forward was given `moments`."""
        return self.normalization.part

    @property
    def gamma(self) -> Array | None:
        """The forward's gamma, by reference."""
        return self.normalization.gamma

    @property
    def beta(self) -> Array | None:
        """The forward's beta, by reference."""
        return self.normalization.beta

    @property
    def residual(self) -> Array | None:
        """The forward's residual, by reference."""
        return self.normalization.residual


# --- checks -----------------------------------------------------------------------------------


def is_array(value: Any, shape: tuple[int, ...] | None) -> bool:
    """Whether a value is an array of float32 or float64 and, if given, of a shape."""
    return (
        isinstance(value, np.ndarray)
        and (shape is None or value.shape == shape)
        and value.dtype in checks.FLOATS
    )


def unfit(function: str, context: Any) -> ValueError:
    """The error for a context whose arrays do not fit together."""
    given = f"a {type(context).__name__} whose arrays no longer match"
    expected = f"it unchanged, as {function.replace('backward', 'forward')} returned it"
    return ValueError(f"{function}: context is {given}; expected {expected}")


def fits(context: Saved) -> bool:
    """Whether a context's arrays fit together: kernels would read beyond those that do not."""
    x, gamma, beta, residual, statistics, _, layout = context[:7]
    weights = context.weights
    n, _, s = layout.shape
    return (
        is_array(statistics, (4, *layout.kept))
        and statistics.dtype == np.float64
        and is_array(x, None)
        and x.size == math.prod(layout.shape)
        and (gamma is None or is_array(gamma, layout.kept))
        and (beta is None or is_array(beta, layout.kept))
        and (residual is None or (is_array(residual, x.shape) and residual.dtype == x.dtype))
        and (weights is None or (is_array(weights, (n * s,)) and weights.dtype == x.dtype))
    )


# What `sums=` takes: those of the whole, or what makes them of those of the part.
Sums: TypeAlias = "Array | Callable[[Array], Array]"


def check_sums(function: str, given: Any, context: Saved) -> Sums:
    """What a launcher takes for `sums=`, given the context of the batch norm."""
    if not context.part:
        forward = function.replace("backward", "forward")
        expected = f"None: this context is of a {forward} without moments"
        raise checks.wrong_value(function, "sums", given, expected)
    shape, dtype = (2, *context.layout.kept), np.dtype(np.float64)
    if not callable(given):
        checks.like(function, "sums", given, shape, dtype)
        return cast(Array, given)

    def sums_of(part: Array) -> Array:
        whole = given(part)
        checks.like(function, "sums", whole, shape, dtype)
        return cast(Array, whole)

    return sums_of


def fits_product(standardized: Any, x: Array, weight: Array) -> bool:
    """Whether the arrays are those of a product of x and weight."""
    if type(standardized) is not StandardizedInput:
        return False
    rows, std, gram, scaled_weight, residual = standardized
    k, c = weight.shape
    n = math.prod(x.shape[:-1])
    return (
        is_array(rows, (n, c))
        and is_array(std, (c,))
        and is_array(gram, (c, c))
        and is_array(scaled_weight, (k, c))
        and rows.dtype == scaled_weight.dtype == x.dtype
        and gram.dtype == np.float64
        and (residual is None or (is_array(residual, (n, k)) and residual.dtype == x.dtype))
    )


def check_context(function: str, context: Any, kind: type[Any], forward: str) -> None:
    """Check a fused context: its type, and that its arrays fit together but for the product."""
    if type(context) is not kind:
        raise checks.wrong_type(function, "context", context, f"the {kind.__name__} of a {forward}")
    x, weight, bias, normalization = context[:4]
    if not (
        type(normalization) is BatchNormContext
        and fits(normalization)
        and is_array(x, None)
        and is_array(weight, None)
        and x.dtype == weight.dtype == normalization.x.dtype
        and normalization.layout.kept == weight.shape[:1]
        and (bias is None or is_array(bias, weight.shape[:1]))
    ):
        raise unfit(function, context)


def check_gradients(
    function: str,
    dy: Array,
    shape: tuple[int, ...],
    context: Any,
    kind: Any,
    needs: Iterable[str] | None,
    out: Any,
) -> frozenset[str]:
    """Check what a fused backward is given, for a y of a shape; return the names it owes.

    A gradient is owed if it is wanted and the forward had the argument.
    """
    x, weight, bias, normalization = context[:4]
    residual = context.residual
    if not context.product_fits(shape):
        raise unfit(function, context)
    checks.like(function, "dy", dy, shape, x.dtype)
    wanted = checks.needs(function, needs, kind._fields)
    arguments: Mapping[str, Array | None] = {
        "x": x,
        "weight": weight,
        "bias": bias,
        "gamma": context.gamma,
        "beta": context.beta,
        "residual": None if residual is None else residual.reshape(shape),  # one row has one axis
    }
    sources = {f"d{name}": array for name, array in arguments.items()}
    if out is not None:
        inputs = {
            "dy": dy, **arguments, **context.product(),
            "context.statistics": normalization.statistics,
        }  # fmt: skip
        check_places(function, kind, out, wanted, sources, inputs)
    return frozenset(name for name in wanted if sources[name] is not None)
