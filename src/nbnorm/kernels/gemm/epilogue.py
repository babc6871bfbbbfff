"""What follows a product while a block of it is in cache."""

from __future__ import annotations

from typing import Any, NamedTuple


class Epilogue(NamedTuple):
    """The arrays of an epilogue, None where there is nothing to do; the activation goes beside it.

    constants  (>= 3, ld) of the data's type: head, scale and shift of each column, to be applied in
               place; `ld`, the leading dimension, is the columns in whole vectors
    residual   flat, of the product's shape: added before the activation
    sums       (blocks, 2, ld) float64, written: sum(v) and sum(v^2) of each column in each block,
               where v = z - pivot
    pivots     (blocks, 3, ld) of the data's type, written in row HEAD
    """

    constants: Any = None
    residual: Any = None
    sums: Any = None
    pivots: Any = None
