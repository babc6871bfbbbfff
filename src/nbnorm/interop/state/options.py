"""Options of batch norms, to and from other frameworks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nbnorm import checks
from nbnorm.functional.arguments import size
from nbnorm.interop.state.frameworks import Framework, framework_of
from nbnorm.layers import BatchNorm, Conv2dBatchNorm, Layer
from nbnorm.layers.normalizing import Normalizing


def export_options(layer: Layer[Any], framework: str) -> dict[str, Any]:
    """Return the options of a batch norm as a framework's layer takes them.

    Parameters
    ----------
    layer : BatchNorm, DenseBatchNorm or Conv2dBatchNorm
        Of a fused layer, those of its batch norm. An activation is a layer of its own elsewhere.
    framework : "pytorch", "keras", "flax_linen", "flax_nnx" or "onnx"

    Returns
    -------
    dict
        Arguments of ``BatchNorm1d`` (or 2d, 3d), ``BatchNormalization``, ``BatchNorm``, or the
        attributes of the node.

    Raises
    ------
    ValueError
        An unknown framework, or an option that it does not have.
    TypeError
        The layer has no batch norm.

    Examples
    --------
    >>> from nbnorm.interop.state import export_options
    >>> from nbnorm.layers import BatchNorm
    >>> export_options(BatchNorm(8, momentum=0.25), "keras")
    {'epsilon': 1e-05, 'momentum': 0.75, 'axis': 1, 'scale': True, 'center': True}
    """
    function = "export_options"
    target = framework_of(function, framework)
    if not isinstance(layer, Normalizing):
        raise checks.wrong_type(function, "layer", layer, "a layer with batch norm")
    tracked = layer.running_mean is not None
    # Where a framework has no such form, `export_state` writes gamma and beta as 1 and 0.
    affine = layer.affine if layer.affine in target.affine else True
    axis = _axis(layer)
    expected = f"what {framework} has"
    if layer.ddof != 0:
        raise checks.wrong_value(function, "ddof", layer.ddof, f"{expected}: 0")
    if layer.momentum is None and target.old:
        raise checks.wrong_value(function, "momentum", None, f"{expected}: a number")
    if not tracked and not target.untracked:
        raise checks.wrong_value(function, "track_running_stats", tracked, f"{expected}: True")
    if "axis" not in target.options and axis not in (1, (1,)) and isinstance(layer, BatchNorm):
        raise checks.wrong_value(function, "axis", axis, f"{expected}: 1")
    if framework == "keras" and isinstance(axis, tuple):
        if len(axis) > 1:
            raise checks.wrong_value(function, "axis", axis, f"{expected}: one axis")
        axis = axis[0]
    momentum = 1 - layer.momentum if target.old and layer.momentum is not None else layer.momentum
    values = {
        "eps": layer.eps,
        "momentum": momentum,
        "axis": axis,
        "gamma": affine in (True, "gamma"),
        "beta": affine in (True, "beta"),
        "affine": affine is not False,
        "track_running_stats": tracked,
    }
    options = {theirs: values[own] for own, (theirs, _) in target.options.items()}
    if framework == "pytorch" and affine == "gamma":
        options["bias"] = False  # which versions before 2.13 do not know
    return options


def import_options(options: Mapping[str, Any], framework: str, *, ndim: int = 4) -> dict[str, Any]:
    """Return the arguments of `BatchNorm` that do what a framework's options do.

    Parameters
    ----------
    options : mapping
        Arguments or attributes, such as Keras's ``layer.get_config()``; those that are missing have
        the framework's defaults, others are passed over.
    framework : "pytorch", "keras", "flax_linen", "flax_nnx" or "onnx"
    ndim : int
        How many axes x has. It counts only for ONNX's ``spatial=0``, which keeps statistics of all
        but the first.

    Returns
    -------
    dict
        eps, momentum, affine, track_running_stats, running_var and, where the framework has it,
        axis.

    Raises
    ------
    ValueError
        An unknown framework, or an option out of range; one that changes results and has no
        counterpart: Keras's ``renorm``, ``virtual_batch_size`` and ``adjustment``, ONNX's
        ``training_mode=1`` (leave it out for a layer that is in training, as it begins).
    TypeError
        options is no mapping, or one of them is of the wrong type.

    Examples
    --------
    >>> from nbnorm.interop.state import import_options
    >>> import_options({"momentum": 0.75}, "keras")  # doctest: +NORMALIZE_WHITESPACE
    {'affine': True, 'track_running_stats': True, 'eps': 0.001, 'momentum': 0.25, 'axis': -1,
     'running_var': 'biased'}
    """
    function = "import_options"
    source = framework_of(function, framework)
    if not isinstance(options, Mapping):
        raise checks.wrong_type(function, "options", options, "a mapping from names to values")
    for name, harmless in source.fixed.items():
        if name in options and options[name] not in harmless:
            raise checks.wrong_value(function, name, options[name], f"{harmless[0]}")
    names = {own: theirs for own, (theirs, _) in source.options.items()}
    found = {own: options.get(theirs, default) for own, (theirs, default) in source.options.items()}
    found["eps"] = checks.number(function, names["eps"], found["eps"], "a finite number, 0 or more")
    found["momentum"] = _momentum(function, found["momentum"], source)
    for own in found.keys() & {"affine", "track_running_stats", "gamma", "beta"}:
        checks.flag(function, names[own], found[own])
    if "axis" in found:
        found["axis"] = _checked_axis(function, found["axis"])
    elif not options.get("spatial", 1):  # ONNX before opset 9
        found["axis"] = tuple(range(1, size(function, "ndim", ndim)))
    learns = found.pop("affine", True)
    # PyTorch's bias, since 2.13, says whether a layer with affine has a beta.
    scales = found.pop("gamma", learns)
    shifts = found.pop("beta", learns and options.get("bias", True))
    affine = scales if scales == shifts else ("gamma" if scales else "beta")
    running_var = "biased" if source.old else "unbiased"
    defaults = {"affine": affine, "track_running_stats": True}
    return {**defaults, **found, "running_var": running_var}


def _momentum(function: str, momentum: Any, source: Framework) -> float | None:
    """The weight of the new batch."""
    if momentum is None and not source.old:
        return None
    expected = "a number from 0 to 1"
    if momentum is None:
        raise checks.wrong_value(function, "momentum", momentum, expected)
    weight = checks.number(function, "momentum", momentum, expected)
    if weight > 1:
        raise checks.wrong_value(function, "momentum", momentum, expected)
    return 1 - weight if source.old else weight


def _checked_axis(function: str, axis: Any) -> int | tuple[int, ...]:
    """An int, or a tuple of several; Keras 2 and JSON have lists."""
    if isinstance(axis, Sequence) and not isinstance(axis, (str, bytes)):
        axis = tuple(axis)
    axes = checks.ints(function, "axis", axis, "an int, or a list or tuple of ints")
    return axes if len(axes) > 1 else axes[0]


def _axis(layer: Normalizing[Any]) -> int | tuple[int, ...]:
    if isinstance(layer, BatchNorm):
        return layer.axis
    return layer.options["axis"] if isinstance(layer, Conv2dBatchNorm) else -1
