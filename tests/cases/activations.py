"""Every activation that there is, from the table that the library reads too."""

from __future__ import annotations

from nbnorm.functional.arguments import Activation
from nbnorm.kernels.activations import ACTIVATIONS

# As arguments: by name, and with a parameter of their own where they have one.
ARGUMENTS: list[Activation] = [
    *ACTIVATIONS,
    *((name, 0.2) for name, activation in ACTIVATIONS.items() if activation._fields),
]

# Those for which tests compile every kernel. For the others there is a small one, in
# tests/kernels/test_activations.py: to compile all kernels for all activations takes too long.
FEW: list[Activation] = [None, "relu", ("leaky_relu", 0.2), "silu", "mish"]
