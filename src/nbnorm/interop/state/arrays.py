"""Arrays of layers, to and from other frameworks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from nbnorm import checks
from nbnorm.interop.state.frameworks import Framework, framework_of
from nbnorm.layers import Conv2d, Conv2dBatchNorm, Dense, DenseBatchNorm, Layer, Sequential
from nbnorm.layers.normalizing import Normalizing
from nbnorm.typing import Array

_TO_CHANNELS_LAST = {2: (1, 0), 4: (2, 3, 1, 0)}
_TO_CHANNELS_FIRST = {2: (1, 0), 4: (3, 2, 0, 1)}


class _Part(NamedTuple):
    """A product or a batch norm: all of a layer, or half of a fused one.

    prefix   what comes before its names in the state_dict of the whole
    """

    kind: str
    layer: Layer[Any]
    prefix: str


def export_state(
    layer: Layer[Any], framework: str, names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return a layer's parameters and running statistics as a framework has them.

    Parameters
    ----------
    layer : BatchNorm, Dense, Conv2d, DenseBatchNorm, Conv2dBatchNorm, or a Sequential of layers
        Layers without parameters are passed over.
    framework : "pytorch", "keras", "flax_linen", "flax_nnx" or "onnx"
    names : sequence of str, optional
        What the framework calls its layers, in order; a fused layer is two of them, the product and
        the batch norm. Needed where there is more than one; a single one has no name by default.
        Flax's are parted by a slash: ``"block/conv"``.

    Returns
    -------
    dict of new arrays; of dicts of them for Flax
        Running statistics have the type of the layer's parameters, float32 where it has none.

    Raises
    ------
    ValueError
        An unknown framework, a wrong number of names, or no running statistics where the
        framework cannot do without.
    TypeError
        A layer that is of no kind named above, and has parameters.

    Examples
    --------
    >>> from nbnorm.interop.state import export_state
    >>> from nbnorm.layers import Conv2d, BatchNorm, Sequential
    >>> net = Sequential(Conv2d(3, 8, 5, bias=False), BatchNorm(8))
    >>> {name: array.shape for name, array in export_state(net, "keras", ["c", "bn"]).items()}
    ... # doctest: +NORMALIZE_WHITESPACE
    {'c/kernel': (5, 5, 3, 8), 'bn/gamma': (8,), 'bn/beta': (8,), 'bn/moving_mean': (8,),
     'bn/moving_variance': (8,)}
    >>> sorted(export_state(BatchNorm(8), "flax_linen"))
    ['batch_stats', 'params']
    """
    function = "export_state"
    target = framework_of(function, framework)
    _check_layer(function, layer)
    live = {**layer.parameters(), **layer.buffers()}
    arrays = {}
    for path, (part, own) in _places(function, layer, target, names).items():
        array = live.get(part.prefix + own)
        if array is None:
            array = _stand_in(function, part, own, framework)
        if array is None:
            continue
        if own in ("running_mean", "running_var"):
            array = array.astype(_float_type(part))
        if own == "weight" and not target.channels_first:
            array = array.transpose(_TO_CHANNELS_LAST[array.ndim])
        arrays[path] = np.array(array, order="C", copy=True)
    if not target.nested:
        return {target.separator.join(path): array for path, array in arrays.items()}
    return _nest(arrays, numbered=framework == "flax_nnx")


def import_state(
    layer: Layer[Any],
    state: Mapping[str, Any],
    framework: str,
    names: Sequence[str] | None = None,
) -> None:
    """Copy what a framework has into a layer's parameters and running statistics.

    Where the framework does not count batches, ``num_batches_tracked`` stays as it is. What does
    not fit changes nothing.

    Parameters
    ----------
    layer, framework, names
        As in `export_state`.
    state : mapping from names to arrays; a mapping of mappings for Flax
        Exactly the arrays of these layers.

    Raises
    ------
    ValueError
        As `export_state`; a name is missing or unknown; a shape differs.
    TypeError
        As `export_state`; state is no mapping, or a type does not convert.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm.interop.state import import_state
    >>> from nbnorm.layers import Dense
    >>> layer = Dense(2, 1)
    >>> import_state(layer, {"kernel": np.array([[1.0], [2.0]]), "bias": np.zeros(1)}, "keras")
    >>> layer.weight
    array([[1., 2.]], dtype=float32)
    """
    function = "import_state"
    source = framework_of(function, framework)
    _check_layer(function, layer)
    if not isinstance(state, Mapping):
        raise checks.wrong_type(function, "state", state, "a mapping from names to arrays")
    live = {**layer.parameters(), **layer.buffers()}
    given: dict[str, Any] = dict(_flatten(state) if source.nested else state)
    places = {
        source.separator.join(path): part.prefix + own
        for path, (part, own) in _places(function, layer, source, names).items()
        if part.prefix + own in live
    }
    if given.keys() != places.keys():
        raise ValueError(
            f"{function}: state lacks {sorted(places.keys() - given.keys())} and has unknown "
            f"{sorted(given.keys() - places.keys(), key=str)}; expected exactly {list(places)}, "
            f"as {framework} has them"
        )
    checked: dict[str, ArrayLike] = {}
    for key, own in places.items():
        turned = not source.channels_first and own.split(".")[-1] == "weight"
        checked[own] = _checked(function, key, given[key], live[own], turned)
    layer.load_state_dict({**live, **checked})


