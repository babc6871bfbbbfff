"""Arrays of layers, to and from other frameworks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nbnorm import checks
from nbnorm.interop.state.conversion import as_array, narrowed, weight_from, weight_to
from nbnorm.interop.state.frameworks import Framework, framework_of
from nbnorm.interop.state.parts import Part, check_layer, named_parts, path_of
from nbnorm.layers import Layer
from nbnorm.layers.base import loaded
from nbnorm.layers.normalizing import Normalizing
from nbnorm.typing import Array

# What a batch norm without them multiplies by and adds.
_CONSTANTS = {"gamma": 1.0, "beta": 0.0}
_STATISTICS = ("running_mean", "running_var")


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
        Running statistics have the type of the layer's parameters, float32 where it has none. Where
        the framework cannot do without a gamma or beta that the layer lacks, it is 1 or 0.

    Raises
    ------
    ValueError
        An unknown framework, a wrong number of names, no running statistics where the framework
        cannot do without, or statistics that their type there cannot hold.
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
    check_layer(function, layer)
    live = {**layer.parameters(), **layer.buffers()}
    arrays: dict[tuple[str, ...], Array] = {}
    for part, name in named_parts(function, layer, names):
        _check_tracked(function, part, target, framework)
        for own, (theirs, *_) in target.names[part.kind].items():
            array = live.get(part.prefix + own)
            if array is None:
                array = _stand_in(part, own, target)
            if array is None:
                continue
            path = path_of(target, own, name, theirs)
            if path in arrays:
                raise checks.wrong_value(function, "names", names, "a name of its own for each")
            if own in _STATISTICS:
                key = target.separator.join(path)
                array = narrowed(function, key, array, _float_type(part), _is_divided_by(part, own))
            if own == "weight":
                array = weight_to(array, target)
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

    Where the state does not count batches, ``num_batches_tracked`` stays as it is. A gamma or beta
    that it lacks becomes 1 or 0, as the framework computes without one; one that the layer lacks
    has to be 1 or 0. What does not fit changes nothing.

    Parameters
    ----------
    layer, framework, names
        As in `export_state`.
    state : mapping from names to arrays; a mapping of mappings for Flax
        Exactly the arrays of these layers. Tensors of PyTorch too, of any float type.

    Raises
    ------
    ValueError
        As `export_state`; a name is missing, unknown or not the only one that fits; a shape
        differs; a number is too large for its type; a variance is negative.
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
    check_layer(function, layer)
    if not isinstance(state, Mapping):
        raise checks.wrong_type(function, "state", state, "a mapping from names to arrays")
    live = {**layer.parameters(), **layer.buffers()}
    given: dict[Any, Any] = dict(_flatten(state) if source.nested else state)
    keys = _Keys(given, source)
    checked: dict[str, Array] = {}
    expected, lacking = [], []
    for part, name in named_parts(function, layer, names):
        for own, all_theirs in source.names[part.kind].items():
            paths = [
                source.separator.join(path_of(source, own, name, theirs)) for theirs in all_theirs
            ]
            target = live.get(part.prefix + own)
            if target is not None:
                expected.append(paths[0])
            elif own not in _CONSTANTS:
                continue
            key = keys.take(function, paths)
            if key is None:
                if target is None or own == "num_batches_tracked":
                    continue
                if own in _CONSTANTS:
                    checked[part.prefix + own] = np.full_like(target, _CONSTANTS[own])
                else:
                    lacking.append(paths[0])
                continue
            value = as_array(function, key, given[key])
            if target is None:
                _check_constant(function, key, value, own)
                continue
            if own == "weight":
                value = weight_from(function, key, value, part, target, source)
            checked[part.prefix + own] = loaded(function, key, own, value, target)
    if lacking or keys.left:
        raise ValueError(
            f"{function}: state lacks {sorted(lacking)} and has unknown "
            f"{sorted(keys.left, key=str)}; expected exactly {expected}, as {framework} has them"
        )
    # Nothing below can fail.
    for own, value in checked.items():
        live[own][...] = value


class _Keys:
    """The keys of a state that no array of a layer has taken yet: `left`."""

    def __init__(self, given: Mapping[Any, Any], source: Framework) -> None:
        self.left = set(given)
        self._prefixed = source.prefixed
        # Keras 2 numbers its variables: "bn/gamma:0".
        self._plain = {
            key: re.sub(r":\d+$", "", key) if source.prefixed and isinstance(key, str) else key
            for key in given
        }

    def take(self, function: str, paths: Sequence[str]) -> Any:
        """The key of the first path that there is, None if there is none."""
        for path in paths:
            found = [key for key in self.left if self._plain[key] == path]
            if not found and self._prefixed:  # by the model's name, or that of one around it
                ending = f"/{path}"
                found = [key for key in self.left if str(self._plain[key]).endswith(ending)]
            if len(found) > 1:
                several = f"longer ones: {path} may be any of {sorted(found)}"
                raise ValueError(f"{function}: names is too short; expected {several}")
            if found:
                self.left.remove(found[0])
                return found[0]
        return None


def _check_tracked(function: str, part: Part, target: Framework, framework: str) -> None:
    """Check for the running statistics that a framework's batch norm has always."""
    layer = part.layer
    if part.kind == "batch_norm" and not target.untracked and not layer.buffers():
        expected = f"a layer with running statistics, which {framework} has always"
        raise checks.wrong_value(function, "layer", layer, expected)


def _stand_in(part: Part, own: str, target: Framework) -> Array | None:
    """What stands for an array that a layer does not have; None if the framework needs none."""
    layer = part.layer
    if own not in _CONSTANTS or not isinstance(layer, Normalizing) or layer.affine in target.affine:
        return None
    arrays = (layer.gamma, layer.beta, layer.running_mean)
    shape = next(array.shape for array in arrays if array is not None)
    return np.full(shape, _CONSTANTS[own], _float_type(part))


def _float_type(part: Part) -> np.dtype[Any]:
    """The type of a layer's parameters."""
    parameters = list(part.layer.parameters().values())
    return parameters[0].dtype if parameters else np.dtype(np.float32)


def _is_divided_by(part: Part, own: str) -> bool:
    """Whether nothing is added to an array before its root divides."""
    return own == "running_var" and isinstance(part.layer, Normalizing) and part.layer.eps == 0


def _check_constant(function: str, key: str, value: Array, own: str) -> None:
    """Check a gamma or beta for a layer that has none."""
    if not (value == _CONSTANTS[own]).all():
        expected = f"{_CONSTANTS[own]:g} everywhere: the layer has no {own}"
        raise checks.wrong_value(function, key, value, expected)


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
