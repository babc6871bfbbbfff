"""An activation on its own, for networks without batch norm."""

from __future__ import annotations

from typing import cast

import numpy as np

from nbnorm import checks
from nbnorm.functional import arguments
from nbnorm.functional.batch_norm import batch_norm_backward, batch_norm_forward
from nbnorm.functional.contexts import BatchNormContext
from nbnorm.layers.base import Layer
from nbnorm.typing import Array


class Activation(Layer[BatchNormContext]):
    """Apply an activation elementwise: ``y = activation(x + residual)``.

    After a batch norm, that layer's own ``activation=`` saves a pass over memory.

    Parameters
    ----------
    activation : None, the name of an activation, or (name, parameter)
        "relu" or ("leaky_relu", 0.2), say: docs/activations.md lists them.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm.layers import Activation
    >>> relu = Activation("relu")
    >>> relu(np.array([[-1.0, 2.0]]))
    array([[0., 2.]])
    >>> relu.backward(np.array([[5.0, 5.0]]))
    array([[0., 5.]])
    """

    _context_type = BatchNormContext

    def __init__(self, activation: arguments.Activation) -> None:
        super().__init__()
        arguments.resolve_activation("Activation", activation)
        self.activation = activation

    def __repr__(self) -> str:
        return f"Activation({self.activation!r})"

    def forward(self, x: Array, residual: Array | None = None) -> tuple[Array, BatchNormContext]:
        """Return y and the context for `backward`."""
        # Normalizing with mean 0, variance 1 and eps 0 changes no bit of x, and brings every
        # activation and its gradient, compiled. Along axis 0 a row is contiguous in any layout.
        checks.array("Activation.forward", "x", x)
        return batch_norm_forward(
            x,
            statistics=(np.zeros(x.shape[:1]), np.ones(x.shape[:1])),
            axis=0,
            eps=0,
            activation=self.activation,
            residual=residual,
        )

    def _backward(self, dy: Array, context: BatchNormContext) -> Array | tuple[Array, Array]:
        gradients = batch_norm_backward(dy, context, needs=("dx", "dresidual"))
        dx = cast(Array, gradients.dx)
        return dx if gradients.dresidual is None else (dx, gradients.dresidual)
