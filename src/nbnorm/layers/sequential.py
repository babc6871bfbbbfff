"""Layers one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from nbnorm import checks
from nbnorm.layers.base import Layer
from nbnorm.layers.folding import fold_pair
from nbnorm.typing import Array

if TYPE_CHECKING:
    from typing_extensions import Self

# Weights of places for all layers, or an entry for each of them.
SampleWeight: TypeAlias = Array | Sequence[Any] | None


@dataclass(frozen=True)
class SequentialContext:
    """The contexts of a Sequential's layers, in their order.

    From the one that a Sequential keeps, each is dropped once its layer's backward is done.
    """

    contexts: list[Any]

    def copy(self) -> SequentialContext:
        """Return one whose contexts can be dropped without loss to this one."""
        return SequentialContext(
            [own.copy() if isinstance(own, SequentialContext) else own for own in self.contexts]
        )


class Sequential(Layer[SequentialContext]):
    """Layers applied in order; parameter ``weight`` of the first is ``0.weight`` of the whole.

    A residual goes to the last layer, so that a residual block is one call:
    ``y = block(x, residual=x)`` and then ``dx, dresidual = block.backward(dy)``.

    Weights of samples or places, ``net(x, sample_weight=w)``, go to every batch norm in it, however
    deep: see `forward`.

    Parameters
    ----------
    *layers : Layer
        One or more.

    Raises
    ------
    ValueError
        There is no layer.
    TypeError
        One of them is not a Layer.

    Examples
    --------
    >>> import numpy as np
    >>> from nbnorm.layers import BatchNorm, Dense, Sequential
    >>> net = Sequential(Dense(4, 3, bias=False, rng=0), BatchNorm(3, activation="relu"))
    >>> list(net.parameters())
    ['0.weight', '1.gamma', '1.beta']
    >>> x = np.random.default_rng(0).standard_normal((5, 4), dtype=np.float32)
    >>> net(x).shape, net.backward(np.ones((5, 3), np.float32)).shape
    ((5, 3), (5, 4))

    Two samples that fill the batch up to five count in no statistics:

    >>> valid = np.array([True, True, True, False, False])
    >>> y = net(x, sample_weight=valid)
    >>> np.allclose(y[valid], net(x[valid]))
    True
    """

    _takes_weights = True
    _context_type = SequentialContext

    def __init__(self, *layers: Layer[Any]) -> None:
        super().__init__()
        if not layers:
            raise checks.wrong_value("Sequential", "layers", layers, "one layer or more")
        for index, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise checks.wrong_type("Sequential", f"layers[{index}]", layer, "a Layer")
        self.layers = layers

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Layer[Any]]:
        return iter(self.layers)

    def __getitem__(self, index: int) -> Layer[Any]:
        return self.layers[index]

    def __repr__(self) -> str:
        return f"Sequential({', '.join(map(repr, self.layers))})"

    def __call__(
        self, x: Array, residual: Array | None = None, *, sample_weight: SampleWeight = None
    ) -> Array:
        """Return y; in training, keep the contexts for `backward`."""
        if sample_weight is None:  # a subclass need not take any
            return self._called(x, residual)
        return self._called(x, residual, sample_weight=sample_weight)

    def forward(
        self, x: Array, residual: Array | None = None, *, sample_weight: SampleWeight = None
    ) -> tuple[Array, SequentialContext]:
        """Return the last layer's y, and every layer's context.

        Parameters
        ----------
        x : array
            What the first layer takes.
        residual : array, optional
            What the last layer takes for one.
        sample_weight : array, or sequence with an entry for each layer, optional
            What counts in the statistics of batch norms, as in `BatchNorm.forward`. Other layers
            work as ever: what weighs 0 still passes through convolutions and dense layers.

            - One weight for each sample, (n,), fits every layer: each is given it with as many axes
              as its input, n the first.
            - Weights of more axes are those of places, such as the (n, 1, h, w) of pixels or the
              (n, 1, t) of steps: every batch norm is given them as they are. One whose places are
              others, after a stride or a `Flatten`, refuses them.
            - A sequence gives each layer its own: one of the above, or None, which it is for layers
              without batch norm. That of a `Sequential` within may be a sequence again.

        Returns
        -------
        y : array
        context : SequentialContext

        Raises
        ------
        ValueError, TypeError
            As the layers, or a sequence of weights is not one for each layer that takes some.
        """
        *front, (last, own) = self._with_weights(sample_weight)
        contexts = []
        for layer, weights in front:
            x, context = layer.forward(x, **_options(layer, weights, x))
            contexts.append(context)
        y, context = last.forward(x, residual, **_options(last, own, x))
        return y, SequentialContext([*contexts, context])

    def _infer(self, x: Array, residual: Array | None = None, **weights: Any) -> Array:
        *front, (last, own) = self._flat(**weights)
        for layer, share in front:
            x = layer._infer(x, **_options(layer, share, x))  # noqa: SLF001  a fellow layer's, here and below
        return last._infer(x, residual, **_options(last, own, x))  # noqa: SLF001

    def _flat(
        self, sample_weight: SampleWeight = None
    ) -> Iterator[tuple[Layer[Any], SampleWeight]]:
        """Yield the layers in order with their weights, a Sequential's own in its place.

        Called as one layer, a Sequential would have its x held until its last layer is done.
        """
        for layer, weights in self._with_weights(sample_weight):
            if isinstance(layer, Sequential) and type(layer)._infer is Sequential._infer:  # noqa: SLF001
                yield from layer._flat(weights)  # noqa: SLF001
            else:
                yield layer, weights

    def _with_weights(self, sample_weight: SampleWeight) -> list[tuple[Layer[Any], SampleWeight]]:
        """Return each layer with the weights that are its own."""
        takes = [layer._takes_weights for layer in self.layers]  # noqa: SLF001
        if not isinstance(sample_weight, (list, tuple)):
            shares = [sample_weight if one else None for one in takes]
            return list(zip(self.layers, shares, strict=True))
        name = f"{type(self).__name__}.forward"
        if len(sample_weight) != len(self.layers):
            expected = f"an array, or {len(self.layers)} entries: one for each layer"
            raise checks.wrong_value(name, "sample_weight", sample_weight, expected)
        for index, (layer, own) in enumerate(zip(self.layers, sample_weight, strict=True)):
            if own is not None and not takes[index]:
                expected = f"None: {type(layer).__name__} takes none"
                raise checks.wrong_type(name, f"sample_weight[{index}]", own, expected)
        return list(zip(self.layers, sample_weight, strict=True))

    def _is_own(self, context: SequentialContext) -> bool:
        # All of them now: were one refused later, the gradients of others would be added already.
        return len(context.contexts) == len(self.layers) and all(
            isinstance(own, layer._context_type) and layer._is_own(own)  # noqa: SLF001  its own kind
            for layer, own in zip(self.layers, context.contexts, strict=True)
        )

    def _backward(self, dy: Array, context: SequentialContext) -> Array | tuple[Array, Array]:
        return Sequential._use_up(self, dy, context.copy())

    def _use_up(self, dy: Array, context: SequentialContext) -> Array | tuple[Array, Array]:
        dresidual = None
        for layer in reversed(self.layers):
            gradient = layer._use_up(dy, context.contexts[-1])  # noqa: SLF001
            del context.contexts[-1]  # now: what fails in the last layer leaves the context whole
            if isinstance(gradient, tuple):  # only of the last layer, the first in this loop
                dy, dresidual = gradient
            else:
                dy = gradient
        return dy if dresidual is None else (dy, dresidual)

    def parameters(self) -> dict[str, Array]:
        """Return the learned arrays of all layers: live, to be written in place."""
        return self._gather(lambda layer: layer.parameters())

    def buffers(self) -> dict[str, Array]:
        """Return the arrays of all layers that are state but not learned by gradient: live."""
        return self._gather(lambda layer: layer.buffers())

    def gradients(self) -> dict[str, Array]:
        """Return the summed gradients under the names of `parameters`: live."""
        return self._gather(lambda layer: layer.gradients())

    def train(self, training: bool = True) -> Self:
        """Switch all layers to training, or to inference if False, and return the Sequential."""
        super().train(training)
        for layer in self.layers:
            layer.train(training)
        return self

    def freeze(self, frozen: bool = True) -> Self:
        """Fix the statistics of every layer's batch norm, and return the Sequential."""
        super().freeze(frozen)
        for layer in self.layers:
            layer.freeze(frozen)
        return self

    def zero_grad(self) -> None:
        """Set every gradient of every layer to zero."""
        for layer in self.layers:
            layer.zero_grad()

    def fold(self) -> Sequential:
        """Return the layers for inference, batch norms folded into the layers before them.

        A `BatchNorm` that follows a `Dense` or `Conv2d` and keeps its channels is folded, and so
        are layers that have a batch norm of their own; its activation becomes a layer. After a
        `Dense`, ``axis=1`` is taken for the features, as it is in (n, k). Other layers are copied.
        A residual needs a last layer that takes one: an `Activation` does, a `Dense` does not.

        Raises
        ------
        ValueError
            A batch norm to be folded has no running statistics.
        """
        folded: list[Layer[Any]] = []
        ahead = list(self.layers)
        while ahead:
            layer = ahead.pop(0)
            pair = fold_pair(layer, ahead[0]) if ahead else None
            if pair is None:
                folded.append(layer.fold())
            else:
                del ahead[0]
                folded += pair
        return Sequential(*folded).eval()

    @property
    def trainable(self) -> tuple[str, ...]:
        """The names of the parameters that learn; set it to True, False or layers' own names."""
        return tuple(
            f"{index}.{name}" for index, layer in enumerate(self.layers) for name in layer.trainable
        )

    @trainable.setter
    def trainable(self, trainable: bool | Iterable[str]) -> None:
        self._train_only(self._checked_names(trainable))

    def _check_freezable(self) -> None:
        for layer in self.layers:
            layer._check_freezable()  # noqa: SLF001  a fellow layer's, here and below

    def _own_names(self) -> set[str]:
        return set().union(*(layer._own_names() for layer in self.layers))  # noqa: SLF001

    def _train_only(self, names: frozenset[str]) -> None:
        for layer in self.layers:
            layer._train_only(names)  # noqa: SLF001

    def _gather(self, arrays: Callable[[Layer[Any]], dict[str, Array]]) -> dict[str, Array]:
        return {
            f"{index}.{name}": array
            for index, layer in enumerate(self.layers)
            for name, array in arrays(layer).items()
        }


def _options(layer: Layer[Any], weights: SampleWeight, x: Array) -> dict[str, Any]:
    """What a layer is called with on an x."""
    if weights is None:
        return {}
    # A Sequential gives them their axes for each of its layers.
    if isinstance(weights, np.ndarray) and weights.ndim == 1 and not isinstance(layer, Sequential):
        weights = weights.reshape(-1, *(1,) * (np.ndim(x) - 1))
    return {"sample_weight": weights}
