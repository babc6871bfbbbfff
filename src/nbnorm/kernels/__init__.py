"""The compiled kernels, for use from compiled code.

Each is a Numba dispatcher over flat, C-contiguous arrays that the caller has made and checked: a
kernel never raises, allocates no result and trusts its arguments. Those without a suffix are serial
workers over the tiles lo to hi - 1, and may be called from anywhere, a `prange` of your own
included; those in ``_parallel`` run all tiles with `prange` and may not be called from within
another parallel region. Their docstrings give shapes and types; layout.py explains planes, columns
and the array of constants.

==========================================  =====================================================
`forward_planes`, `forward_columns`         batch norm of training, all in one
`backward_planes`, `backward_columns`       its gradients, all in one
`sum_planes`, `sum_columns`                 the sums of forward and backward alone, in slices
`place_pivots`, `settle_slices`             what comes before and after those sums, forward
`fold_statistics`, `fold_gradient_slices`   the same, backward
`fold_given`                                constants from given statistics
`normalize_planes`, `normalize_columns`     the output, given the constants: inference
`apply_planes`, `apply_columns`             the gradients, given the constants
==========================================  =====================================================

Batch norm of an array (n, c, s), called from a function compiled with ``@njit``:

>>> import numpy as np
>>> from numba import njit
>>> from nbnorm.kernels import forward_planes
>>> @njit
... def normalized(x, eps):
...     n, c, s = x.shape
...     y = np.empty_like(x)
...     statistics = np.empty((3, c))
...     sums = np.empty((2, c))
...     constants = np.empty((3, c), x.dtype)
...     parameters = np.ones((2, c))
...     parameters[1] = 0.0  # gamma 1, beta 0
...     forward_planes(
...         0, c, y.reshape(-1), statistics, sums, constants, x.reshape(-1), None, parameters,
...         eps, 0, None, False, 1, (n, c, s),
...     )
...     return y
>>> x = np.array([[[1.0, 3.0], [10.0, 30.0]]])
>>> normalized(x, 0.0)
array([[[-1.,  1.],
        [-1.,  1.]]])
"""

from nbnorm.kernels.activations import LeakyReLU, Mish, ReLU, SiLU
from nbnorm.kernels.batch_norm import (
    backward_columns,
    backward_columns_parallel,
    backward_planes,
    backward_planes_parallel,
    forward_columns,
    forward_columns_parallel,
    forward_planes,
    forward_planes_parallel,
)
from nbnorm.kernels.gradients import (
    apply_columns,
    apply_columns_parallel,
    apply_planes,
    apply_planes_parallel,
    fold_gradient_slices,
    fold_statistics,
)
from nbnorm.kernels.moments import place_pivots, settle_slices
from nbnorm.kernels.normalize import (
    fold_given,
    normalize_columns,
    normalize_columns_parallel,
    normalize_planes,
    normalize_planes_parallel,
)
from nbnorm.kernels.sums import (
    sum_columns,
    sum_columns_parallel,
    sum_planes,
    sum_planes_parallel,
)

__all__ = [
    "LeakyReLU",
    "Mish",
    "ReLU",
    "SiLU",
    "apply_columns",
    "apply_columns_parallel",
    "apply_planes",
    "apply_planes_parallel",
    "backward_columns",
    "backward_columns_parallel",
    "backward_planes",
    "backward_planes_parallel",
    "fold_given",
    "fold_gradient_slices",
    "fold_statistics",
    "forward_columns",
    "forward_columns_parallel",
    "forward_planes",
    "forward_planes_parallel",
    "normalize_columns",
    "normalize_columns_parallel",
    "normalize_planes",
    "normalize_planes_parallel",
    "place_pivots",
    "settle_slices",
    "sum_columns",
    "sum_columns_parallel",
    "sum_planes",
    "sum_planes_parallel",
]
