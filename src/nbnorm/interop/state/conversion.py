"""Numbers and layouts, to and from other frameworks."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbnorm import checks
from nbnorm.interop.state.frameworks import Framework
from nbnorm.interop.state.parts import Part
from nbnorm.layers import Conv2d, Conv2dBatchNorm
from nbnorm.typing import Array

_TO_CHANNELS_LAST = {2: (1, 0), 4: (2, 3, 1, 0)}
_TO_CHANNELS_FIRST = {2: (1, 0), 4: (3, 2, 0, 1)}


def as_array(function: str, name: str, value: Any) -> Array:
    """The numbers of an array, or of a tensor of any framework."""
    if isinstance(value, np.ndarray):
        return value
    try:
        if hasattr(value, "detach"):  # PyTorch's, which may require gradients or lie on a GPU
            value = value.detach().cpu()
            if value.is_floating_point() and value.element_size() < 4:
                value = value.float()  # NumPy has no bfloat16
        return np.asarray(value)
    except (RuntimeError, TypeError, ValueError) as error:
        raise checks.wrong_type(function, name, value, "numbers in an array or tensor") from error


def narrowed(
    function: str, name: str, array: Array, dtype: np.dtype[Any], is_divided_by: bool
) -> Array:
    """Running statistics in another type, which has to hold them.

    A variance so small that it becomes 0 matters only where no eps is added to it.
    """
    with np.errstate(over="ignore"):
        copied = array.astype(dtype)
    vanished = (copied == 0) & (array != 0) if is_divided_by else np.zeros(array.shape, bool)
    if ((np.isfinite(copied) != np.isfinite(array)) | vanished).any():
        raise checks.wrong_value(function, name, array, f"numbers that {dtype} can hold")
    return copied


def weight_to(weight: Array, target: Framework) -> Array:
    """A weight in a framework's layout."""
    return weight if target.channels_first else weight.transpose(_TO_CHANNELS_LAST[weight.ndim])


def weight_from(
    function: str, name: str, value: Array, part: Part, live: Array, source: Framework
) -> Array:
    """A framework's weight in this library's layout; its shape, if wrong, is named in its own."""
    if source.channels_first:
        return value
    layer = part.layer
    if source.depthwise and isinstance(layer, (Conv2d, Conv2dBatchNorm)) and live.shape[1] == 1:
        k, _, r, s = live.shape
        groups = layer.options["groups"]
        if value.shape == (r, s, groups, k // groups):
            return value.transpose(2, 3, 0, 1).reshape(live.shape)
    shape = tuple(live.shape[axis] for axis in _TO_CHANNELS_LAST[live.ndim])
    if value.shape != shape:
        raise checks.wrong_value(function, name, value, f"shape {shape}")
    return value.transpose(_TO_CHANNELS_FIRST[live.ndim])
