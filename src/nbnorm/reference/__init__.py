r"""Every operation in plain NumPy and float64: the specification, written to be read first.

The compiled kernels are tested against this package, and it against finite differences and cases
worked by hand. It prefers the shortest correct statement to speed, takes its arguments on
trust (checking them is the work of the public functions) and keeps nothing between calls: a
backward is given what its forward was given.

Batch normalization
-------------------
From Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing
Internal Covariate Shift", 2015, https://arxiv.org/abs/1502.03167. Each channel keeps statistics
of its own, taken over its m values::

    mean = sum(x) / m
    var  = sum((x - mean)^2) / (m - ddof)
    s    = sqrt(var + eps)
    xh   = (x - mean) / s
    z    = gamma xh + beta + residual
    y    = activation(z)

Given dy, the gradient of the loss with respect to y, the chain rule starts with
``dz = dy activation'(z)`` and gives at once::

    dresidual = dz
    dbeta     = sum(dz)
    dgamma    = sum(dz xh)

x reaches z along three paths: directly, through the mean and through the variance. With
``d(mean)/dx = 1 / m`` and, because deviations from the mean sum to zero,
``d(var)/dx = 2 (x - mean) / (m - ddof)``, they add up to::

    dx = gamma / s (dz - sum(dz) / m - xh sum(dz xh) / (m - ddof))     statistics of this batch
    dx = gamma / s dz                                                  statistics given (frozen)

The mean's path always divides by m, the variance's by whatever the variance was divided by. Where
places have weights w, m is their sum, the terms of sums in mean and var are w times as large, and
so are the last two terms of dx; the sums of dz are over all places alike::

    dx = gamma / s (dz - w (sum(dz) / m + xh sum(dz xh) / (m - ddof)))

Two slips to avoid
~~~~~~~~~~~~~~~~~~
The text that this library grew out of (N. Curti's PhD thesis, University of Bologna, "BatchNorm
function" in the chapter on neural networks) gets two formulas wrong, and both have been copied:

- ``dgamma = sum(dy mean)``: the factor is xh, the value that gamma multiplies, not the mean;
- ``var`` over m - 1 together with the dx of ``var`` over m: the last term of dx must use the same
  m - ddof as the variance.

``tests/reference/test_batch_norm.py`` shows that finite differences reject each of them.

Group and instance normalization
--------------------------------
The same formulas with statistics of each sample, over its groups of neighbouring channels or over
its channels one by one. Where a group has m values, and gamma differs among its channels::

    dx = 1 / s (gamma dz - sum(gamma dz) / m - xh sum(gamma dz xh) / m)

Dense and convolution
---------------------
Weights are laid out as PyTorch's and ONNX's. In the shapes below n is the batch, c the input
channels, k the output channels, h w the image, r s the convolution's window.

Both also come with a batch norm behind them, which is what it says: one operation and then the
other, and the chain rule through the two. In inference the batch norm is a linear map of each
channel and folds into the weights.
"""

from nbnorm.reference.activation import Activation, activate, activate_derivative
from nbnorm.reference.batch_norm import (
    BatchNormGradients,
    batch_norm_backward,
    batch_norm_forward,
    batch_norm_gradient_sums,
    batch_norm_inference,
    batch_statistics,
    inverse_std,
)
from nbnorm.reference.conv2d import Conv2dGradients, conv2d_backward, conv2d_forward
from nbnorm.reference.conv2d_batch_norm import (
    Conv2dBatchNormGradients,
    conv2d_batch_norm_backward,
    conv2d_batch_norm_forward,
    conv2d_batch_norm_inference,
)
from nbnorm.reference.cross_iteration_batch_norm import (
    compensate_statistics,
    conv2d_statistics_gradients,
    cross_iteration_batch_norm_backward,
    cross_iteration_batch_norm_forward,
    dense_statistics_gradients,
    merge_statistics,
)
from nbnorm.reference.dense import DenseGradients, dense_backward, dense_forward
from nbnorm.reference.dense_batch_norm import (
    DenseBatchNormGradients,
    dense_batch_norm_backward,
    dense_batch_norm_forward,
    dense_batch_norm_inference,
)
from nbnorm.reference.folding import fold_batch_norm
from nbnorm.reference.group_norm import (
    group_norm_backward,
    group_norm_forward,
    instance_norm_backward,
    instance_norm_forward,
)
from nbnorm.reference.norms import (
    l1_normalize_backward,
    l1_normalize_forward,
    l2_normalize_backward,
    l2_normalize_forward,
)
from nbnorm.reference.penalties import l1_penalty, l2_penalty

__all__ = [
    "Activation",
    "BatchNormGradients",
    "Conv2dBatchNormGradients",
    "Conv2dGradients",
    "DenseBatchNormGradients",
    "DenseGradients",
    "activate",
    "activate_derivative",
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_norm_gradient_sums",
    "batch_norm_inference",
    "batch_statistics",
    "compensate_statistics",
    "conv2d_backward",
    "conv2d_batch_norm_backward",
    "conv2d_batch_norm_forward",
    "conv2d_batch_norm_inference",
    "conv2d_forward",
    "conv2d_statistics_gradients",
    "cross_iteration_batch_norm_backward",
    "cross_iteration_batch_norm_forward",
    "dense_backward",
    "dense_batch_norm_backward",
    "dense_batch_norm_forward",
    "dense_batch_norm_inference",
    "dense_forward",
    "dense_statistics_gradients",
    "fold_batch_norm",
    "group_norm_backward",
    "group_norm_forward",
    "instance_norm_backward",
    "instance_norm_forward",
    "inverse_std",
    "l1_normalize_backward",
    "l1_normalize_forward",
    "l1_penalty",
    "l2_normalize_backward",
    "l2_normalize_forward",
    "l2_penalty",
    "merge_statistics",
]
