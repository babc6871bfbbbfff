"""Batch normalization on CPUs: NumPy in, NumPy out, kernels compiled by Numba.

Functions: `batch_norm_forward`, `batch_norm_inference`, `batch_norm_backward`; the same behind a
dense layer and behind a convolution, in one: `dense_batch_norm_forward` and
`conv2d_batch_norm_forward`, `_inference`, `_backward`; these alone: `dense_forward`,
`dense_backward`, `conv2d_forward`, `conv2d_backward`; `fold_batch_norm`; for batches in parts,
`Moments` and `batch_norm_gradient_sums`; for statistics over several batches,
`cross_iteration_batch_norm_forward`; for statistics of each sample, `group_norm_forward` and
`instance_norm_forward`, `_backward`. Division by a norm: `l1_normalize_forward`
and `l2_normalize_forward`, `_backward`; `l1_penalty` and `l2_penalty`. Layers over them:
`BatchNorm`, `Dense`, `DenseBatchNorm`, `Conv2d`, `Conv2dBatchNorm`, `CrossIterationBatchNorm`,
`GroupNorm`, `InstanceNorm`, `L1Normalize`, `L2Normalize`, `L1Penalty`, `L2Penalty`,
`Sequential` and the optimizer `SGD`; `nbnorm.layers` has the rest. On how many threads:
`threads`, `one_thread`, `threading`; memory that is kept for results: `release_memory`. The
compiled kernels under the functions are in `nbnorm.kernels`, their specification in
`nbnorm.reference`.
"""

from __future__ import annotations

from nbnorm.lazy import lazy_names

# The public names of each module.
_NAMES = {
    "nbnorm.functional.batch_norm": [
        "BatchNormGradients",
        "batch_norm_backward",
        "batch_norm_forward",
        "batch_norm_gradient_sums",
        "batch_norm_inference",
    ],
    "nbnorm.functional.contexts": [
        "BatchNormContext",
    ],
    "nbnorm.functional.conv2d": [
        "Conv2dGradients",
        "conv2d_backward",
        "conv2d_forward",
    ],
    "nbnorm.functional.conv2d_batch_norm": [
        "Conv2dBatchNormContext",
        "Conv2dBatchNormGradients",
        "conv2d_batch_norm_backward",
        "conv2d_batch_norm_forward",
        "conv2d_batch_norm_inference",
    ],
    "nbnorm.functional.cross_iteration_batch_norm": [
        "cross_iteration_batch_norm_forward",
    ],
    "nbnorm.functional.dense": [
        "DenseGradients",
        "dense_backward",
        "dense_forward",
    ],
    "nbnorm.functional.dense_batch_norm": [
        "DenseBatchNormContext",
        "DenseBatchNormGradients",
        "dense_batch_norm_backward",
        "dense_batch_norm_forward",
        "dense_batch_norm_inference",
    ],
    "nbnorm.functional.folding": [
        "fold_batch_norm",
    ],
    "nbnorm.functional.group_norm": [
        "GroupNormContext",
        "InstanceNormContext",
        "group_norm_backward",
        "group_norm_forward",
        "instance_norm_backward",
        "instance_norm_forward",
    ],
    "nbnorm.functional.memory": [
        "release_memory",
    ],
    "nbnorm.functional.moments": [
        "Moments",
    ],
    "nbnorm.functional.norms": [
        "L1NormalizeContext",
        "L2NormalizeContext",
        "l1_normalize_backward",
        "l1_normalize_forward",
        "l2_normalize_backward",
        "l2_normalize_forward",
    ],
    "nbnorm.functional.penalties": [
        "l1_penalty",
        "l2_penalty",
    ],
    "nbnorm.functional.threads": [
        "one_thread",
        "threading",
        "threads",
    ],
    "nbnorm.layers": [
        "BatchNorm",
        "Compensated",
        "Conv2d",
        "Conv2dBatchNorm",
        "CrossIterationBatchNorm",
        "Dense",
        "DenseBatchNorm",
        "GhostBatchNorm",
        "GroupNorm",
        "InstanceNorm",
        "L1Normalize",
        "L1Penalty",
        "L2Normalize",
        "L2Penalty",
        "SGD",
        "Sequential",
    ],
}
_SUBMODULES = ("cli", "functional", "kernels", "layers", "reference")

__all__ = sorted(name for names in _NAMES.values() for name in names)  # noqa: PLE0605  a list

__getattr__, __dir__ = lazy_names(
    __name__,
    {name: f"{module}:{name}" for module, names in _NAMES.items() for name in names}
    | {name: f"{__name__}.{name}" for name in _SUBMODULES},
)
