"""Penalties on activations: the identity, with a loss of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from nbnorm import checks
from nbnorm.functional.penalties import (
    add_penalty_gradient,
    check_penalized,
    penalty_loss,
)
from nbnorm.kernels.norms.kinds import L1, L2
from nbnorm.layers.base import Layer
from nbnorm.typing import Array


@dataclass(frozen=True)
class PenaltyContext:
    """The input, by reference, what it cost, and the layer's settings."""

    x: Array
    loss: float
    weight: float
    order: Any


class _Penalty(Layer[PenaltyContext]):
    _context_type = PenaltyContext
    _order: ClassVar[Any]

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = checks.number(type(self).__name__, "weight", weight)
        self.loss = 0.0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.weight})"

    def forward(self, x: Array, residual: Array | None = None) -> tuple[Array, PenaltyContext]:
        """Return x itself and the context for `backward`; ``loss`` becomes what x costs."""
        self._refuse(residual)
        check_penalized(f"{type(self).__name__}.forward", x)
        self.loss = penalty_loss(x, self.weight, self._order)
        return x, PenaltyContext(x, self.loss, self.weight, self._order)

    def _backward(self, dy: Array, context: PenaltyContext) -> Array:
        x = context.x
        checks.like(f"{type(self).__name__}.backward", "dy", dy, x.shape, x.dtype)
        return add_penalty_gradient(dy, x, context.weight, context.order)

    def _is_own(self, context: PenaltyContext) -> bool:
        return type(context.order) is type(self._order)  # as tuples they are equal


class L1Penalty(_Penalty):
    """Pass x on and add ``weight sum(|x|)`` to the loss, so that activations become sparse.

    The backward adds ``weight sign(x)`` to the gradient that comes from behind.

    Parameters
    ----------
    weight : float, 0 or more

    Attributes
    ----------
    loss : float
        The penalty of the last forward call, to be added to the loss that is reported.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm.layers import L1Penalty
    >>> layer = L1Penalty(0.5)
    >>> layer(np.array([[3.0, -4.0]]))
    array([[ 3., -4.]])
    >>> layer.loss
    3.5
    >>> layer.backward(np.array([[1.0, 1.0]]))
    array([[1.5, 0.5]])
    """

    _order = L1()


class L2Penalty(_Penalty):
    """Pass x on and add ``weight / 2 sum(x^2)`` to the loss, so that activations stay small.

    The backward adds ``weight x`` to the gradient that comes from behind.

    Parameters
    ----------
    weight : float, 0 or more

    Attributes
    ----------
    loss : float
        The penalty of the last forward call, to be added to the loss that is reported.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm.layers import L2Penalty
    >>> layer = L2Penalty(0.5)
    >>> layer(np.array([[3.0, -4.0]]))
    array([[ 3., -4.]])
    >>> layer.loss
    6.25
    >>> layer.backward(np.array([[1.0, 1.0]]))
    array([[ 2.5, -1. ]])
    """

    _order = L2()
