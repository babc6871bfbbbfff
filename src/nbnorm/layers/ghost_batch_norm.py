"""Batch normalization with statistics of equal parts of the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import DTypeLike

from nbnorm import checks
from nbnorm.functional.arguments import Activation, check_weights, size
from nbnorm.functional.contexts import BatchNormContext
from nbnorm.layers.batch_norm import BatchNorm
from nbnorm.layers.normalizing import Affine
from nbnorm.typing import Array


@dataclass(frozen=True)
class GhostBatchNormContext:
    """The contexts of the parts of the batch, in their order."""

    contexts: tuple[BatchNormContext, ...]


class GhostBatchNorm(BatchNorm):
    """Batch norm of equal parts of the batch, each normalized by its own statistics.

    Large batches then keep the noise of small ones (Hoffer, Hubara and Soudry, "Train longer,
    generalize better", 2017, https://arxiv.org/abs/1705.08741). Running statistics move once for
    each part, as if the parts were batches. After `eval`, or frozen, it is `BatchNorm`.

    Parameters
    ----------
    num_features : int, or tuple of ints
        The number of channels; where axis is a tuple, the shape of the kept axes.
    batch_groups : int
        How many parts the batch has, along its first axis; 1 is `BatchNorm`.
    axis, eps, momentum, affine, track_running_stats, running_var, ddof, activation, dtype
        As in `BatchNorm`; axis does not keep the first one.

    Attributes
    ----------
    gamma, beta, running_mean, running_var, num_batches_tracked
        As in `BatchNorm`, with the same `state_dict`.
    batch_groups : int

    Raises
    ------
    ValueError
        An argument is out of range, or num_features does not fit axis.
    TypeError
        An argument is of the wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm.layers import GhostBatchNorm
    >>> layer = GhostBatchNorm(1, batch_groups=2, eps=0)
    >>> layer(np.array([[1.0], [3.0], [50.0], [70.0]]))
    array([[-1.],
           [ 1.],
           [-1.],
           [ 1.]])
    """

    _context_type = GhostBatchNormContext  # type: ignore[assignment]  # as of forward

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        *,
        batch_groups: int,
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
        self.batch_groups = size(type(self).__name__, "batch_groups", batch_groups)

    def __repr__(self) -> str:
        plain = super().__repr__().removeprefix("BatchNorm(").removesuffix(")")
        return f"GhostBatchNorm({plain}, batch_groups={self.batch_groups})"

    def forward(  # type: ignore[override]  # a context of its own
        self, x: Array, residual: Array | None = None, *, sample_weight: Array | None = None
    ) -> tuple[Array, GhostBatchNormContext]:
        """Return y and the context for `backward`; in training, move the running statistics.

        As `BatchNorm.forward`, for each part of the batch.
        """
        groups = 1 if self._given_statistics() is not None else self.batch_groups
        if groups == 1:
            y, context = super().forward(x, residual, sample_weight=sample_weight)
            return y, GhostBatchNormContext((context,))
        function = f"{type(self).__name__}.forward"
        self._check_features(x)
        axes = checks.kept_axes(function, self.axis, x.ndim)
        if 0 in axes:
            raise checks.wrong_value(function, "axis", self.axis, "axes other than the batch's")
        if len(x) % groups:
            expected = f"a batch that divides into {groups} equal parts"
            raise checks.wrong_value(function, "x", x, expected)
        if residual is not None:
            checks.like(function, "residual", residual, x.shape, x.dtype)
        if sample_weight is not None:
            sample_weight = check_weights(function, x.shape, axes, sample_weight, x.dtype).places
        before = {name: array.copy() for name, array in self.buffers().items()}
        outputs, contexts = [], []
        try:
            for part in range(groups):
                taken = slice(part * len(x) // groups, (part + 1) * len(x) // groups)
                y, context = super().forward(
                    x[taken],
                    None if residual is None else residual[taken],
                    sample_weight=None if sample_weight is None else sample_weight[taken],
                )
                outputs.append(y)
                contexts.append(context)
        except Exception:  # of a later part: the first ones have not been, then
            for name, array in self.buffers().items():
                array[...] = before[name]
            raise
        return np.concatenate(outputs), GhostBatchNormContext(tuple(contexts))

    def _backward(  # type: ignore[override]
        self, dy: Array, context: GhostBatchNormContext
    ) -> Array | tuple[Array, Array]:
        contexts = context.contexts
        total = sum(len(own.x) for own in contexts)
        shape, dtype = (total, *contexts[0].x.shape[1:]), contexts[0].x.dtype
        checks.like(f"{type(self).__name__}.backward", "dy", dy, shape, dtype)
        found: list[Any] = []
        first = 0
        for own in contexts:
            found.append(super()._backward(dy[first : first + len(own.x)], own))
            first += len(own.x)
        if isinstance(found[0], tuple):
            dx, dresidual = (np.concatenate(parts) for parts in zip(*found, strict=True))
            return dx, dresidual
        return np.concatenate(found)

    def _is_own(self, context: GhostBatchNormContext) -> bool:  # type: ignore[override]
        return all(super(GhostBatchNorm, self)._is_own(own) for own in context.contexts)

    def fold(self) -> GhostBatchNorm:
        """Return a copy for inference; behind a `Dense` or `Conv2d`, `Sequential.fold` folds it."""
        return cast(GhostBatchNorm, super().fold())
