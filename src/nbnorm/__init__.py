"""Batch normalization on CPUs: NumPy in, NumPy out, kernels compiled by Numba.

Functions: `batch_norm_forward`, `batch_norm_inference`, `batch_norm_backward`; the same behind a
dense layer and behind a convolution, in one: `dense_batch_norm_forward` and
`conv2d_batch_norm_forward`, `_inference`, `_backward`; these alone: `dense_forward`,
`dense_backward`, `conv2d_forward`, `conv2d_backward`; `fold_batch_norm`; and, for statistics over
several batches, `cross_iteration_batch_norm_forward`. Division by a norm: `l1_normalize_forward`
and `l2_normalize_forward`, `_backward`; `l1_penalty` and `l2_penalty`. Layers over them:
`BatchNorm`, `Dense`, `DenseBatchNorm`, `Conv2d`, `Conv2dBatchNorm`, `CrossIterationBatchNorm`,
`L1Normalize`, `L2Normalize`, `L1Penalty`, `L2Penalty`, `Sequential` and the optimizer `SGD`;
`nbnorm.layers` has the rest. The compiled kernels under the functions are in
`nbnorm.kernels`, their specification in `nbnorm.reference`.
"""

from __future__ import annotations

import importlib
import os
import threading
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
    "BatchStatistics": "nbnorm.functional.cross_iteration_batch_norm",
    "batch_statistics": "nbnorm.functional.cross_iteration_batch_norm",
    "cross_iteration_batch_norm_forward": "nbnorm.functional.cross_iteration_batch_norm",
    "merge_statistics": "nbnorm.functional.cross_iteration_batch_norm",
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
    "Compensated": "nbnorm.layers",
    "Conv2d": "nbnorm.layers",
    "Conv2dBatchNorm": "nbnorm.layers",
    "CrossIterationBatchNorm": "nbnorm.layers",
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

# A fork waits for it: a child would wait for ever for a module that another thread, which it has
# no more, was importing.
_importing = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_importing.acquire,
        after_in_parent=_importing.release,
        after_in_child=_importing.release,
    )


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        module, attribute = _HOMES[name], name
    elif name in _SUBMODULES:
        module, attribute = f"{__name__}.{name}", None
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _importing:
        value = importlib.import_module(module)
        globals()[name] = value if attribute is None else getattr(value, attribute)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_SUBMODULES})
