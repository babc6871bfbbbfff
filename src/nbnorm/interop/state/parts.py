"""The products and batch norms that layers are made of, and what a framework calls them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from nbnorm import checks
from nbnorm.interop.state.frameworks import Framework
from nbnorm.layers import Conv2d, Conv2dBatchNorm, Dense, DenseBatchNorm, Layer, Sequential
from nbnorm.layers.normalizing import Normalizing


class Part(NamedTuple):
    """A product or a batch norm: all of a layer, or half of a fused one.

    prefix   what comes before its names in the state_dict of the whole
    """

    kind: str
    layer: Layer[Any]
    prefix: str


def check_layer(function: str, layer: Any) -> None:
    """Check for a layer."""
    if not isinstance(layer, Layer):
        raise checks.wrong_type(function, "layer", layer, "a Layer")


def _parts(function: str, layer: Layer[Any], prefix: str = "") -> Iterator[Part]:
    """The products and batch norms of a layer, in order."""
    if isinstance(layer, Sequential):
        for index, member in enumerate(layer):
            yield from _parts(function, member, f"{prefix}{index}.")
        return
    known = False
    if isinstance(layer, (Dense, DenseBatchNorm)):
        known = True
        yield Part("dense", layer, prefix)
    if isinstance(layer, (Conv2d, Conv2dBatchNorm)):
        known = True
        yield Part("conv2d", layer, prefix)
    if isinstance(layer, Normalizing):
        known = True
        yield Part("batch_norm", layer, prefix)
    if not known and (layer.parameters() or layer.buffers()):
        expected = "a batch norm, Dense, Conv2d, one fused, or a Sequential of such layers"
        raise checks.wrong_type(function, "layer", layer, expected)


def named_parts(
    function: str, layer: Layer[Any], names: Sequence[str] | None
) -> list[tuple[Part, str]]:
    """The parts of a layer with the framework's names of them."""
    parts = list(_parts(function, layer))
    if names is None and len(parts) == 1:
        names = [""]
    if names is None or isinstance(names, str) or len(names) != len(parts):
        kinds = ", ".join(part.kind for part in parts)
        expected = f"{len(parts)} names: of {kinds}"
        raise checks.wrong_value(function, "names", names, expected)
    return list(zip(parts, names, strict=True))


def path_of(framework: Framework, own: str, name: str, theirs: str) -> tuple[str, ...]:
    """Where a framework has an array of a layer: the names of dicts, and its own."""
    inner = name.split("/") if framework.nested else [name]
    return tuple(step for step in (framework.collections.get(own), *inner, theirs) if step)
