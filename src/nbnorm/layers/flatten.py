"""From images to rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nbnorm import checks
from nbnorm.layers.base import Layer
from nbnorm.typing import Array


@dataclass(frozen=True)
class FlattenContext:
    """The shape of the input."""

    shape: tuple[int, ...]


class Flatten(Layer[FlattenContext]):
    """Make one row of each sample: (n, c, h, w) becomes (n, c h w).

    y shares memory with x where NumPy's ``reshape`` can.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm.layers import Flatten
    >>> Flatten()(np.zeros((2, 3, 4, 4))).shape
    (2, 48)
    """

    _context_type = FlattenContext

    def __repr__(self) -> str:
        return "Flatten()"

    def forward(self, x: Array, residual: Array | None = None) -> tuple[Array, FlattenContext]:
        """Return x in two dimensions, and its shape."""
        self._refuse(residual)
        checks.array("Flatten.forward", "x", x)
        if x.ndim == 0:
            raise checks.wrong_value("Flatten.forward", "x", x, "one axis or more")
        return x.reshape(len(x), math.prod(x.shape[1:])), FlattenContext(x.shape)

    def _backward(self, dy: Array, context: FlattenContext) -> Array:
        n, *rest = context.shape
        checks.like("Flatten.backward", "dy", dy, (n, math.prod(rest)))
        return dy.reshape(context.shape)
