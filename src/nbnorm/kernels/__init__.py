"""The compiled kernels, for use from compiled code.

Each is a Numba dispatcher over flat, C-contiguous arrays that the caller has made and checked: a
kernel never raises, allocates no result and trusts its arguments. Those without a suffix are serial
workers over the tiles lo to hi - 1, and may be called from anywhere, a `prange` of your own
included; those in ``_parallel`` deal all tiles out to threads and may not be called from within
another parallel region. Their docstrings give shapes and types; channels.py explains planes,
columns and the array of constants.

==========================================  =====================================================
`forward_planes`, `forward_columns`         batch norm of training, all in one
`backward_planes`, `backward_columns`       its gradients, all in one
`sum_planes`, `sum_columns`                 the sums of forward and backward alone, in slices
`add_columns`                               the sums of columns alone: the gradient of a bias
`place_pivots`, `settle_slices`             what comes before and after those sums, forward
`fold_statistics`, `fold_gradient_slices`   the same, backward
`fold_gradients`                            constants from the gradients of a whole batch
`fold_given`                                constants from given statistics
`normalize_planes`, `normalize_columns`     the output, given the constants: inference
`infer_planes`, `infer_columns`             both in one call, for small arrays
`apply_planes`, `apply_columns`             the gradients, given the constants
`multiply`, `multiply_few`                  a product of matrices, and what is to follow it
`add_products`                              a product's slices of the depth, added
`settle_blocks`                             statistics from the sums that a product took
`pack_weights`, `convolve`                  a convolution, and what is to follow it
`weight_gradient`, `collect_weights`        the gradient of its weights
`grouped_...`                               the same four for narrow groups
`depthwise_pack_weights`,                   a depthwise convolution, and the gradient of its
`depthwise_convolve`,                       weights
`depthwise_weight_gradient`
`winograd_transform_weights`,               a convolution 3x3 by Winograd's algorithm
`winograd_convolve`
`winograd_weight_gradient`,                 the gradient of its weights, to be collected too
`winograd_return_weights`
`turn_images`                               images from channels last to channels first
`divide_by_norms`, `add_parts`              L1 and L2 normalization and its gradient
`penalize`                                  L1 and L2 penalty and its gradient
==========================================  =====================================================

Batch norm of an array (n, c, s), called from a function compiled with ``@njit``:

>>> import numpy as np
>>> from numba import njit
>>> from nbnorm.kernels import forward_planes
>>> @njit
... def normalized(x, eps):
...     n, c, s = x.shape
...     y = np.empty_like(x)
...     statistics = np.empty((4, c))
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

A product and the bias after it; gemm/gemm.py has the meaning of every argument:

>>> from nbnorm.kernels import Epilogue, Matrix, multiply_few
>>> @njit
... def dense(x, weight, bias):
...     (n, c), k = x.shape, len(bias)
...     y = np.empty((n, k), x.dtype)
...     constants = np.zeros((3, (k + 63) // 64 * 64), x.dtype)  # whole vectors
...     constants[1] = 1.0
...     constants[2, :k] = bias  # (x - 0) 1 + bias
...     a = Matrix(x.reshape(-1), n, c, c, 1)
...     b = Matrix(weight.reshape(-1), c, k, 1, c)  # transposed
...     epilogue = Epilogue(constants, None, None, None)
...     multiply_few(0, 1, y.reshape(-1), a, b, epilogue, None, k)
...     return y
>>> dense(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]), np.array([5.0]))
array([[16.]])
"""

from nbnorm.lazy import lazy_names, names_in_stub

_HOMES = names_in_stub(__name__)

__all__ = sorted(_HOMES)  # noqa: PLE0605  a list

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
