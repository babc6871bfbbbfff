"""Sections with a state, for sequences.

Such a step takes and gives (steps, n, ...): n sequences side by side. Its state begins with zeros.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from nbnorm.interop.darknet.activations import Activating, logistic
from nbnorm.interop.darknet.cfg import Section
from nbnorm.interop.darknet.dialect import ORIGINAL, Dialect
from nbnorm.interop.darknet.products import DenseProduct, Product, Window, is_normalized
from nbnorm.interop.darknet.steps import Plan, Shape, Step
from nbnorm.layers import Layer
from nbnorm.typing import Array


class Recurrent(Step):
    """What has several products, and a state of arrays that each step of a sequence replaces."""

    is_recurrent = True

    def __init__(self, section: Section, shape: Shape, products: Mapping[str, Product]) -> None:
        section.refuse("dontload", "dontloadscales", "dontsave", "numload")
        super().__init__(section, shape)
        self.products = dict(products)  # by name, in the order of a file

    @abstractmethod
    def start(self, n: int) -> tuple[Array, ...]:
        """Return the state before the first step."""

    @abstractmethod
    def step(self, x: Array, state: tuple[Array, ...]) -> tuple[Array, tuple[Array, ...]]:
        """Return the output of one step and the state after it."""

    def forward(self, *inputs: Array) -> Array:
        """Take one step after the other."""
        (x,) = inputs
        y = np.empty((*x.shape[:2], *self.shape), x.dtype)
        state = self.start(x.shape[1])
        for own, out in zip(x, y, strict=True):
            out[...], state = self.step(own, state)
        return y

    @property
    def flops(self) -> int:
        """Two for each weight, as often as it is used."""
        return (
            2
            * math.prod(self.shape[1:])
            * sum(math.prod(product.shape) for product in self.products.values())
        )

    def declared(self) -> dict[str, Shape]:
        """Return the shapes of the arrays that a file holds."""
        return {
            f"{prefix}.{name}": shape
            for prefix, product in self.products.items()
            for name, shape in product.declared().items()
        }

    def build(self, dialect: Dialect, rng: np.random.Generator) -> None:
        """Make the layers."""
        for product in self.products.values():
            product.build(dialect, rng)

    def stored(self) -> dict[str, Array]:
        """Return the arrays of the layers."""
        return {
            f"{prefix}.{name}": array
            for prefix, product in self.products.items()
            for name, array in product.stored().items()
        }

    def layers(self) -> dict[str, Layer[Any]]:
        """Return the products' layers."""
        return {f"{prefix}.": product.layer for prefix, product in self.products.items()}

    def fold(self) -> Step:
        """Return a step whose layers have no batch norm."""
        twin = copy.copy(self)
        twin.products = {name: product.fold() for name, product in self.products.items()}
        return twin


class Elman(Recurrent):
    """State = input(x) + self(state), and the state before if there is a shortcut.

    The output is output(state).
    """

    hidden: Shape

    def __init__(self, section: Section, shape: Shape, products: Mapping[str, Product]) -> None:
        super().__init__(section, shape, products)
        self.shortcut = section.flag("shortcut")

    def start(self, n: int) -> tuple[Array, ...]:
        """Return zeros."""
        return (np.zeros((n, *self.hidden), np.float32),)

    def step(self, x: Array, state: tuple[Array, ...]) -> tuple[Array, tuple[Array, ...]]:
        """Take a step."""
        (before,) = state
        after = self.products["input"].forward(x) + self.products["self"].forward(before)
        if self.shortcut:
            after += before
        return self.products["output"].forward(after), (after,)


class Rnn(Elman):
    """Of three connected layers."""

    def __init__(self, section: Section, plan: Plan) -> None:
        inputs = math.prod(plan.before(section))
        self.takes = (inputs,)
        outputs = section.integer("output", 1, least=1)
        hidden = section.integer("hidden", 1, least=1)
        if plan.dialect is ORIGINAL:  # which has one number for both
            if section.integer("hidden", outputs) != outputs:
                raise section.error(f"hidden is {hidden}; expected {outputs}, as output")
            hidden = outputs
        self.hidden = (hidden,)
        activation = Activating.of(section, "logistic")
        kind = section.integer("logistic", 0)
        own = {1: "logistic", 2: "loggy"}.get(kind, activation.name)
        normalized = is_normalized(section)
        products = {
            "input": DenseProduct((hidden, inputs), normalized, activation),
            "self": DenseProduct((hidden, hidden), normalized, Activating(own)),
            "output": DenseProduct((outputs, hidden), normalized, activation),
        }
        super().__init__(section, (outputs,), products)


