"""Dense layers."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from nbnorm.reference.arrays import Array


class DenseGradients(NamedTuple):
    """Gradients of a dense layer."""

    dx: Array
    dweight: Array
    dbias: Array


def dense_forward(x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> Array:
    """Multiply by a weight matrix and add a bias: y = x W^T + b.

    Parameters
    ----------
    x : array (..., c)
    weight : array (k, c)
    bias : array (k,), optional

    Returns
    -------
    y : array (..., k)

    Examples
    --------
    >>> dense_forward([[1.0, 2.0]], weight=[[3.0, 4.0], [5.0, 6.0]], bias=[0.0, 1.0])
    array([[11., 18.]])
    """
    y = np.asarray(x, np.float64) @ np.asarray(weight, np.float64).T
    return y if bias is None else y + np.asarray(bias, np.float64)


def dense_backward(dy: ArrayLike, x: ArrayLike, weight: ArrayLike) -> DenseGradients:
    """Differentiate `dense_forward`: dx = dy W, dW = dy^T x, db = sum(dy).

    Parameters
    ----------
    dy : array (..., k)
    x : array (..., c)
    weight : array (k, c)

    Returns
    -------
    DenseGradients
        dx (..., c), dweight (k, c), dbias (k,).

    Examples
    --------
    >>> dense_backward([[1.0, 10.0]], [[1.0, 2.0]], [[3.0, 4.0], [5.0, 6.0]]).dweight
    array([[ 1.,  2.],
           [10., 20.]])
    """
    dy, x, weight = (np.asarray(a, np.float64) for a in (dy, x, weight))
    rows = math.prod(x.shape[:-1])
    dy_rows = dy.reshape(rows, weight.shape[0])
    x_rows = x.reshape(rows, weight.shape[1])
    return DenseGradients(dx=dy @ weight, dweight=dy_rows.T @ x_rows, dbias=dy_rows.sum(axis=0))
