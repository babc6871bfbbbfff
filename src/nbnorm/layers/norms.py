"""Division by the L1 or L2 norm: no parameters, no statistics."""

from __future__ import annotations

from nbnorm import checks
from nbnorm.functional.norms import (
    SAMPLE,
    Axis,
    L1NormalizeContext,
    L2NormalizeContext,
    l1_normalize_backward,
    l1_normalize_forward,
    l2_normalize_backward,
    l2_normalize_forward,
)
from nbnorm.layers.base import Context, Layer
from nbnorm.typing import Array


class _Normalize(Layer[Context]):
    def __init__(self, *, axis: Axis = 1, eps: float = 1e-12) -> None:
        super().__init__()
        name = type(self).__name__
        if axis is not None and not (isinstance(axis, str) and axis == SAMPLE):
            expected = f"an int, a tuple of ints, None or {SAMPLE!r}"
            checks.ints(name, "axis", axis, expected)
        self.axis = axis
        self.eps = checks.number(name, "eps", eps)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(axis={self.axis!r}, eps={self.eps})"


class L1Normalize(_Normalize[L1NormalizeContext]):
    """Divide by the sum of absolute values: ``y = x / (sum(|x|) + eps)``.

    Parameters
    ----------
    axis : int, tuple of int, None or "sample"
        The axes summed over; None is the whole array, "sample" all axes but the first.
    eps : float, 0 or more

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm.layers import L1Normalize
    >>> layer = L1Normalize()
    >>> layer(np.array([[1.0, -3.0]]))
    array([[ 0.25, -0.75]])
    >>> layer.backward(np.array([[4.0, 0.0]]))
    array([[0.75, 0.25]])
    """

    _context_type = L1NormalizeContext

    def forward(self, x: Array, residual: Array | None = None) -> tuple[Array, L1NormalizeContext]:
        """Return y and the context for `backward`; arguments as `nbnorm.l1_normalize_forward`."""
        self._refuse(residual)
        return l1_normalize_forward(x, axis=self.axis, eps=self.eps)

    def _backward(self, dy: Array, context: L1NormalizeContext) -> Array:
        return l1_normalize_backward(dy, context)


class L2Normalize(_Normalize[L2NormalizeContext]):
    """Divide by the root of the sum of squares: ``y = x / sqrt(sum(x^2) + eps)``.

    Parameters
    ----------
    axis : int, tuple of int, None or "sample"
        The axes summed over; None is the whole array, "sample" all axes but the first.
    eps : float, 0 or more

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm.layers import L2Normalize
    >>> layer = L2Normalize(eps=0)
    >>> layer(np.array([[3.0, 4.0]]))
    array([[0.6, 0.8]])
    >>> layer.backward(np.array([[5.0, 0.0]]))
    array([[ 0.64, -0.48]])
    """

    _context_type = L2NormalizeContext

    def forward(self, x: Array, residual: Array | None = None) -> tuple[Array, L2NormalizeContext]:
        """Return y and the context for `backward`; arguments as `nbnorm.l2_normalize_forward`."""
        self._refuse(residual)
        return l2_normalize_forward(x, axis=self.axis, eps=self.eps)

    def _backward(self, dy: Array, context: L2NormalizeContext) -> Array:
        return l2_normalize_backward(dy, context)
