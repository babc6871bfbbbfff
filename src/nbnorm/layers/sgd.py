"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from nbnorm import checks
from nbnorm.layers.base import Layer
from nbnorm.layers.sequential import Sequential


class SGD:
    """Gradient descent with momentum, written into the layers' live parameters.

    With a velocity that starts at 0, one step is::

        velocity  = momentum velocity + gradient
        parameter = parameter - lr velocity

    as in PyTorch. (In Sutskever et al., "On the importance of initialization and momentum in
    deep learning", 2013, lr scales the new gradient alone; here a new lr acts at once.)

    What does not learn (`Layer.trainable`) stays as it is, and so does its velocity. An array that
    several layers share takes one step, by the sum of their gradients.

    Parameters
    ----------
    layers : Layer, or several
    lr : float
        The learning rate, 0 or more; the attribute may be changed between steps.
    momentum : float
        How much of the velocity a step keeps, from 0 to 1.

    Raises
    ------
    ValueError
        lr or momentum is out of range.
    TypeError
        layers holds no Layer, or something else.

    Examples
    --------
    >>> from nbnorm.layers import SGD, Dense
    >>> layer = Dense(1, 1, bias=False)
    >>> layer.weight[...] = 1
    >>> optimizer = SGD(layer, lr=0.5)
    >>> layer.gradients()["weight"][...] = 0.25
    >>> optimizer.step()
    >>> layer.weight
    array([[0.875]], dtype=float32)
    """

    def __init__(
        self, layers: Layer[Any] | Iterable[Layer[Any]], lr: float, momentum: float = 0.0
    ) -> None:
        checks.number("SGD", "lr", lr)
        expected = "a number from 0 to 1"
        if checks.number("SGD", "momentum", momentum, expected) > 1:
            raise checks.wrong_value("SGD", "momentum", momentum, expected)
        try:
            members = [layers] if isinstance(layers, Layer) else list(layers)
        except TypeError:
            members = []
        if not members or not all(isinstance(layer, Layer) for layer in members):
            raise checks.wrong_type("SGD", "layers", layers, "a Layer, or several")
        self.lr = lr
        self.momentum = momentum
        self._layer = Sequential(*members)  # several layers under one set of names
        parameters = self._layer.parameters()
        # By array: what occurs twice, or is shared by layers, has one velocity and takes one step.
        sharing: dict[int, list[str]] = {}
        for name, array in parameters.items():
            sharing.setdefault(id(array), []).append(name)
        self._velocities = {
            tuple(names): np.zeros_like(parameters[names[0]]) for names in sharing.values()
        }

    def step(self) -> None:
        """Move every parameter that learns one step against its gradient."""
        parameters, gradients = self._layer.parameters(), self._layer.gradients()
        for names, velocity in self._velocities.items():
            # A layer that occurs twice has one gradient, layers that share an array one each.
            shares = {id(gradients[name]): gradients[name] for name in names if name in gradients}
            if shares:
                self._velocities[names] = self.momentum * velocity + sum(shares.values())
                parameters[names[0]] -= self.lr * self._velocities[names]

    def zero_grad(self) -> None:
        """Set every gradient to zero."""
        self._layer.zero_grad()
