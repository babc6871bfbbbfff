"""Every activation that there is, from the table that the library reads too."""

from __future__ import annotations

from nbnorm.functional.activation import Activation
from nbnorm.kernels.activations import ACTIVATIONS

# One argument for each type that kernels are compiled for.
OF_EACH_TYPE: list[Activation] = [
    None,
    *((name, 0.2) if activation._fields else name for name, activation in ACTIVATIONS.items()),
]

# As arguments: by name, and with a parameter of their own where they have one.
ARGUMENTS: list[Activation] = [
    *ACTIVATIONS,
    *((name, 0.2) for name, activation in ACTIVATIONS.items() if activation._fields),
]


def in_words() -> str:
    """What an argument may be, as the page of arguments has it."""
    forms = []
    for name, activation in ACTIVATIONS.items():
        forms.append(f'"{name}"')
        if activation._fields:
            forms.append(f'("{name}", {", ".join(activation._fields)})')
    return f"{', '.join(forms)} or None"
