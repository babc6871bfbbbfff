"""How a layer's parameters start."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from nbnorm import checks
from nbnorm.functional.arguments import pair, size
from nbnorm.functional.conv2d import check_window
from nbnorm.typing import Array

Seed: TypeAlias = int | Sequence[int] | np.random.SeedSequence | np.random.Generator | None


def float_type(function: str, dtype: DTypeLike) -> np.dtype[Any]:
    """Return float32 or float64 as a dtype."""
    try:
        found = None if dtype is None else np.dtype(dtype)  # NumPy's None is float64
    except (TypeError, ValueError):
        found = None
    if found is None or found not in checks.FLOATS:
        raise checks.wrong_type(function, "dtype", dtype, "float32 or float64")
    return found


def kaiming_uniform(
    rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, dtype: DTypeLike
) -> Array:
    """Draw uniformly within ``1 / sqrt(fan_in)``, as PyTorch starts dense and conv layers.

    That is the rule of He et al., "Delving deep into rectifiers", 2015,
    https://arxiv.org/abs/1502.01852, for a leaky ReLU of slope sqrt(5).
    """
    bound = 1 / math.sqrt(fan_in)
    # Drawn as float64 whatever the type, so that one seed starts both types alike.
    return rng.uniform(-bound, bound, shape).astype(dtype)


def dense_parameters(
    function: str, in_features: Any, out_features: Any, bias: bool, dtype: DTypeLike, rng: Seed
) -> tuple[Array, Array | None]:
    """Check the sizes of a dense layer, and draw its weight and bias."""
    c = size(function, "in_features", in_features)
    k = size(function, "out_features", out_features)
    return _weight_and_bias(function, (k, c), bias, dtype, rng)


def conv2d_parameters(
    function: str,
    in_channels: Any,
    out_channels: Any,
    kernel_size: Any,
    options: Mapping[str, Any],
    bias: bool,
    dtype: DTypeLike,
    rng: Seed,
) -> tuple[Array, Array | None]:
    """Check the sizes and options of a convolution, and draw its weight and bias."""
    c = size(function, "in_channels", in_channels)
    k = size(function, "out_channels", out_channels)
    *_, groups = check_window(function, **options)
    if c % groups or k % groups:
        expected = f"a divisor of in_channels = {c} and out_channels = {k}"
        raise checks.wrong_value(function, "groups", groups, expected)
    window = pair(function, "kernel_size", kernel_size)
    return _weight_and_bias(function, (k, c // groups, *window), bias, dtype, rng)


def _weight_and_bias(
    function: str, shape: tuple[int, ...], bias: bool, dtype: DTypeLike, rng: Seed
) -> tuple[Array, Array | None]:
    dtype = float_type(function, dtype)
    bias = checks.flag(function, "bias", bias)
    expected = "a seed or a numpy.random.Generator"
    try:
        rng = np.random.default_rng(rng)
    except TypeError:
        raise checks.wrong_type(function, "rng", rng, expected) from None
    except ValueError:
        raise checks.wrong_value(function, "rng", rng, expected) from None
    fan_in = math.prod(shape[1:])
    weight = kaiming_uniform(rng, shape, fan_in, dtype)
    return weight, kaiming_uniform(rng, shape[:1], fan_in, dtype) if bias else None
