"""Checks of what batch norm has for each channel: scale, shift, mean and variance."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbnorm import checks
from nbnorm.typing import Array

EPS = "a finite number, 0 or more"


def check_parameters(function: str, kept: tuple[int, ...], **parameters: Array | None) -> None:
    """Checks for arrays in the shape of the kept axes; None where there is none."""
    for name, value in parameters.items():
        if value is not None:
            checks.like(function, name, value, kept)


def check_statistics(function: str, kept: tuple[int, ...], given: Any) -> tuple[Array, Array]:
    """The mean and variance that were given, in the shape of the kept axes."""
    if not isinstance(given, tuple) or len(given) != 2:
        raise checks.wrong_type(function, "statistics", given, "a tuple (mean, var)")
    mean, var = given
    checks.like(function, "mean", mean, kept)
    checks.like(function, "var", var, kept)
    if (var < 0).any():
        raise checks.wrong_value(function, "var", float(np.nanmin(var)), "no negative variance")
    return mean, var
