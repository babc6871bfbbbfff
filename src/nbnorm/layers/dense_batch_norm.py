"""A dense layer with batch norm, in one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from nbnorm.functional.arguments import Activation
from nbnorm.functional.dense_batch_norm import (
    DenseBatchNormContext,
    dense_batch_norm_backward,
    dense_batch_norm_forward,
    dense_batch_norm_inference,
)
from nbnorm.layers.base import Layer
from nbnorm.layers.dense import Dense
from nbnorm.layers.folding import fold_into
from nbnorm.layers.initialization import Seed, dense_parameters
from nbnorm.layers.normalizing import Affine, Normalizing
from nbnorm.layers.sequential import Sequential
from nbnorm.typing import Array


class DenseBatchNorm(Normalizing[DenseBatchNormContext]):
    """A dense layer and the batch norm of its features, in one.

    ::

        z = x weight^T + bias
        y = activation(gamma (z - mean) / sqrt(var + eps) + beta + residual)

    The same as ``Sequential(Dense(...), BatchNorm(..., axis=-1))``: in training mean and var are
    the batch's and the running statistics move toward them, after `eval` the running statistics
    take their place as constants.

    Parameters
    ----------
    in_features, out_features : int
        c and k: x is (..., c) and y is (..., k).
    bias : bool
        Whether to add a bias, which the statistics of a batch subtract again.
    eps, momentum, affine, track_running_stats, running_var, ddof, activation
        As in `BatchNorm`.
    dtype : float32 or float64
        The type of x and the parameters. Running statistics are float64.
    rng : seed or numpy.random.Generator, optional
        The weight starts as that of `Dense`.

    Attributes
    ----------
    weight : array (k, c)
    bias, gamma, beta : arrays (k,), or None
    running_mean, running_var : float64 arrays (k,), or None
    num_batches_tracked : int64 array of shape (), or None

    Raises
    ------
    ValueError
        An argument is out of range.
    TypeError
        An argument is of the wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm.layers import DenseBatchNorm
    >>> layer = DenseBatchNorm(3, 2, activation="relu", rng=0)
    >>> x = np.random.default_rng(0).standard_normal((4, 3), dtype=np.float32)
    >>> y = layer(x)
    >>> y.shape, layer.backward(y).shape
    ((4, 2), (4, 3))
    >>> list(layer.gradients())
    ['weight', 'gamma', 'beta']
    >>> layer.fold()
    Sequential(Dense(3, 2, bias=True), Activation('relu'))
    """

    _parameter_names = ("weight", "bias", "gamma", "beta")
    _context_type = DenseBatchNormContext

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = False,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: Affine = True,
        track_running_stats: bool = True,
        running_var: str = "unbiased",
        ddof: int = 0,
        activation: Activation = None,
        dtype: DTypeLike = np.float32,
        rng: Seed = None,
    ) -> None:
        super().__init__()
        self.weight, self.bias = dense_parameters(
            "DenseBatchNorm", in_features, out_features, bias, dtype, rng
        )
        self._start_normalizing(
            self.weight.shape[:1],
            eps=eps,
            momentum=momentum,
            affine=affine,
            track_running_stats=track_running_stats,
            running_var=running_var,
            ddof=ddof,
            activation=activation,
            dtype=dtype,
        )

    def __repr__(self) -> str:
        k, c = self.weight.shape
        bias = self.bias is not None
        return f"DenseBatchNorm({c}, {k}, bias={bias}, activation={self.activation!r})"

    def forward(
        self, x: Array, residual: Array | None = None, *, sample_weight: Array | None = None
    ) -> tuple[Array, DenseBatchNormContext]:
        """Return y and the context for `backward`; in training, move the running statistics.

        Parameters
        ----------
        x : array (..., c) of the layer's type
        residual : array like y, optional
            Added before the activation.
        sample_weight : array, optional
            What each place of y counts in the statistics, as in `BatchNorm.forward`.

        Returns
        -------
        y : array (..., k)
        context : DenseBatchNormContext
            Holds x, residual and the parameters by reference, and the mean and var used.

        Raises
        ------
        ValueError, TypeError
            As `nbnorm.dense_batch_norm_forward`.
        """

        def normalize(**options: Any) -> tuple[Array, DenseBatchNormContext]:
            return dense_batch_norm_forward(
                x,
                self.weight,
                self.gamma,
                self.beta,
                bias=self.bias,
                residual=residual,
                **options,
            )

        return self._normalize(normalize, sample_weight)

    def _infer(self, x: Array, residual: Array | None = None, **weights: Any) -> Array:
        statistics = self._given_statistics()
        if statistics is None:
            return self.forward(x, residual, **weights)[0]
        return dense_batch_norm_inference(
            x,
            self.weight,
            *statistics,
            self.gamma,
            self.beta,
            bias=self.bias,
            eps=self.eps,
            activation=self.activation,
            residual=residual,
        )

    def fold(self) -> Layer[Any]:
        """Return a `Dense` that does its own batch norm by the running statistics.

        With an activation, a `Sequential` of it and an `Activation`, which takes the residual; a
        `Dense` alone takes none. Later changes of this layer do not reach it.

        Raises
        ------
        ValueError
            There are no running statistics.
        """
        k, c = self.weight.shape
        dense = Dense(c, k, bias=False, dtype=self.weight.dtype)
        dense.weight, dense.bias = self.weight, self.bias
        folded = fold_into(dense, self)
        return Sequential(*folded).eval() if folded[1:] else folded[0]

    def _backward(self, dy: Array, context: DenseBatchNormContext) -> Array | tuple[Array, Array]:
        return self._differentiate(dense_batch_norm_backward, dy, context)
