"""A two-dimensional convolution with batch norm, in one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from nbnorm.functional.arguments import Activation
from nbnorm.functional.conv2d import Padding, Pair
from nbnorm.functional.conv2d_batch_norm import (
    Conv2dBatchNormContext,
    conv2d_batch_norm_backward,
    conv2d_batch_norm_forward,
    conv2d_batch_norm_inference,
)
from nbnorm.layers.base import Layer
from nbnorm.layers.conv2d import Conv2d, Conv2dOptions
from nbnorm.layers.folding import fold_into
from nbnorm.layers.initialization import Seed, conv2d_parameters
from nbnorm.layers.normalizing import Affine, Normalizing
from nbnorm.layers.sequential import Sequential
from nbnorm.typing import Array


class Conv2dBatchNorm(Normalizing[Conv2dBatchNormContext]):
    """A two-dimensional convolution and the batch norm of its channels, in one.

    ::

        z = conv2d(x, weight) + bias
        y = activation(gamma (z - mean) / sqrt(var + eps) + beta + residual)

    The same as ``Sequential(Conv2d(...), BatchNorm(...))``: in training mean and var are the
    batch's and the running statistics move toward them, after `eval` the running statistics take
    their place as constants.

    Parameters
    ----------
    in_channels, out_channels : int
        c and k: x is (n, c, h, w) and y is (n, k, h', w'); with ``axis=-1`` the channels are last.
    kernel_size : int or pair
        The window, r and s.
    stride, padding, dilation, groups, axis
        As in `nbnorm.conv2d_forward`.
    bias : bool
        Whether to add a bias, which the statistics of a batch subtract again.
    eps, momentum, affine, track_running_stats, running_var, ddof, activation
        As in `BatchNorm`.
    dtype : float32 or float64
        The type of x and the parameters. Running statistics are float64.
    rng : seed or numpy.random.Generator, optional
        The weight starts as that of `Conv2d`.

    Attributes
    ----------
    weight : array (k, c / groups, r, s), in either layout
    bias, gamma, beta : arrays (k,), or None
    running_mean, running_var : float64 arrays (k,), or None
    num_batches_tracked : int64 array of shape (), or None

    Raises
    ------
    ValueError
        An argument is out of range, or groups does not divide the channels.
    TypeError
        An argument is of the wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm.layers import Conv2dBatchNorm
    >>> layer = Conv2dBatchNorm(3, 8, 3, padding=1, activation="relu", rng=0)
    >>> x = np.random.default_rng(0).standard_normal((2, 3, 5, 5), dtype=np.float32)
    >>> y = layer(x)
    >>> y.shape, layer.backward(y).shape
    ((2, 8, 5, 5), (2, 3, 5, 5))
    >>> list(layer.gradients())
    ['weight', 'gamma', 'beta']
    >>> layer.eval()(x).shape == layer.fold()(x).shape
    True
    """

    _parameter_names = ("weight", "bias", "gamma", "beta")
    _context_type = Conv2dBatchNormContext

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        *,
        stride: int | Pair = 1,
        padding: Padding = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        axis: int = 1,
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
        self.options: Conv2dOptions = {
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "groups": groups,
            "axis": axis,
        }
        sizes = in_channels, out_channels, kernel_size
        self.weight, self.bias = conv2d_parameters(
            "Conv2dBatchNorm", *sizes, self.options, bias, dtype, rng
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
        k, c, r, s = self.weight.shape
        options = {"bias": self.bias is not None, **self.options, "activation": self.activation}
        c *= self.options["groups"]
        words = "".join(f", {name}={value!r}" for name, value in options.items())
        return f"Conv2dBatchNorm({c}, {k}, {(r, s)}{words})"

    def forward(
        self, x: Array, residual: Array | None = None, *, sample_weight: Array | None = None
    ) -> tuple[Array, Conv2dBatchNormContext]:
        """Return y and the context for `backward`; in training, move the running statistics.

        Parameters
        ----------
        x : array (n, c, h, w) of the layer's type, or (n, h, w, c)
        residual : array like y, optional
            Added before the activation.
        sample_weight : array, optional
            What each place of y counts in the statistics, as in `BatchNorm.forward`.

        Returns
        -------
        y : array (n, k, h', w'), or (n, h', w', k)
        context : Conv2dBatchNormContext
            Holds x, residual and the parameters by reference, and the mean and var used.

        Raises
        ------
        ValueError, TypeError
            As `nbnorm.conv2d_batch_norm_forward`.
        """

        def normalize(**options: Any) -> tuple[Array, Conv2dBatchNormContext]:
            return conv2d_batch_norm_forward(
                x,
                self.weight,
                self.gamma,
                self.beta,
                bias=self.bias,
                **self.options,
                residual=residual,
                **options,
            )

        return self._normalize(normalize, sample_weight)

    def _infer(self, x: Array, residual: Array | None = None, **weights: Any) -> Array:
        statistics = self._given_statistics()
        if statistics is None:
            return self.forward(x, residual, **weights)[0]
        return conv2d_batch_norm_inference(
            x,
            self.weight,
            *statistics,
            self.gamma,
            self.beta,
            bias=self.bias,
            **self.options,
            eps=self.eps,
            activation=self.activation,
            residual=residual,
        )

    def fold(self) -> Layer[Any]:
        """Return a `Conv2d` that does its own batch norm by the running statistics.

        With an activation, a `Sequential` of it and an `Activation`, which takes the residual; a
        `Conv2d` alone takes none. Later changes of this layer do not reach it.

        Raises
        ------
        ValueError
            There are no running statistics.
        """
        k, c, r, s = self.weight.shape
        c *= self.options["groups"]
        conv = Conv2d(c, k, (r, s), **self.options, bias=False, dtype=self.weight.dtype)
        conv.weight, conv.bias = self.weight, self.bias
        folded = fold_into(conv, self)
        return Sequential(*folded).eval() if folded[1:] else folded[0]

    def _backward(self, dy: Array, context: Conv2dBatchNormContext) -> Array | tuple[Array, Array]:
        return self._differentiate(conv2d_batch_norm_backward, dy, context)
