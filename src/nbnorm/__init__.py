"""Batch normalization on CPUs: NumPy in, NumPy out, kernels compiled by Numba."""

from nbnorm.functional.batch_norm import (
    BatchNormContext,
    BatchNormGradients,
    batch_norm_backward,
    batch_norm_forward,
    batch_norm_inference,
)

__all__ = [
    "BatchNormContext",
    "BatchNormGradients",
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_norm_inference",
]
