"""A two-dimensional convolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict, cast

import numpy as np
from numpy.typing import DTypeLike

from nbnorm.functional.conv2d import Padding, Pair, conv2d_backward, conv2d_forward
from nbnorm.layers.base import Layer
from nbnorm.layers.initialization import Seed, conv2d_parameters
from nbnorm.typing import Array


@dataclass(frozen=True)
class Conv2dContext:
    """The input and the weight, by reference."""

    x: Array
    weight: Array


class Conv2dOptions(TypedDict):
    """How the window moves."""

    stride: int | Pair
    padding: Padding
    dilation: int | Pair
    groups: int
    axis: int


class Conv2d(Layer[Conv2dContext]):
    """A two-dimensional convolution (cross-correlation, as every framework has it).

    Weight and bias start uniform within ``1 / sqrt(c / groups r s)``, PyTorch's default.

    Parameters
    ----------
    in_channels, out_channels : int
        c and k: x is (n, c, h, w) and y is (n, k, h', w'); with ``axis=-1`` the channels are last.
    kernel_size : int or pair
        The window, r and s.
    stride, padding, dilation, groups, axis
        As in `nbnorm.conv2d_forward`.
    bias : bool
        Whether to add a bias; before a batch norm it would be subtracted again.
    dtype : float32 or float64
        The type of weight, bias and x.
    rng : seed or numpy.random.Generator, optional

    Attributes
    ----------
    weight : array (k, c / groups, r, s), in either layout
    bias : array (k,) or None

    Raises
    ------
    ValueError
        A size is below 1, or groups does not divide the channels.
    TypeError
        An argument is of the wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm.layers import Conv2d
    >>> layer = Conv2d(3, 8, 3, padding="same", rng=0)
    >>> x = np.ones((2, 3, 5, 5), np.float32)
    >>> y = layer(x)
    >>> y.shape, layer.backward(y).shape
    ((2, 8, 5, 5), (2, 3, 5, 5))
    """

    _parameter_names = ("weight", "bias")
    _context_type = Conv2dContext

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
        bias: bool = True,
        axis: int = 1,
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
        self.weight, self.bias = conv2d_parameters(
            "Conv2d", in_channels, out_channels, kernel_size, self.options, bias, dtype, rng
        )

    def __repr__(self) -> str:
        k, c, r, s = self.weight.shape
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        c *= self.options["groups"]
        return f"Conv2d({c}, {k}, {(r, s)}, bias={self.bias is not None}{options})"

    def forward(self, x: Array, residual: Array | None = None) -> tuple[Array, Conv2dContext]:
        """Return y and the context for `backward`; residual must be None."""
        self._refuse(residual)
        y = conv2d_forward(x, self.weight, self.bias, **self.options)
        return y, Conv2dContext(x, self.weight)

    def _is_own(self, context: Conv2dContext) -> bool:
        return context.weight is self.weight

    def _backward(self, dy: Array, context: Conv2dContext) -> Array:
        gradients = conv2d_backward(
            dy, context.x, context.weight, **self.options, needs=self._needs()
        )
        self._accumulate(gradients)
        return cast(Array, gradients.dx)
