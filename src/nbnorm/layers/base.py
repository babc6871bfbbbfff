"""What every layer has in common: parameters, gradients, contexts and saved state."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from nbnorm import checks
from nbnorm.typing import Array

if TYPE_CHECKING:
    from typing_extensions import Self

Context = TypeVar("Context")


class Layer(ABC, Generic[Context]):
    """A function of arrays that holds its parameters and sums up their gradients.

    In training, ``y = layer(x)`` keeps the context that the next ``layer.backward(dy)`` uses up; in
    inference it keeps nothing. ``y, context = layer.forward(x)`` hands the context out, in both:
    several forward calls may then be open at once, and one context may serve twice. So one layer
    serves every step of a recurrence, with a context for each step, and its gradients add up over
    them:

    >>> import numpy as np
    >>> from nbnorm.layers import DenseBatchNorm
    >>> layer = DenseBatchNorm(3, 3, rng=0)
    >>> x, contexts = np.random.default_rng(0).standard_normal((5, 3), dtype=np.float32), []
    >>> for step in range(4):
    ...     x, context = layer.forward(x)
    ...     contexts.append(context)
    >>> dx = np.cos(x)
    >>> for context in reversed(contexts):
    ...     dx = layer.backward(dx, context)
    >>> layer.gradients()["weight"].shape  # summed over four steps
    (3, 3)

    Parameters may not change between a forward and its backward.

    A subclass names its arrays, stores each under its name (None where it has none), and
    writes `forward` and `_backward`; `_infer` and `_use_up` where these can do with less memory.
    One that takes `sample_weight` says so in `_takes_weights`.
    """

    _takes_weights: ClassVar[bool] = False
    _parameter_names: ClassVar[tuple[str, ...]] = ()
    _buffer_names: ClassVar[tuple[str, ...]] = ()
    _context_type: ClassVar[type]

    def __init__(self) -> None:
        self.training = True
        self.frozen = False
        self._untrained: frozenset[str] = frozenset()
        self._gradients: dict[str, Array] = {}
        self._context: Context | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # What is inherited for one of these knows nothing of a class's own.
        for plain, thrifty in (("forward", "_infer"), ("_backward", "_use_up")):
            if plain in vars(cls) and thrifty not in vars(cls):
                setattr(cls, thrifty, getattr(Layer, thrifty))

    @abstractmethod
    def forward(self, x: Array, residual: Array | None = None) -> tuple[Array, Context]:
        """Return y and the context that `backward` needs."""

    @abstractmethod
    def _backward(self, dy: Array, context: Context) -> Array | tuple[Array, Array]:
        """Add to the gradients; return dx, or (dx, dresidual) after a residual."""

    def _infer(self, x: Array, residual: Array | None = None, **weights: Any) -> Array:
        """Return the y of `forward`, but for rounding, without its context."""
        return self.forward(x, residual, **weights)[0]

    def _use_up(self, dy: Array, context: Context) -> Array | tuple[Array, Array]:
        """`_backward` by a context that nobody else has: parts of it may be dropped on the way."""
        return self._backward(dy, context)

    def __call__(self, x: Array, residual: Array | None = None) -> Array:
        """Return y; in training, keep the context for `backward`."""
        return self._called(x, residual)

    def _called(self, x: Array, residual: Array | None, **weights: Any) -> Array:
        if self.training:
            y, self._context = self.forward(x, residual, **weights)
        else:
            y, self._context = self._infer(x, residual, **weights), None
        return y

    def backward(self, dy: Array, context: Context | None = None) -> Array | tuple[Array, Array]:
        """Add this call's gradients to ``gradients()`` and return that of the input.

        Parameters
        ----------
        dy : array of y's shape and type
            The gradient of the loss with respect to y.
        context : optional
            What `forward` returned; None uses up the one that ``layer(x)`` kept in training.

        Returns
        -------
        dx, or (dx, dresidual) where the forward call had a residual

        Raises
        ------
        ValueError
            No context is kept, it is another layer's, or dy does not fit it.
        TypeError
            The context is of another kind of layer.
        """
        name = f"{type(self).__name__}.backward"
        used = self._context if context is None else context
        if used is None:
            expected = "a context: call the layer before each backward, or pass one"
            if not self.training:
                expected = "a context, as `forward` returns it: in inference a call keeps none"
            raise checks.wrong_value(name, "context", None, expected)
        if not isinstance(used, self._context_type):
            given, expected = type(used).__name__, self._context_type.__name__
            raise TypeError(f"{name}: context is a {given}; expected a {expected}")
        if not self._is_own(used):
            raise ValueError(f"{name}: context is another layer's; expected one of this layer's")
        if context is not None:
            return self._backward(dy, context)
        gradient = self._use_up(dy, used)
        self._context = None
        return gradient

    def train(self, training: bool = True) -> Self:
        """Switch to training, or to inference if False, and return the layer."""
        self.training = checks.flag(f"{type(self).__name__}.train", "training", training)
        return self

    def eval(self) -> Self:
        """Switch to inference and return the layer."""
        return self.train(False)

    def freeze(self, frozen: bool = True) -> Self:
        """Fix the statistics of batch norms, and return the layer.

        Until `unfreeze` they normalize by their running statistics, which stay as they are,
        whatever `train` and `eval` say, and backward takes them for constants:
        ``dx = gamma / sqrt(running_var + eps) dy``. Gamma and beta go on learning; `trainable`
        decides about that.

        Raises
        ------
        ValueError
            A batch norm has no running statistics; nothing is frozen then.
        TypeError
            frozen is not a bool.
        """
        frozen = checks.flag(f"{type(self).__name__}.freeze", "frozen", frozen)
        if frozen:
            self._check_freezable()
        self.frozen = frozen
        return self

    def unfreeze(self) -> Self:
        """Undo `freeze`, and return the layer."""
        return self.freeze(False)

    @property
    def trainable(self) -> tuple[str, ...]:
        """The names of the parameters that learn; set it to True, False or names.

        Only these have gradients: a backward does not work out the others, and an optimizer leaves
        them alone. Setting names on a layer of layers lets each of them learn what it has of these:
        ``net.trainable = "gamma", "beta"`` trains the batch norms of a network only.

        Raises
        ------
        ValueError
            There is no parameter of a name.
        TypeError
            What is set is neither a bool nor names.
        """
        return tuple(name for name in self.parameters() if name not in self._untrained)

    @trainable.setter
    def trainable(self, trainable: bool | Iterable[str]) -> None:
        self._train_only(self._checked_names(trainable))

    def fold(self) -> Layer[Any]:
        """Return a layer for inference that equals this one after `eval`.

        It has arrays of its own: later changes of this layer do not reach it. What holds a batch
        norm and the layer before it folds the one into the other.
        """
        twin = copy.copy(self)
        arrays = self._arrays(self._parameter_names + self._buffer_names)
        copies = {name: array.copy() for name, array in arrays.items()}
        vars(twin).update(copies, _gradients={}, _context=None)
        return twin.eval()

    def parameters(self) -> dict[str, Array]:
        """Return the learned arrays by name: live, to be written in place."""
        return self._arrays(self._parameter_names)

    def buffers(self) -> dict[str, Array]:
        """Return by name the arrays that are state but not learned by gradient: live."""
        return self._arrays(self._buffer_names)

    def gradients(self) -> dict[str, Array]:
        """Return the summed gradients under the names of `parameters`: live.

        Those of parameters that do not learn (`trainable`) are left out.
        """
        parameters = self.parameters()
        # Made on first use: a layer that only infers never pays for them.
        for name in parameters.keys() - self._gradients.keys() - self._untrained:
            self._gradients[name] = np.zeros_like(parameters[name])
        return {name: self._gradients[name] for name in parameters if name not in self._untrained}

    def zero_grad(self) -> None:
        """Set every gradient to zero."""
        for gradient in self._gradients.values():  # of what does not learn just now, too
            gradient.fill(0)

    def state_dict(self) -> dict[str, Array]:
        """Return copies of the parameters and buffers by name."""
        return {name: array.copy() for name, array in self._state().items()}

    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> None:
        """Copy parameters and buffers from a mapping; one that does not fit changes nothing.

        Parameters
        ----------
        state : mapping from names to arrays
            The names and shapes of `state_dict`, and types that convert to its own (float64 to
            float32, not complex to float).

        Raises
        ------
        ValueError
            A name is missing or unknown, a shape differs, a number is too large for its type, or
            a running variance or the number of batches is negative.
        TypeError
            state is no mapping, an array is masked, or a type does not convert.
        """
        name = f"{type(self).__name__}.load_state_dict"
        if not isinstance(state, Mapping):
            raise checks.wrong_type(name, "state", state, "a mapping from names to arrays")
        live = self._state()
        if state.keys() != live.keys():
            lacking = sorted(live.keys() - state.keys())
            unknown = sorted(state.keys() - live.keys(), key=str)
            raise ValueError(
                f"{name}: state is a mapping that lacks {lacking} and has unknown {unknown}; "
                f"expected exactly {list(live)}"
            )
        checked = {}
        for key, target in live.items():
            own = key.rpartition(".")[2]
            checked[key] = loaded(name, key, own, state[key], target)
        # Nothing below can fail.
        for key, value in checked.items():
            live[key][...] = value

    def _is_own(self, context: Context) -> bool:  # noqa: ARG002
        """Whether a context of the right type came from this layer, as far as it matters."""
        return True

    def _check_freezable(self) -> None:
        """Raise if a batch norm has no running statistics to be frozen."""

    def _own_names(self) -> set[str]:
        """Return the parameters' names, those within a layer of layers without its numbers."""
        return set(self.parameters())

    def _train_only(self, names: frozenset[str]) -> None:
        self._untrained = frozenset(self._parameter_names) - names

    def _checked_names(self, trained: bool | Iterable[str]) -> frozenset[str]:
        """Return the names given, or those that True and False stand for."""
        name, own = type(self).__name__, self._own_names()
        expected = f"True, False or names out of {sorted(own)}"
        if isinstance(trained, (bool, np.bool_)):
            return frozenset(own if trained else ())
        return checks.names(name, "trainable", trained, own, expected)

    def _arrays(self, names: tuple[str, ...]) -> dict[str, Array]:
        return {name: array for name in names if (array := getattr(self, name)) is not None}

    def _state(self) -> dict[str, Array]:
        return {**self.parameters(), **self.buffers()}

    def _needs(self) -> tuple[str, ...]:
        """Name the gradients that a backward owes this layer."""
        return ("dx", *(f"d{name}" for name in self.trainable))

    def _accumulate(self, gradients: Any) -> None:
        totals = self.gradients()
        for name in totals:
            totals[name] += getattr(gradients, f"d{name}")

    def _refuse(self, residual: Array | None) -> None:
        if residual is not None:
            name = f"{type(self).__name__}.forward"
            raise checks.wrong_type(name, "residual", residual, "None: this layer adds none")


