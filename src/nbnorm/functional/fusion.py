"""What dense layers and convolutions with batch norm have in common: contexts and checks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from nbnorm import checks
from nbnorm.functional.activation import resolve_activation
from nbnorm.functional.batch_norm import BatchNormContext, fits, is_array, unfit
from nbnorm.functional.gradients import check_places
from nbnorm.functional.parameters import EPS, check_parameters, check_statistics
from nbnorm.launch.dense_by_covariance import StandardizedInput
from nbnorm.typing import Array


def fits_product(standardized: Any, x: Array, weight: Array) -> bool:
    """Whether the arrays are those of a product of x and weight."""
    if type(standardized) is not StandardizedInput:
        return False
    rows, std, gram, folded, residual = standardized
    k, c = weight.shape
    n = math.prod(x.shape[:-1])
    return (
        all(
            is_array(*pair)
            for pair in ((rows, (n, c)), (folded, (k, c)), (std, (c,)), (gram, (c, c)))
        )
        and rows.dtype == folded.dtype == x.dtype
        and gram.dtype == np.float64
        and (residual is None or (is_array(residual, (n, k)) and residual.dtype == x.dtype))
    )


class Normalized:
    """What a context says of the batch norm in it."""

    __slots__ = ()

    normalization: BatchNormContext

    def of_product(self) -> dict[str, Array]:
        """What the context holds of the product that was normalized, under its name in errors."""
        return {"context.normalization.x": self.normalization.x}

    def has_product(self, shape: tuple[int, ...]) -> bool:
        """Whether it fits a y of this shape."""
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
    def count(self) -> int:
        """The number m of values in a channel."""
        return self.normalization.count

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


def check_options(
    function: str,
    x: Array,
    shape: tuple[int, ...],
    k: int,
    bias: Array | None,
    gamma: Array | None,
    beta: Array | None,
    eps: Any,
    activation: Any,
    residual: Array | None,
) -> tuple[float, Any]:
    """Check what forward and inference have in common, for k channels and a y of `shape`.

    Returns eps, and the activation as kernels take it.
    """
    check_parameters(function, (k,), bias=bias, gamma=gamma, beta=beta)
    eps = checks.number(function, "eps", eps, EPS)
    applied = resolve_activation(function, activation)
    if residual is not None:
        checks.like(function, "residual", residual, shape, x.dtype)
    return eps, applied


def check_batch(
    function: str, x: Array, count: int, k: int, statistics: tuple[Array, Array] | None
) -> None:
    """Check the statistics that were given, or that there are values to take them of."""
    if statistics is not None:
        check_statistics(function, (k,), statistics)
    elif count < 2:
        raise checks.wrong_value(
            function, "x", x, "two values or more in each channel to take statistics of"
        )


def check_context(function: str, context: Any) -> None:
    """Check that the arrays of a context fit together, as far as the product does not matter."""
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
    """Check what a backward is given, for a y of `shape`; return the names it owes.

    A gradient is owed if it is wanted and the forward had the argument.
    """
    x, weight, bias, normalization = context[:4]
    residual = context.residual
    if not context.has_product(shape):
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
            "dy": dy, **arguments, **context.of_product(),
            "context.statistics": normalization.statistics,
        }  # fmt: skip
        check_places(function, kind, out, wanted, sources, inputs)
    return frozenset(name for name in wanted if sources[name] is not None)
