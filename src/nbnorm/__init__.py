"""Batch normalization on CPUs: NumPy in, NumPy out, kernels compiled by Numba.

Functions: `batch_norm_forward`, `batch_norm_inference`, `batch_norm_backward`; `dense_forward`,
`dense_backward`, `conv2d_forward`, `conv2d_backward`. Layers over them: `BatchNorm`, `Dense`,
`Conv2d`, `Sequential` and the optimizer `SGD`; `nbnorm.layers` has the rest. The compiled kernels
under the functions are in `nbnorm.kernels`, their specification in `nbnorm.reference`.
"""

from nbnorm.functional.batch_norm import (
    BatchNormContext,
    BatchNormGradients,
    batch_norm_backward,
    batch_norm_forward,
    batch_norm_inference,
)
from nbnorm.functional.conv2d import Conv2dGradients, conv2d_backward, conv2d_forward
from nbnorm.functional.dense import DenseGradients, dense_backward, dense_forward
from nbnorm.layers import SGD, BatchNorm, Conv2d, Dense, Sequential

__all__ = [
    "SGD",
    "BatchNorm",
    "BatchNormContext",
    "BatchNormGradients",
    "Conv2d",
    "Conv2dGradients",
    "Dense",
    "DenseGradients",
    "Sequential",
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_norm_inference",
    "conv2d_backward",
    "conv2d_forward",
    "dense_backward",
    "dense_forward",
]