class Crnn(Elman):
    """Of three convolutions."""

    def __init__(self, section: Section, plan: Plan) -> None:
        section.refuse("xnor")
        self.takes = c, h, w = plan.image_before(section)
        keys = ("hidden", "output")
        if plan.dialect is ORIGINAL:
            keys = ("hidden_filters", "output_filters")
        hidden, outputs = (section.integer(key, 1, least=1) for key in keys)
        self.hidden = (hidden, h, w)
        stride = section.integer("stride", 1, least=1)
        if plan.dialect is ORIGINAL:
            window = Window(3, (1, 1), 1, 1)
        else:
            window = Window.of(section, self.takes, (stride, stride), size=3)
        if window.counts(self.takes) != (h, w):
            raise section.error(
                f"the state would be of {window.counts(self.takes)} pixels; expected {(h, w)}"
            )
        activation = Activating.of(section, "logistic")
        products = {
            "input": window.product(section, c, hidden, activation),
            "self": window.product(section, hidden, hidden, activation),
            "output": window.product(section, hidden, outputs, activation),
        }
        super().__init__(section, (outputs, h, w), products)


class Gated(Recurrent):
    """What has a product of the input and one of the state for each of some gates."""

    def __init__(self, section: Section, plan: Plan, order: tuple[str, ...]) -> None:
        inputs = math.prod(plan.before(section))
        self.takes = (inputs,)
        outputs = section.integer("output", 1, least=1)
        normalized = is_normalized(section)
        sizes = {"input": inputs, "state": outputs}
        products = {
            name: DenseProduct(
                (outputs, sizes[name.partition("_")[0]]), normalized, Activating("linear")
            )
            for name in order
        }
        super().__init__(section, (outputs,), products)

    def gate(self, name: str, x: Array, state: Array) -> Array:
        """Return input_name(x) + state_name(state)."""
        return self.products[f"input_{name}"].forward(x) + self.products[f"state_{name}"].forward(
            state
        )


class Gru(Gated):
    """Gates z and r, and h: ``y = z state + (1 - z) h``; h is logistic where tanh=1 is not said."""

    def __init__(self, section: Section, plan: Plan) -> None:
        super().__init__(section, plan, plan.dialect.gru_order)
        has_tanh = plan.dialect is ORIGINAL and section.flag("tanh")
        self.activation = np.tanh if has_tanh else logistic

    def start(self, n: int) -> tuple[Array, ...]:
        """Return zeros."""
        return (np.zeros((n, *self.shape), np.float32),)

    def step(self, x: Array, state: tuple[Array, ...]) -> tuple[Array, tuple[Array, ...]]:
        """Take a step."""
        (before,) = state
        z = logistic(self.gate("z", x, before))
        r = logistic(self.gate("r", x, before))
        h = self.activation(self.gate("h", x, r * before))
        y = z * before + (1 - z) * h
        return y, (y,)


class Lstm(Gated):
    """Gates f, i and o, and g: ``cell = f cell + i g``, ``y = o tanh(cell)``."""

    def __init__(self, section: Section, plan: Plan) -> None:
        super().__init__(section, plan, plan.dialect.lstm_order)

    def start(self, n: int) -> tuple[Array, ...]:
        """Return zeros, of the output and of the cell."""
        return np.zeros((n, *self.shape), np.float32), np.zeros((n, *self.shape), np.float32)

    def step(self, x: Array, state: tuple[Array, ...]) -> tuple[Array, tuple[Array, ...]]:
        """Take a step."""
        before, cell = state
        f, i, o = (logistic(self.gate(name, x, before)) for name in "fio")
        cell = f * cell + i * np.tanh(self.gate("g", x, before))
        y = o * np.tanh(cell)
        return y, (y, cell)
