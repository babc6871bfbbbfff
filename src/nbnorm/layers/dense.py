"""A dense layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import DTypeLike

from nbnorm.functional.dense import dense_backward, dense_forward
from nbnorm.layers.base import Layer
from nbnorm.layers.initialization import Seed, dense_parameters
from nbnorm.typing import Array


@dataclass(frozen=True)
class DenseContext:
    """The input and the weight, by reference."""

    x: Array
    weight: Array


class Dense(Layer[DenseContext]):
    """A dense layer: ``y = x weight^T + bias``.

    Weight and bias start uniform within ``1 / sqrt(in_features)``, PyTorch's default.

    Parameters
    ----------
    in_features, out_features : int
        c and k: x is (..., c) and y is (..., k).
    bias : bool
        Whether to add a bias; before a batch norm it would be subtracted again.
    dtype : float32 or float64
        The type of weight, bias and x.
    rng : seed or numpy.random.Generator, optional

    Attributes
    ----------
    weight : array (k, c)
    bias : array (k,) or None

    Raises
    ------
    ValueError
        in_features or out_features is below 1.
    TypeError
        An argument is of the wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm.layers import Dense
    >>> layer = Dense(3, 2, rng=0)
    >>> x = np.ones((4, 3), np.float32)
    >>> layer(x).shape, layer.backward(np.ones((4, 2), np.float32)).shape
    ((4, 2), (4, 3))
    >>> layer.gradients()["bias"]
    array([4., 4.], dtype=float32)
    """

    _parameter_names = ("weight", "bias")
    _context_type = DenseContext

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
        rng: Seed = None,
    ) -> None:
        super().__init__()
        self.weight, self.bias = dense_parameters(
            "Dense", in_features, out_features, bias, dtype, rng
        )

    def __repr__(self) -> str:
        k, c = self.weight.shape
        return f"Dense({c}, {k}, bias={self.bias is not None})"

    def forward(self, x: Array, residual: Array | None = None) -> tuple[Array, DenseContext]:
        """Return y of shape (..., k), and the context for `backward`; residual must be None."""
        self._refuse(residual)
        return dense_forward(x, self.weight, self.bias), DenseContext(x, self.weight)

    def _is_own(self, context: DenseContext) -> bool:
        return context.weight is self.weight

    def _backward(self, dy: Array, context: DenseContext) -> Array:
        gradients = dense_backward(dy, context.x, context.weight, needs=self._needs())
        self._accumulate(gradients)
        return cast(Array, gradients.dx)
