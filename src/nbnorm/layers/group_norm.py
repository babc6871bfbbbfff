"""Group and instance normalization: statistics of each sample, none that run."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import DTypeLike

from nbnorm import checks
from nbnorm.functional.arguments import Activation, resolve_activation, size
from nbnorm.functional.group_norm import (
    GroupedContext,
    GroupNormContext,
    InstanceNormContext,
    channel_axis,
    group_norm_backward,
    group_norm_forward,
    instance_norm_backward,
    instance_norm_forward,
)
from nbnorm.layers.base import Layer
from nbnorm.layers.initialization import float_type
from nbnorm.typing import Array

Context = TypeVar("Context", bound=GroupedContext)


class _OfSamples(Layer[Context]):
    """Gamma, beta and options; a subclass has the functions."""

    _parameter_names = ("gamma", "beta")

    def __init__(
        self,
        num_features: int,
        *,
        axis: int = 1,
        eps: float = 1e-5,
        affine: bool = True,
        activation: Activation = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.num_features = size(name, "num_features", num_features)
        expected = "an int, not the first axis"
        if not checks.is_int(axis):
            raise checks.wrong_type(name, "axis", axis, expected)
        if axis == 0:  # how many axes x has is seen in forward alone
            raise checks.wrong_value(name, "axis", axis, expected)
        self.axis = int(axis)
        self.eps = checks.number(name, "eps", eps)
        resolve_activation(name, activation)
        self.activation = activation
        affine = checks.flag(name, "affine", affine)
        dtype = float_type(name, dtype)
        self.gamma = np.ones(self.num_features, dtype) if affine else None
        self.beta = np.zeros(self.num_features, dtype) if affine else None

    def _options(self, x: Array, residual: Array | None) -> dict[str, Any]:
        """What a forward takes, if x has the layer's features."""
        # Not left to the function: without gamma and beta it would take any number of features.
        function = f"{type(self).__name__}.forward"
        checks.array(function, "x", x)
        if x.shape[channel_axis(function, self.axis, x.ndim)] != self.num_features:
            expected = f"{self.num_features} channels along axis {self.axis}"
            raise checks.wrong_value(function, "x", x, expected)
        return {
            "x": x, "gamma": self.gamma, "beta": self.beta, "axis": self.axis, "eps": self.eps,
            "activation": self.activation, "residual": residual,
        }  # fmt: skip

    def _differentiated(self, gradients: Any) -> Array | tuple[Array, Array]:
        """Adds to the gradients; what `_backward` returns."""
        self._accumulate(gradients)
        dx = cast(Array, gradients.dx)
        return dx if gradients.dresidual is None else (dx, gradients.dresidual)

    def _is_own(self, context: Context) -> bool:
        return context.gamma is self.gamma and context.beta is self.beta


class GroupNorm(_OfSamples[GroupNormContext]):
    """Normalize groups of channels by statistics of each sample, in training and in inference.

    ``y = activation(gamma (x - mean) / sqrt(var + eps) + beta + residual)``
    (Wu and He 2018, https://arxiv.org/abs/1803.08494).

    Parameters
    ----------
    num_features : int
        The number of channels.
    num_groups : int
        How many groups of neighbouring channels; it divides num_features.
    axis : int
        The axis of the channels, not the first.
    eps : float, 0 or more
        Added to the variance.
    affine : bool
        Whether gamma and beta are learned; without, they are 1 and 0.
    activation : None, the name of an activation, or (name, parameter)
    dtype : float32 or float64
        The type of gamma and beta.

    Attributes
    ----------
    gamma, beta : arrays (num_features,), or None

    Raises
    ------
    ValueError
        An argument is out of range, or num_groups does not divide num_features.
    TypeError
        An argument is of the wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm.layers import GroupNorm
    >>> layer = GroupNorm(4, num_groups=2, eps=0)
    >>> layer(np.array([[1.0, 3.0, 10.0, 30.0]]))
    array([[-1.,  1., -1.,  1.]])
    """

    _context_type = GroupNormContext

    def __init__(
        self,
        num_features: int,
        *,
        num_groups: int,
        axis: int = 1,
        eps: float = 1e-5,
        affine: bool = True,
        activation: Activation = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(
            num_features, axis=axis, eps=eps, affine=affine, activation=activation, dtype=dtype
        )
        self.num_groups = size("GroupNorm", "num_groups", num_groups)
        if self.num_features % self.num_groups:
            expected = f"a divisor of num_features ({self.num_features})"
            raise checks.wrong_value("GroupNorm", "num_groups", num_groups, expected)

    def __repr__(self) -> str:
        return (
            f"GroupNorm({self.num_features}, num_groups={self.num_groups}, axis={self.axis}, "
            f"activation={self.activation!r})"
        )

    def forward(self, x: Array, residual: Array | None = None) -> tuple[Array, GroupNormContext]:
        """Return y and the context for `backward`; arguments as `nbnorm.group_norm_forward`."""
        return group_norm_forward(num_groups=self.num_groups, **self._options(x, residual))

    def _backward(self, dy: Array, context: GroupNormContext) -> Array | tuple[Array, Array]:
        needs = (*self._needs(), "dresidual")
        return self._differentiated(group_norm_backward(dy, context, needs=needs))


class InstanceNorm(_OfSamples[InstanceNormContext]):
    """Normalize each channel of each sample by its own statistics, in training and in inference.

    ``y = activation(gamma (x - mean) / sqrt(var + eps) + beta + residual)``
    (Ulyanov, Vedaldi and Lempitsky 2016, https://arxiv.org/abs/1607.08022).

    Parameters
    ----------
    num_features : int
        The number of channels.
    axis, eps, affine, activation, dtype
        As in `GroupNorm`.

    Attributes
    ----------
    gamma, beta : arrays (num_features,), or None

    Raises
    ------
    ValueError
        An argument is out of range.
    TypeError
        An argument is of the wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm.layers import InstanceNorm
    >>> layer = InstanceNorm(2, eps=0)
    >>> layer(np.array([[[1.0, 3.0], [10.0, 30.0]]]))
    array([[[-1.,  1.],
            [-1.,  1.]]])
    """

    _context_type = InstanceNormContext

    def __repr__(self) -> str:
        return (
            f"InstanceNorm({self.num_features}, axis={self.axis}, activation={self.activation!r})"
        )

    def forward(self, x: Array, residual: Array | None = None) -> tuple[Array, InstanceNormContext]:
        """Return y and the context for `backward`; arguments as `nbnorm.instance_norm_forward`."""
        return instance_norm_forward(**self._options(x, residual))

    def _backward(self, dy: Array, context: InstanceNormContext) -> Array | tuple[Array, Array]:
        needs = (*self._needs(), "dresidual")
        return self._differentiated(instance_norm_backward(dy, context, needs=needs))
