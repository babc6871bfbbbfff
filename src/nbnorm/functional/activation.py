"""The activations that a fused function can end with."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from nbnorm import checks
from nbnorm.kernels.activations import LeakyReLU, Mish, ReLU, SiLU

Activation: TypeAlias = str | tuple[str, float] | None

LEAKY_RELU_SLOPE = 0.01

_BY_NAME = {
    "relu": ReLU(),
    "leaky_relu": LeakyReLU(LEAKY_RELU_SLOPE),
    "silu": SiLU(),
    "mish": Mish(),
}
_EXPECTED = 'None, "relu", "leaky_relu", ("leaky_relu", slope), "silu" or "mish"'


def resolve_activation(function: str, activation: Any) -> Any:
    """What a kernel takes for an activation: None or one of its tuples."""
    if activation is None:
        return None
    if isinstance(activation, str):
        if activation not in _BY_NAME:
            raise checks.wrong_value(function, "activation", activation, _EXPECTED)
        return _BY_NAME[activation]
    pair = isinstance(activation, tuple) and len(activation) == 2
    if pair and isinstance(activation[0], str) and activation[0] == "leaky_relu":
        slope = activation[1]
        if isinstance(slope, (int, float, np.integer, np.floating)) and not isinstance(slope, bool):
            if not checks.finite(slope):
                raise checks.wrong_value(function, "activation", activation, "a finite slope")
            return LeakyReLU(float(slope))
    raise checks.wrong_type(function, "activation", activation, _EXPECTED)
