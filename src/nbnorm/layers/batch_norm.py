"""Batch normalization with running statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from nbnorm import checks
from nbnorm.functional.arguments import Activation, size
from nbnorm.functional.batch_norm import batch_norm_backward, batch_norm_forward
from nbnorm.functional.contexts import BatchNormContext
from nbnorm.layers.normalizing import Affine, Normalizing
from nbnorm.typing import Array


class BatchNorm(Normalizing[BatchNormContext]):
    """Normalize each channel over the batch, and keep running statistics for inference.

    ::

        y = activation(gamma (x - mean) / sqrt(var + eps) + beta + residual)

    In training, mean and var are the batch's, and the running statistics move toward them::

        running = (1 - momentum) running + momentum batch

    After `eval` the running statistics take their place, as constants: the gradient is then
    ``dx = gamma / sqrt(running_var + eps) dy``. From Ioffe and Szegedy, "Batch Normalization:
    Accelerating Deep Network Training by Reducing Internal Covariate Shift", 2015,
    https://arxiv.org/abs/1502.03167.

    With m values per channel, y is normalized by the variance over m - ddof. Which variance
    enters the running one is a choice of its own: over m - 1 ("unbiased") or over m ("biased").

    Parameters
    ----------
    num_features : int, or tuple of ints
        The number of channels; where axis is a tuple, the shape of the kept axes.
    axis : int or tuple of ints
        The axes that keep statistics of their own; all others are reduced.
    eps : float
        Added to the variance, inside the root.
    momentum : float or None
        The weight of the new batch, from 0 to 1 (PyTorch's convention; 1 minus Keras's). With
        None all batches weigh the same: the running statistics are their cumulative mean.
    affine : bool, "gamma" or "beta"
        Whether to learn gamma and beta; or the one that is named, the other being 1 or 0.
    track_running_stats : bool
        If False, the statistics of the batch normalize in inference too.
    running_var : "unbiased" or "biased"
        "unbiased" as in PyTorch, "biased" as in Keras and Flax.
    ddof : 0 or 1
        Divides the variance by m - ddof.
    activation : None, the name of an activation, or (name, parameter)
        "relu" or ("leaky_relu", 0.2), say: docs/activations.md lists them.
    dtype : float32 or float64
        The type of gamma and beta. Running statistics are float64.

    Attributes
    ----------
    gamma, beta : arrays of shape num_features, or None
    running_mean, running_var : float64 arrays of shape num_features, or None
    num_batches_tracked : int64 array of shape (), or None

    Raises
    ------
    ValueError
        An argument is out of range, or num_features does not fit axis.
    TypeError
        An argument is of the wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm.layers import BatchNorm
    >>> layer = BatchNorm(2, momentum=0.5, eps=0)
    >>> layer(np.array([[1.0, 10.0], [3.0, 30.0]]))
    array([[-1., -1.],
           [ 1.,  1.]])
    >>> layer.running_mean, layer.running_var
    (array([ 1., 10.]), array([  1.5, 100.5]))
    >>> layer.eval()(np.array([[1.0, 10.0]]))
    array([[0., 0.]])
    """

    _parameter_names = ("gamma", "beta")
    _context_type = BatchNormContext

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        *,
        axis: int | tuple[int, ...] = 1,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: Affine = True,
        track_running_stats: bool = True,
        running_var: str = "unbiased",
        ddof: int = 0,
        activation: Activation = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__()
        self.shape = _kept_shape(type(self).__name__, num_features, axis)
        self.axis = axis
        self._start_normalizing(
            self.shape,
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
        features = self.shape if isinstance(self.axis, tuple) else self.shape[0]
        return f"BatchNorm({features}, axis={self.axis}, activation={self.activation!r})"

    def forward(
        self, x: Array, residual: Array | None = None, *, sample_weight: Array | None = None
    ) -> tuple[Array, BatchNormContext]:
        """Return y and the context for `backward`; in training, move the running statistics.

        Parameters
        ----------
        x : float32 or float64 array with num_features along axis
        residual : array like x, optional
            Added before the activation.
        sample_weight : array, optional
            What each place counts in the statistics, as in `nbnorm.batch_norm_forward`; of no
            effect where the running ones normalize. Running statistics move as for any batch, and
            stay as they are where all weights are 0, which is an error.

        Returns
        -------
        y : array like x
        context : BatchNormContext
            Holds x, residual, gamma and beta by reference, and the mean and var used.

        Raises
        ------
        ValueError, TypeError
            As `nbnorm.batch_norm_forward`, or x has another number of features.
        """

        def normalize(**options: Any) -> tuple[Array, BatchNormContext]:
            self._check_features(x)
            return batch_norm_forward(
                x, self.gamma, self.beta, axis=self.axis, residual=residual, **options
            )

        return self._normalize(normalize, sample_weight)

    def _backward(self, dy: Array, context: BatchNormContext) -> Array | tuple[Array, Array]:
        return self._differentiate(batch_norm_backward, dy, context)

    def _check_features(self, x: Array) -> None:
        # Not left to the function: without gamma and beta it would take any number of features.
        function = f"{type(self).__name__}.forward"
        checks.array(function, "x", x)
        axes = checks.kept_axes(function, self.axis, x.ndim)
        if tuple(x.shape[axis] for axis in axes) != self.shape:
            expected = f"{self.shape} along axis {self.axis}"
            raise checks.wrong_value(function, "x", x, expected)


def _kept_shape(
    function: str, num_features: int | tuple[int, ...], axis: int | tuple[int, ...]
) -> tuple[int, ...]:
    features = num_features if isinstance(num_features, tuple) else (num_features,)
    axes = checks.ints(function, "axis", axis)
    if len(features) != len(axes):
        expected = f"as many sizes as there are in axis {axis}"
        raise checks.wrong_value(function, "num_features", num_features, expected)
    return tuple(size(function, "num_features", c) for c in features)