# What an inference would refuse, and what a cumulative mean would divide by.
_NEVER_NEGATIVE = ("running_var", "num_batches_tracked")


def loaded(function: str, name: str, own: str, given: Any, target: Array) -> Array:
    """Check an entry of a state; return a copy in the shape and type of the array it is for.

    `name` is the entry's, `own` that of the layer's array.
    A copy, because a state may hold this layer's own arrays under other names.
    """
    try:
        value = np.asarray(given)
    except ValueError:
        raise checks.wrong_value(function, name, given, f"shape {target.shape}") from None
    becomes = f"an array of a type that becomes {target.dtype}"
    masked = isinstance(given, np.ma.MaskedArray)
    if masked or not np.can_cast(value.dtype, target.dtype, casting="same_kind"):
        raise checks.wrong_type(function, name, given, becomes)
    if value.shape != target.shape:
        raise checks.wrong_value(function, name, value, f"shape {target.shape}")
    with np.errstate(over="ignore", invalid="ignore"):  # a signalling NaN warns
        copied = value.astype(target.dtype)
    if (np.isfinite(copied) != np.isfinite(value)).any():
        raise checks.wrong_value(function, name, value, f"numbers that {target.dtype} can hold")
    if own in _NEVER_NEGATIVE and (copied < 0).any():
        raise checks.wrong_value(function, name, value, "no negative number")
    return copied
