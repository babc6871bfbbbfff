"""Batch normalization with statistics over the last few batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import DTypeLike

from nbnorm import checks
from nbnorm.functional.arguments import Activation, size
from nbnorm.functional.contexts import BatchNormContext
from nbnorm.functional.cross_iteration_batch_norm import (
    check_sequence,
    cross_iteration_batch_norm_forward,
)
from nbnorm.functional.moments import Moments
from nbnorm.layers.batch_norm import BatchNorm
from nbnorm.layers.normalizing import Affine
from nbnorm.typing import Array

if TYPE_CHECKING:
    from typing_extensions import Self


class CrossIterationBatchNorm(BatchNorm):
    """Batch norm whose statistics are those of the last few batches together.

    For training with batches too small to have good statistics (Yao et al., "Cross-Iteration Batch
    Normalization", 2020, https://arxiv.org/abs/2002.05712). In training, mean and variance are
    taken over this batch and the ``window - 1`` before it, and the running statistics move toward
    these; the gradient goes through this batch's part of them, exactly
    (`nbnorm.cross_iteration_batch_norm_forward` has it). After `eval`, or frozen, it is
    `BatchNorm`.

    Behind a layer whose weights change from batch to batch, what is kept of earlier batches is out
    of date. `Compensated` takes a `Dense` or `Conv2d` and this layer as a pair and corrects for
    that, as the paper does. Where the weights stay the same over the window, as in the batches
    whose gradients are summed for one step, nothing is out of date: ``window`` of them, and
    `forget` after the step (darknet's ``batch_normalize=2`` with its subdivisions).

    The paper begins with plain batch norm: set the attribute `window` to 1 until then.

    Parameters
    ----------
    num_features : int, or tuple of ints
        The number of channels; where axis is a tuple, the shape of the kept axes.
    window : int
        How many batches make the statistics, this one included; 1 is `BatchNorm`.
    axis, eps, momentum, affine, track_running_stats, running_var, ddof, activation, dtype
        As in `BatchNorm`.

    Attributes
    ----------
    gamma, beta, running_mean, running_var, num_batches_tracked
        As in `BatchNorm`, with the same `state_dict`: what is kept of earlier batches is not saved.
    window : int

    Raises
    ------
    ValueError
        An argument is out of range, or num_features does not fit axis.
    TypeError
        An argument is of the wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm.layers import CrossIterationBatchNorm
    >>> layer = CrossIterationBatchNorm(1, window=2, eps=0)
    >>> layer(np.array([[1.0], [3.0]]))  # mean 2
    array([[-1.],
           [ 1.]])
    >>> layer(np.array([[5.0], [7.0]])).round(3)  # mean 4 and variance 5 of both
    array([[0.447],
           [1.342]])
    >>> layer.forget()(np.array([[5.0], [7.0]]))
    array([[-1.],
           [ 1.]])
    """

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        *,
        window: int,
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
        super().__init__(
            num_features,
            axis=axis,
            eps=eps,
            momentum=momentum,
            affine=affine,
            track_running_stats=track_running_stats,
            running_var=running_var,
            ddof=ddof,
            activation=activation,
            dtype=dtype,
        )
        self.window = window
        self._earlier: tuple[Moments, ...] = ()

    @property
    def window(self) -> int:
        """How many batches make the statistics, this one included."""
        return self._window

    @window.setter
    def window(self, window: int) -> None:
        self._window = size(type(self).__name__, "window", window)

    def __repr__(self) -> str:
        plain = super().__repr__().removeprefix("BatchNorm(").removesuffix(")")
        return f"CrossIterationBatchNorm({plain}, window={self.window})"

    def forward(
        self, x: Array, residual: Array | None = None, *, sample_weight: Array | None = None
    ) -> tuple[Array, BatchNormContext]:
        """Return y and the context for `backward`; in training, remember the batch's statistics.

        As `BatchNorm.forward`, but that one value in a channel is enough where there were batches
        before. A batch that is refused is not remembered. Places have no weights here.
        """
        if sample_weight is not None:
            name = f"{type(self).__name__}.forward"
            raise checks.wrong_type(name, "sample_weight", sample_weight, "None: it takes none")
        if not self.training or self.frozen:
            return super().forward(x, residual)
        y, context, own = self.forward_after(self._earlier, x, residual)
        self._earlier = (own, *self._earlier)[: self.window - 1]
        return y, context

    def forward_after(
        self, earlier: Sequence[Moments], x: Array, residual: Array | None = None
    ) -> tuple[Array, BatchNormContext, Moments]:
        """Return y, the context and the batch's own statistics, given those of earlier batches.

        `forward` in training, with the memory left to the caller. The earlier batches come the
        latest first; as many as fit the window count.
        """
        function = f"{type(self).__name__}.forward_after"
        self._check_features(x)
        y, context, own = cross_iteration_batch_norm_forward(
            x,
            check_sequence(function, "earlier", earlier)[: self.window - 1],
            self.gamma,
            self.beta,
            axis=self.axis,
            eps=self.eps,
            ddof=self.ddof,
            activation=self.activation,
            residual=residual,
        )
        self._track(context)
        return y, context, own

    def forget(self) -> Self:
        """Forget the earlier batches, and return the layer."""
        self._earlier = ()
        return self

    def fold(self) -> CrossIterationBatchNorm:
        """Return a copy for inference; behind a `Dense` or `Conv2d`, `Sequential.fold` folds it."""
        return cast(CrossIterationBatchNorm, super().fold()).forget()