def _check_layer(function: str, layer: Any) -> None:
    if not isinstance(layer, Layer):
        raise checks.wrong_type(function, "layer", layer, "a Layer")


def _parts(function: str, layer: Layer[Any], prefix: str = "") -> Iterator[_Part]:
    """The products and batch norms of a layer, in order."""
    if isinstance(layer, Sequential):
        for index, member in enumerate(layer):
            yield from _parts(function, member, f"{prefix}{index}.")
        return
    known = False
    if isinstance(layer, (Dense, DenseBatchNorm)):
        known = True
        yield _Part("dense", layer, prefix)
    if isinstance(layer, (Conv2d, Conv2dBatchNorm)):
        known = True
        yield _Part("conv2d", layer, prefix)
    if isinstance(layer, Normalizing):
        known = True
        yield _Part("batch_norm", layer, prefix)
    if not known and (layer.parameters() or layer.buffers()):
        expected = "a batch norm, Dense, Conv2d, one fused, or a Sequential of such layers"
        raise checks.wrong_type(function, "layer", layer, expected)


def _named_parts(
    function: str, layer: Layer[Any], names: Sequence[str] | None
) -> list[tuple[_Part, str]]:
    """The parts of a layer with the framework's names of them."""
    parts = list(_parts(function, layer))
    if names is None and len(parts) == 1:
        names = [""]
    if names is None or isinstance(names, str) or len(names) != len(parts):
        kinds = ", ".join(part.kind for part in parts)
        expected = f"{len(parts)} names: of {kinds}"
        raise checks.wrong_value(function, "names", names, expected)
    return list(zip(parts, names, strict=True))


def _places(
    function: str, layer: Layer[Any], framework: Framework, names: Sequence[str] | None
) -> dict[tuple[str, ...], tuple[_Part, str]]:
    """Where the framework has what: by path, a part of the layer and the array's name in it."""
    places: dict[tuple[str, ...], tuple[_Part, str]] = {}
    for part, name in _named_parts(function, layer, names):
        inner = tuple(name.split("/")) if framework.nested else (name,)
        for own, theirs in framework.names[part.kind].items():
            steps = (framework.collections.get(own), *inner, theirs)
            path = tuple(step for step in steps if step)
            if path in places:
                raise checks.wrong_value(function, "names", names, "a name of its own for each")
            places[path] = part, own
    return places


def _float_type(part: _Part) -> np.dtype[Any]:
    """The type of a layer's parameters."""
    parameters = list(part.layer.parameters().values())
    return parameters[0].dtype if parameters else np.dtype(np.float32)


def _stand_in(function: str, part: _Part, own: str, framework: str) -> Array | None:
    """What stands for an array that a layer does not have; None if the framework needs none."""
    target = framework_of(function, framework)
    layer = part.layer
    if own in ("running_mean", "running_var") and not target.untracked:
        expected = f"a layer with running statistics, which {framework} has always"
        raise checks.wrong_value(function, "layer", layer, expected)
    if own not in ("gamma", "beta") or target.unscaled:
        return None
    shape = layer.buffers()["running_mean"].shape
    return np.full(shape, 1.0 if own == "gamma" else 0.0, _float_type(part))


def _nest(arrays: Mapping[tuple[str, ...], Array], *, numbered: bool) -> dict[str, Any]:
    """Dicts of dicts, one a step of the path; nnx counts the layers of a list by ints."""
    tree: dict[Any, Any] = {}
    for (*outer, last), array in arrays.items():
        branch = tree
        for step in outer:
            key = int(step) if numbered and step.isdigit() else step
            branch = branch.setdefault(key, {})
        branch[last] = array
    return tree


def _flatten(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The reverse of `_nest`, with paths joined by slashes."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _checked(function: str, key: str, given: Any, live: Array, turned: bool) -> Array:
    """What was given under a name, in this library's layout."""
    value, shape = np.asarray(given), live.shape
    if turned:
        shape = tuple(shape[axis] for axis in _TO_CHANNELS_LAST[live.ndim])
    if value.shape != shape:
        raise checks.wrong_value(function, key, value, f"shape {shape}")
    if not np.can_cast(value.dtype, live.dtype, casting="same_kind"):
        raise checks.wrong_type(function, key, value, f"a type that becomes {live.dtype}")
    return value.transpose(_TO_CHANNELS_FIRST[live.ndim]) if turned else value
