"""In what the original and its best-known fork compute or store something else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from nbnorm.typing import Array


class BatchNormOptions(TypedDict):
    """What the layers of this library are made with."""

    eps: float
    momentum: float | None
    running_var: str
    ddof: int


@dataclass(frozen=True)
class Dialect:
    """How one darknet normalizes and what it stores.

    The older divides by ``sqrt(var) + eps``, the newer by ``sqrt(var + eps)`` as this library does.
    The older form is the newer one of a variance slightly larger, with an eps that is squared::

        (sqrt(var) + eps)^2 = (var + 2 eps sqrt(var)) + eps^2
    """

    name: str
    eps: float
    eps_inside: bool
    momentum: float | None
    batchnorm_biases: bool  # whether a [batchnorm] section stores biases, and stores them first
    shortcut_samples: bool  # whether a [shortcut] between image sizes takes every nth pixel
    region_logistic: bool  # whether a [region] without softmax has logistic classes
    letterbox: bool  # whether a picture keeps its proportions, with grey beside it
    version: tuple[int, int, int]
    gru_order: tuple[str, ...]  # of its products in a file: of the state, or of the input
    lstm_order: tuple[str, ...]

    def options(self) -> BatchNormOptions:
        """Return the options of a layer with batch norm; both darknets divide by m - 1."""
        eps = self.eps if self.eps_inside else self.eps**2
        return {"eps": eps, "momentum": self.momentum, "running_var": "unbiased", "ddof": 1}

    def to_layer(self, variance: Array) -> Array:
        """Return the running variance of a layer, float64, for that of a file."""
        variance = variance.astype(np.float64)
        return variance if self.eps_inside else variance + 2 * self.eps * np.sqrt(variance)

    def to_file(self, running_var: Array) -> Array:
        """Undo `to_layer`; all float32 that it was given come back when rounded to float32."""
        if self.eps_inside:
            return running_var
        # The root of var is running_var / (root + 2 eps), and root + eps that of the sum below:
        # written so, nothing cancels.
        eps = self.eps
        root = np.divide(
            running_var, np.sqrt(running_var + eps**2) + eps,
            out=np.zeros_like(running_var), where=running_var != 0,
        )  # fmt: skip
        return np.copysign(root * root, running_var)


# https://github.com/pjreddie/darknet: normalize_cpu in blas.c, load_batchnorm_weights and
# save_weights_upto in parser.c, forward_batchnorm_layer
ORIGINAL = Dialect(
    "pjreddie",
    eps=1e-6,
    eps_inside=False,
    momentum=0.01,
    batchnorm_biases=False,
    shortcut_samples=True,
    region_logistic=True,
    letterbox=True,
    version=(0, 2, 0),
    gru_order=("state_z", "state_r", "state_h", "input_z", "input_r", "input_h"),
    lstm_order=(
        "state_i", "state_f", "state_o", "state_g", "input_i", "input_f", "input_o", "input_g",
    ),
)  # fmt: skip

# https://github.com/AlexeyAB/darknet, the same functions
FORK = Dialect(
    "alexeyab",
    eps=1e-5,
    eps_inside=True,
    momentum=0.1,
    batchnorm_biases=True,
    shortcut_samples=False,
    region_logistic=False,
    letterbox=False,
    version=(0, 2, 5),
    gru_order=("input_z", "input_r", "input_h", "state_z", "state_r", "state_h"),
    lstm_order=(
        "state_f", "state_i", "state_g", "state_o", "input_f", "input_i", "input_g", "input_o",
    ),
)  # fmt: skip

DIALECTS = {dialect.name: dialect for dialect in (ORIGINAL, FORK)}
