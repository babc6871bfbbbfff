"""What every layer with batch norm has in common: gamma, beta and running statistics."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import DTypeLike

from nbnorm import checks
from nbnorm.functional.arguments import Activation, resolve_activation
from nbnorm.functional.moments import Moments
from nbnorm.layers.base import Layer
from nbnorm.layers.initialization import float_type
from nbnorm.typing import Array


class Statistics(Protocol):
    """What a context says of its batch."""

    @property
    def mean(self) -> Array:
        """Mean of each channel."""

    @property
    def var(self) -> Array:
        """Variance of each channel over m - ddof."""

    @property
    def count(self) -> float:
        """The number m of values in a channel, or the sum of their weights."""

    @property
    def part(self) -> bool:
        """Whether the batch was a part of a larger one."""


Context = TypeVar("Context", bound=Statistics)
Result = TypeVar("Result")


class Exchange(Protocol):
    """What makes a layer's batch a part of a larger one: see nbnorm.distributed.

    Each method makes one call, and hands it what is called between its two halves.
    """

    def forward(self, call: Callable[[Callable[[Moments], Moments]], Result]) -> Result:
        """The call's result; it is handed what turns a part's moments into the whole's."""

    def backward(self, call: Callable[[Callable[[Array], Array]], Result]) -> Result:
        """The call's result; it is handed what turns a part's gradient sums into the whole's."""


# Whether gamma and beta are learned: both, neither, or the one that is named.
Affine: TypeAlias = bool | str

_LEARNED = ("gamma", "beta")


class Normalizing(Layer[Context]):
    """A layer with batch norm; a subclass calls `_start_normalizing` in its ``__init__``.

    exchange   what takes the batch for a part of a larger one, or None
    """

    exchange: Exchange | None = None

    _takes_weights = True
    _buffer_names = ("running_mean", "running_var", "num_batches_tracked")

    def _start_normalizing(
        self,
        shape: tuple[int, ...],
        *,
        eps: float,
        momentum: float | None,
        affine: Affine,
        track_running_stats: bool,
        running_var: str,
        ddof: int,
        activation: Activation,
        dtype: DTypeLike,
    ) -> None:
        """Check the options of a batch norm and make its arrays, in the shape of the kept axes."""
        name = type(self).__name__
        if momentum is not None:
            expected = "None or a number from 0 to 1"
            if checks.number(name, "momentum", momentum, expected) > 1:
                raise checks.wrong_value(name, "momentum", momentum, expected)
        checks.choice(name, "running_var", running_var, ("unbiased", "biased"))
        scales, shifts = _learned(name, affine)
        tracked = checks.flag(name, "track_running_stats", track_running_stats)
        self.eps = checks.number(name, "eps", eps)
        self.momentum = momentum
        self.unbiased = running_var == "unbiased"
        self.ddof = checks.degrees_of_freedom(name, ddof)
        resolve_activation(name, activation)
        self.activation = activation
        dtype = float_type(name, dtype)
        self.gamma = np.ones(shape, dtype) if scales else None
        self.beta = np.zeros(shape, dtype) if shifts else None
        self.running_mean = np.zeros(shape) if tracked else None
        self.running_var = np.ones(shape) if tracked else None
        self.num_batches_tracked = np.zeros((), np.int64) if tracked else None

    @property
    def affine(self) -> Affine:
        """What is learned: True is gamma and beta, False neither, else the name of the one."""
        scales, shifts = self.gamma is not None, self.beta is not None
        if scales == shifts:
            return scales
        return "gamma" if scales else "beta"

    def _given_statistics(self) -> tuple[Array, Array] | None:
        """Return what takes the place of the batch's statistics, None where nothing does.

        The running ones do after `eval` and where they are frozen.
        """
        if self.running_mean is None or self.running_var is None:
            return None
        if self.training and not self.frozen:
            return None
        return self.running_mean, self.running_var

    def __call__(
        self, x: Array, residual: Array | None = None, *, sample_weight: Array | None = None
    ) -> Array:
        """Return y; in training, keep the context for `backward`."""
        if sample_weight is None:  # a subclass need not take any
            return self._called(x, residual)
        return self._called(x, residual, sample_weight=sample_weight)

    @abstractmethod
    def forward(
        self, x: Array, residual: Array | None = None, *, sample_weight: Array | None = None
    ) -> tuple[Array, Context]:
        """Return y and the context that `backward` needs."""

    def _normalize(
        self, function: Callable[..., tuple[Array, Context]], sample_weight: Array | None
    ) -> tuple[Array, Context]:
        """Call a forward, which has its arrays, with the options; move the running statistics."""
        options: dict[str, Any] = {
            "eps": self.eps, "ddof": self.ddof, "activation": self.activation,
        }  # fmt: skip
        given = self._given_statistics()
        if given is not None:
            return function(statistics=given, **options)
        options["sample_weight"] = sample_weight
        if self.exchange is None:
            y, context = function(**options)
        else:
            y, context = self.exchange.forward(lambda whole: function(moments=whole, **options))
        self._track(context)
        return y, context

    def _differentiate(
        self, function: Callable[..., Any], dy: Array, context: Context
    ) -> Array | tuple[Array, Array]:
        """Call a backward, add to the gradients, and return what `_backward` does."""
        needs = (*self._needs(), "dresidual")
        if self.exchange is None or not context.part:
            gradients = function(dy, context, needs=needs)
        else:
            gradients = self.exchange.backward(
                lambda whole: function(dy, context, needs=needs, sums=whole)
            )
        self._accumulate(gradients)
        dx = cast(Array, gradients.dx)
        return dx if gradients.dresidual is None else (dx, gradients.dresidual)

    def _track(self, context: Context) -> None:
        """Move the running statistics toward those of one batch, in training."""
        buffers = self.buffers()
        if not buffers or not self.training or self.frozen:
            return
        m = context.count
        if self.unbiased and m <= 1:
            expected = "weights whose sum is above 1, for an unbiased running variance"
            function = f"{type(self).__name__}.forward"
            raise checks.wrong_value(function, "sample_weight", m, expected)
        if np.isinf(context.var).any() and np.isfinite(context.mean).all():
            function, expected = f"{type(self).__name__}.forward", "variances that float64 can hold"
            raise checks.wrong_value(function, "the batch's var", context.var, expected)
        var = context.var * ((m - self.ddof) / (m - 1 if self.unbiased else m))
        buffers["num_batches_tracked"] += 1
        share = 1 / buffers["num_batches_tracked"] if self.momentum is None else self.momentum
        for name, batch in (("running_mean", context.mean), ("running_var", var)):
            buffers[name][...] = (1 - share) * buffers[name] + share * batch

    def _check_freezable(self) -> None:
        if self.running_mean is None:
            function = f"{type(self).__name__}.freeze"
            expected = "running statistics: a layer made with track_running_stats=True"
            raise checks.wrong_value(function, "running_mean", None, expected)

    def _is_own(self, context: Context) -> bool:
        names = self._parameter_names
        return all(getattr(context, name) is getattr(self, name) for name in names)


def _learned(function: str, affine: Any) -> tuple[bool, bool]:
    """Whether gamma is learned, and whether beta."""
    expected = f"True, False or one of {_LEARNED}"
    if isinstance(affine, (bool, np.bool_)):
        return bool(affine), bool(affine)
    if not isinstance(affine, str):
        raise checks.wrong_type(function, "affine", affine, expected)
    if affine not in _LEARNED:
        raise checks.wrong_value(function, "affine", affine, expected)
    return affine == "gamma", affine == "beta"
