"""Arrays of layers, to and from NumPyNet's flat list."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from nbnorm import checks
from nbnorm.layers import (
    BatchNorm,
    Conv2d,
    Conv2dBatchNorm,
    Dense,
    DenseBatchNorm,
    Layer,
    Sequential,
)
from nbnorm.layers.base import loaded
from nbnorm.layers.normalizing import Normalizing
from nbnorm.typing import Array


class _Block(NamedTuple):
    """An array of a layer, as the list has it.

    name      of the array in the whole
    live      the layer's array in NumPyNet's layout, a view; None where the layer has none
    shape     in that layout
    constant  what stands for an array that the layer has not
    """

    name: str
    live: Array | None
    shape: tuple[int, ...]
    constant: float


def export_weights(layer: Layer[Any]) -> Array:
    """Return the parameters of layers as NumPyNet's flat list.

    Parameters
    ----------
    layer : Dense, Conv2d, BatchNorm, DenseBatchNorm, or a Sequential of layers
        Layers without parameters are passed over.

    Returns
    -------
    float64 array of one axis

    Raises
    ------
    ValueError
        A convolution that NumPyNet does not have: in groups, or with channels first.
    TypeError
        A layer that is of no kind named above, and has parameters.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm.interop.numpynet import export_weights
    >>> from nbnorm.layers import Dense
    >>> layer = Dense(2, 2, dtype=np.float64)
    >>> layer.weight[:], layer.bias[:] = [[1, 2], [3, 4]], [5, 6]
    >>> export_weights(layer)
    array([5., 6., 1., 3., 2., 4.])
    """
    blocks = list(_blocks("export_weights", layer))
    flat = [
        np.full(np.prod(block.shape, dtype=int), block.constant)
        if block.live is None
        else block.live.ravel().astype(np.float64)
        for block in blocks
    ]
    return np.concatenate([np.empty(0), *flat])


def import_weights(layer: Layer[Any], weights: ArrayLike) -> None:
    """Copy NumPyNet's flat list into the parameters of layers; what does not fit changes nothing.

    Parameters
    ----------
    layer
        As in `export_weights`.
    weights : array or list of numbers, of one axis
        Exactly as many as the layers take.

    Raises
    ------
    ValueError
        As `export_weights`; too few numbers or too many; a number too large for the layer's type;
        another number than 0, or 1, for a bias, or a gamma, that a layer has not.
    TypeError
        As `export_weights`; no numbers.

    Examples
    --------
    >>> from nbnorm.interop.numpynet import import_weights
    >>> from nbnorm.layers import Dense
    >>> layer = Dense(2, 1)
    >>> import_weights(layer, [3.0, 1.0, 2.0])
    >>> layer.weight, layer.bias
    (array([[1., 2.]], dtype=float32), array([3.], dtype=float32))
    """
    import_flat("import_weights", layer, weights)


def count_of(function: str, layer: Any) -> int:
    """How many numbers a layer's list has."""
    return sum(int(np.prod(block.shape, dtype=int)) for block in _blocks(function, layer))


def import_flat(function: str, layer: Layer[Any], weights: ArrayLike) -> None:
    """`import_weights`, with errors in the name of `function`."""
    blocks = list(_blocks(function, layer))
    try:
        flat = np.asarray(weights)
    except ValueError:
        raise checks.wrong_type(function, "weights", weights, "an array of numbers") from None
    if isinstance(weights, np.ma.MaskedArray) or flat.dtype.kind not in "iuf":
        raise checks.wrong_type(function, "weights", weights, "an array of numbers")
    count = sum(int(np.prod(block.shape, dtype=int)) for block in blocks)
    if flat.shape != (count,):
        raise checks.wrong_value(function, "weights", flat, f"shape {(count,)}")
    checked: list[tuple[Array, Array]] = []
    start = 0
    for block in blocks:
        end = start + int(np.prod(block.shape, dtype=int))
        part = flat[start:end].reshape(block.shape)
        if block.live is not None:
            own = block.name.rpartition(".")[2]
            checked.append((block.live, loaded(function, block.name, own, part, block.live)))
        elif not (part == block.constant).all():
            expected = f"{block.constant:g} everywhere: the layer has none"
            raise checks.wrong_value(function, block.name, part, expected)
        start = end
    for live, value in checked:
        live[...] = value


def _blocks(function: str, layer: Any, prefix: str = "") -> Iterator[_Block]:
    """The arrays of a layer in the order of the list."""
    if not isinstance(layer, Layer):
        raise checks.wrong_type(function, "layer", layer, "a Layer")
    if isinstance(layer, Sequential):
        for index, member in enumerate(layer):
            yield from _blocks(function, member, f"{prefix}{index}.")
        return
    known = False
    if isinstance(layer, (Dense, DenseBatchNorm)):
        known = True
        yield from _of_product(layer, layer.weight.T, prefix)
    if isinstance(layer, Conv2d):
        known = True
        options = layer.options
        if options["groups"] != 1:
            raise checks.wrong_value(function, "groups", options["groups"], "1, as in NumPyNet")
        if options["axis"] != -1:
            raise checks.wrong_value(function, "axis", options["axis"], "-1, as in NumPyNet")
        yield from _of_product(layer, layer.weight.transpose(2, 3, 1, 0), prefix)
    if isinstance(layer, (BatchNorm, DenseBatchNorm)):
        known = True
        yield from _of_normalization(layer, prefix)
    if not known and (layer.parameters() or isinstance(layer, Conv2dBatchNorm)):
        expected = "a Dense, Conv2d, BatchNorm, DenseBatchNorm, or a Sequential of such layers"
        raise checks.wrong_type(function, "layer", layer, expected)


def _of_product(
    layer: Dense | Conv2d | DenseBatchNorm, weights: Array, prefix: str
) -> Iterator[_Block]:
    yield _Block(f"{prefix}bias", layer.bias, weights.shape[-1:], 0.0)
    yield _Block(f"{prefix}weight", weights, weights.shape, 0.0)


def _of_normalization(layer: Normalizing[Any], prefix: str) -> Iterator[_Block]:
    shape = layer.shape if isinstance(layer, BatchNorm) else layer.parameters()["weight"].shape[:1]
    yield _Block(f"{prefix}beta", layer.beta, shape, 0.0)
    yield _Block(f"{prefix}gamma", layer.gamma, shape, 1.0)
