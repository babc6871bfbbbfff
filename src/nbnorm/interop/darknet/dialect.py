"""In what the original and its best-known fork differ: batch norm's eps, its momentum, a bias."""

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

    eps: float
    eps_inside: bool
    momentum: float | None
    batchnorm_biases: bool  # whether a [batchnorm] section stores biases, and stores them first
    shortcut_samples: bool  # whether a [shortcut] between image sizes takes every nth pixel
    version: tuple[int, int, int]

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


DIALECTS = {
    # https://github.com/pjreddie/darknet: normalize_cpu in blas.c, load_batchnorm_weights in
    # parser.c, forward_batchnorm_layer
    "pjreddie": Dialect(1e-6, False, 0.01, False, True, (0, 2, 0)),
    # https://github.com/AlexeyAB/darknet, the same functions
    "alexeyab": Dialect(1e-5, True, 0.1, True, False, (0, 2, 5)),
}
