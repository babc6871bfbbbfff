"""Where a backward writes: the arrays of its `out`, or new ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from nbnorm import checks
from nbnorm.checks import Array


def destinations(
    function: str,
    needs: Iterable[str] | None,
    kind: type[tuple[Any, ...]],
    out: Any,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: np.dtype[Any],
    inputs: Mapping[str, Array | None],
) -> list[Array | None]:
    """Return a checked array for each gradient in `shapes`, None where it is not wanted.

    `out` is None or of the NamedTuple `kind`; its arrays must overlap neither the inputs nor one
    another.
    """
    wanted = checks.needs(function, needs, tuple(shapes))
    if out is not None and not isinstance(out, kind):
        raise checks.wrong_type(function, "out", out, f"a {kind.__name__}")
    taken = dict(inputs)
    arrays: list[Array | None] = []
    for name, shape in shapes.items():
        if name in wanted:
            place = getattr(out, name, None)
            taken[name] = checks.destination(function, f"out.{name}", place, shape, dtype, taken)
        arrays.append(taken.get(name))
    return arrays
