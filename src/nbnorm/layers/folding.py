"""Batch norm folded into the layer before it."""

from __future__ import annotations

from typing import Any, cast

from nbnorm import checks
from nbnorm.functional.folding import fold_batch_norm
from nbnorm.layers.activation import Activation
from nbnorm.layers.base import Layer
from nbnorm.layers.batch_norm import BatchNorm
from nbnorm.layers.conv2d import Conv2d
from nbnorm.layers.dense import Dense
from nbnorm.layers.normalizing import Normalizing


def fold_pair(layer: Layer[Any], following: Layer[Any]) -> list[Layer[Any]] | None:
    """Fold a batch norm into the layer before it; None if it is not one of that layer's channels.

    As `fold_into`.
    """
    if not isinstance(layer, (Dense, Conv2d)) or not isinstance(following, BatchNorm):
        return None
    return fold_into(layer, following) if follows(layer, following) else None


def follows(layer: Dense | Conv2d, normalization: BatchNorm) -> bool:
    """Whether a batch norm is one of the layer's channels."""
    axis = normalization.axis
    axis = axis[0] if isinstance(axis, tuple) else axis
    if isinstance(layer, Dense):
        same_axis = axis in (-1, 1)  # 1 is the last axis of (n, k)
    else:
        same_axis = axis % 4 == layer.options["axis"] % 4
    return same_axis and normalization.shape == layer.weight.shape[:1]


def fold_into(layer: Dense | Conv2d, normalization: Normalizing[Any]) -> list[Layer[Any]]:
    """Return a copy of the layer with the batch norm in its weights, and the activation if any."""
    mean, var = normalization.running_mean, normalization.running_var
    if mean is None or var is None:
        function = f"{type(normalization).__name__}.fold"
        expected = "running statistics: a layer made with track_running_stats=True"
        raise checks.wrong_value(function, "running_mean", mean, expected)
    folded = cast(Dense | Conv2d, layer.fold())
    folded.weight, folded.bias = fold_batch_norm(
        layer.weight,
        layer.bias,
        mean,
        var,
        normalization.gamma,
        normalization.beta,
        eps=normalization.eps,
    )
    if normalization.activation is None:
        return [folded]
    return [folded, Activation(normalization.activation).eval()]
