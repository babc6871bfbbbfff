"""How a layer's parameters start."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from nbnorm import checks
from nbnorm.checks import Array

Seed: TypeAlias = int | Sequence[int] | np.random.SeedSequence | np.random.Generator | None


def float_type(function: str, dtype: DTypeLike) -> np.dtype[Any]:
    """Return float32 or float64 as a dtype."""
    found = np.dtype(dtype)
    if found not in checks.FLOATS:
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
