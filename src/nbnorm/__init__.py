"""Batch normalization on CPUs: NumPy in, NumPy out, kernels compiled by Numba.

Functions: `batch_norm_forward`, `batch_norm_inference`, `batch_norm_backward`; the same behind a
dense layer and behind a convolution, in one: `dense_batch_norm_forward` and
`conv2d_batch_norm_forward`, `_inference`, `_backward`; these alone: `dense_forward`,
`dense_backward`, `conv2d_forward`, `conv2d_backward`; and `fold_batch_norm`. Division by a norm:
`l1_normalize_forward` and `l2_normalize_forward`, `_backward`; `l1_penalty` and `l2_penalty`.
Layers over them: `BatchNorm`, `Dense`, `DenseBatchNorm`, `Conv2d`, `Conv2dBatchNorm`,
`L1Normalize`, `L2Normalize`, `L1Penalty`, `L2Penalty`, `Sequential` and the optimizer `SGD`;
`nbnorm.layers` has the rest. The compiled kernels under the functions are in
`nbnorm.kernels`, their specification in `nbnorm.reference`.
"""

from __future__ import annotations

import importlib
from typing import Any

# Where each public name is defined. Modules are imported when a name of theirs is first asked for:
# Numba's decorators take time for every kernel, and nobody uses all of them. What type checkers and
# editors see is __init__.pyi.
_HOMES = {
    "BatchNormContext": "nbnorm.functional.batch_norm",
    "BatchNormGradients": "nbnorm.functional.batch_norm",
    "batch_norm_backward": "nbnorm.functional.batch_norm",
    "batch_norm_forward": "nbnorm.functional.batch_norm",
    "batch_norm_inference": "nbnorm.functional.batch_norm",
    "Conv2dGradients": "nbnorm.functional.conv2d",
    "conv2d_backward": "nbnorm.functional.conv2d",
    "conv2d_forward": "nbnorm.functional.conv2d",
    "Conv2dBatchNormContext": "nbnorm.functional.conv2d_batch_norm",
    "Conv2dBatchNormGradients": "nbnorm.functional.conv2d_batch_norm",
    "conv2d_batch_norm_backward": "nbnorm.functional.conv2d_batch_norm",
    "conv2d_batch_norm_forward": "nbnorm.functional.conv2d_batch_norm",
    "conv2d_batch_norm_inference": "nbnorm.functional.conv2d_batch_norm",
    "DenseGradients": "nbnorm.functional.dense",
    "dense_backward": "nbnorm.functional.dense",
    "dense_forward": "nbnorm.functional.dense",
    "DenseBatchNormContext": "nbnorm.functional.dense_batch_norm",
    "DenseBatchNormGradients": "nbnorm.functional.dense_batch_norm",
    "dense_batch_norm_backward": "nbnorm.functional.dense_batch_norm",
    "dense_batch_norm_forward": "nbnorm.functional.dense_batch_norm",
    "dense_batch_norm_inference": "nbnorm.functional.dense_batch_norm",
    "fold_batch_norm": "nbnorm.functional.folding",
    "L1NormalizeContext": "nbnorm.functional.norms",
    "L2NormalizeContext": "nbnorm.functional.norms",
    "l1_normalize_backward": "nbnorm.functional.norms",
    "l1_normalize_forward": "nbnorm.functional.norms",
    "l2_normalize_backward": "nbnorm.functional.norms",
    "l2_normalize_forward": "nbnorm.functional.norms",
    "l1_penalty": "nbnorm.functional.penalties",
    "l2_penalty": "nbnorm.functional.penalties",
    "BatchNorm": "nbnorm.layers",
    "Conv2d": "nbnorm.layers",
    "Conv2dBatchNorm": "nbnorm.layers",
    "Dense": "nbnorm.layers",
    "DenseBatchNorm": "nbnorm.layers",
    "L1Normalize": "nbnorm.layers",
    "L1Penalty": "nbnorm.layers",
    "L2Normalize": "nbnorm.layers",
    "L2Penalty": "nbnorm.layers",
    "SGD": "nbnorm.layers",
    "Sequential": "nbnorm.layers",
}
_SUBMODULES = ("cli", "functional", "kernels", "layers", "reference")

__all__ = sorted(_HOMES)  # noqa: PLE0605  a list


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in _SUBMODULES:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_SUBMODULES})
