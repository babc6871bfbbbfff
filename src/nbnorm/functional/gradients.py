"""The arrays that backwards write to."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from nbnorm import checks
from nbnorm.typing import Array


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


def check_places(
    function: str,
    kind: type[tuple[Any, ...]],
    out: Any,
    wanted: Collection[str],
    sources: Mapping[str, Array | None],
    inputs: Mapping[str, Array | None],
    *,
    over: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> None:
    """Checks the arrays of `out`, of the NamedTuple `kind`, that will be written to.

    `sources` has for each gradient the array that it is the gradient of, whose shape and type it
    takes. The arrays must overlap neither the inputs, but for those named in `over`, nor one
    another. What is not wanted, or is no gradient of anything, is not looked at.
    """
    if not isinstance(out, kind):
        raise checks.wrong_type(function, "out", out, f"a {kind.__name__}")
    taken = dict(inputs)
    for name, source in sources.items():
        place = getattr(out, name)
        if place is not None and source is not None and name in wanted:
            shape, dtype = source.shape, source.dtype
            allowed = over.get(name, ())
            checks.writable(function, f"out.{name}", place, shape, dtype, taken, over=allowed)
            taken[f"out.{name}"] = place
