"""Options of batch norms, to and from other frameworks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nbnorm import checks
from nbnorm.interop.state.frameworks import framework_of
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
    tracked, affine = layer.running_mean is not None, layer.gamma is not None
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
        "gamma": affine,
        "beta": affine,
        "affine": affine,
        "track_running_stats": tracked,
    }
    return {theirs: values[own] for own, (theirs, _) in target.options.items()}


def import_options(options: Mapping[str, Any], framework: str) -> dict[str, Any]:
    """Return the arguments of `BatchNorm` that do what a framework's options do.

    Parameters
    ----------
    options : mapping
        Arguments or attributes, such as Keras's ``layer.get_config()``; those that are missing have
        the framework's defaults, others are passed over.
    framework : "pytorch", "keras", "flax_linen", "flax_nnx" or "onnx"

    Returns
    -------
    dict
        eps, momentum, affine, track_running_stats, running_var and, where the framework has it,
        axis.

    Raises
    ------
    ValueError
        An unknown framework; scale without shift or the reverse; Keras's ``renorm``.
    TypeError
        options is no mapping.

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
    found = {own: options.get(theirs, default) for own, (theirs, default) in source.options.items()}
    if options.get("renorm"):
        raise checks.wrong_value(function, "renorm", options["renorm"], "False")
    scale, shift = found.pop("gamma", True), found.pop("beta", True)
    if scale != shift:
        name = source.options["beta"][0]
        expected = f"{scale}: scale and shift go together here"
        raise checks.wrong_value(function, name, shift, expected)
    if source.old:
        found["momentum"] = 1 - found["momentum"]
    defaults = {"affine": bool(scale), "track_running_stats": True}
    running_var = "biased" if source.old else "unbiased"
    return {**defaults, **found, "running_var": running_var}


def _axis(layer: Normalizing[Any]) -> int | tuple[int, ...]:
    if isinstance(layer, BatchNorm):
        return layer.axis
    return layer.options["axis"] if isinstance(layer, Conv2dBatchNorm) else -1
