"""The check of an activation given as an argument."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from nbnorm import checks
from nbnorm.kernels.activations import ACTIVATIONS

Activation: TypeAlias = str | tuple[str, float] | None


def resolve_activation(function: str, activation: Any) -> Any:
    """What a kernel takes for an activation: None or one of its tuples."""
    if activation is None:
        return None
    if isinstance(activation, str):
        if activation not in ACTIVATIONS:
            raise checks.wrong_value(function, "activation", activation, _expected())
        return ACTIVATIONS[activation]
    if isinstance(activation, tuple) and len(activation) > 1 and isinstance(activation[0], str):
        default: Any = ACTIVATIONS.get(activation[0], ())
        parameters = activation[1:]
        if len(parameters) == len(default) and all(map(_is_number, parameters)):
            for name, parameter in zip(default._fields, parameters, strict=True):
                if not checks.finite(parameter):
                    raise checks.wrong_value(function, "activation", activation, f"a finite {name}")
            return type(default)(*map(float, parameters))
    raise checks.wrong_type(function, "activation", activation, _expected())


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _expected() -> str:
    """Every activation, with its parameters where it has any."""
    forms = ["None"]
    for name, activation in ACTIVATIONS.items():
        forms.append(f'"{name}"')
        if activation._fields:
            forms.append(f'("{name}", {", ".join(activation._fields)})')
    return f"{', '.join(forms[:-1])} or {forms[-1]}"
