from nbnorm import cli as cli
from nbnorm import functional as functional
from nbnorm import kernels as kernels
from nbnorm import layers as layers
from nbnorm import reference as reference
from nbnorm.functional.batch_norm import (
    BatchNormGradients,
    batch_norm_backward,
    batch_norm_forward,
    batch_norm_gradient_sums,
    batch_norm_inference,
)
from nbnorm.functional.contexts import BatchNormContext
from nbnorm.functional.conv2d import Conv2dGradients, conv2d_backward, conv2d_forward
from nbnorm.functional.conv2d_batch_norm import (
    Conv2dBatchNormContext,
    Conv2dBatchNormGradients,
    conv2d_batch_norm_backward,
    conv2d_batch_norm_forward,
    conv2d_batch_norm_inference,
)
from nbnorm.functional.cross_iteration_batch_norm import cross_iteration_batch_norm_forward
from nbnorm.functional.dense import DenseGradients, dense_backward, dense_forward
from nbnorm.functional.dense_batch_norm import (
    DenseBatchNormContext,
    DenseBatchNormGradients,
    dense_batch_norm_backward,
    dense_batch_norm_forward,
    dense_batch_norm_inference,
)
from nbnorm.functional.folding import fold_batch_norm
from nbnorm.functional.group_norm import (
    GroupNormContext,
    InstanceNormContext,
    group_norm_backward,
    group_norm_forward,
    instance_norm_backward,
    instance_norm_forward,
)
from nbnorm.functional.memory import release_memory
from nbnorm.functional.moments import Moments
from nbnorm.functional.norms import (
    L1NormalizeContext,
    L2NormalizeContext,
    l1_normalize_backward,
    l1_normalize_forward,
    l2_normalize_backward,
    l2_normalize_forward,
)
from nbnorm.functional.penalties import l1_penalty, l2_penalty
from nbnorm.functional.threads import one_thread, threading, threads
from nbnorm.layers import (
    SGD,
    BatchNorm,
    Compensated,
    Conv2d,
    Conv2dBatchNorm,
    CrossIterationBatchNorm,
    Dense,
    DenseBatchNorm,
    GhostBatchNorm,
    GroupNorm,
    InstanceNorm,
    L1Normalize,
    L1Penalty,
    L2Normalize,
    L2Penalty,
    Sequential,
)

__all__ = [
    "SGD",
    "BatchNorm",
    "BatchNormContext",
    "BatchNormGradients",
    "Compensated",
    "Conv2d",
    "Conv2dBatchNorm",
    "Conv2dBatchNormContext",
    "Conv2dBatchNormGradients",
    "Conv2dGradients",
    "CrossIterationBatchNorm",
    "Dense",
    "DenseBatchNorm",
    "DenseBatchNormContext",
    "DenseBatchNormGradients",
    "DenseGradients",
    "GhostBatchNorm",
    "GroupNorm",
    "GroupNormContext",
    "InstanceNorm",
    "InstanceNormContext",
    "L1Normalize",
    "L1NormalizeContext",
    "L1Penalty",
    "L2Normalize",
    "L2NormalizeContext",
    "L2Penalty",
    "Moments",
    "Sequential",
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_norm_gradient_sums",
    "batch_norm_inference",
    "conv2d_backward",
    "conv2d_batch_norm_backward",
    "conv2d_batch_norm_forward",
    "conv2d_batch_norm_inference",
    "conv2d_forward",
    "cross_iteration_batch_norm_forward",
    "dense_backward",
    "dense_batch_norm_backward",
    "dense_batch_norm_forward",
    "dense_batch_norm_inference",
    "dense_forward",
    "fold_batch_norm",
    "group_norm_backward",
    "group_norm_forward",
    "instance_norm_backward",
    "instance_norm_forward",
    "l1_normalize_backward",
    "l1_normalize_forward",
    "l1_penalty",
    "l2_normalize_backward",
    "l2_normalize_forward",
    "l2_penalty",
    "one_thread",
    "release_memory",
    "threading",
    "threads",
]
