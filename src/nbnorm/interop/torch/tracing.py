"""The graph of a module, where it has one that says all that the module does.

torch.fx alone would give a graph in more cases: it forgets contexts such as `torch.no_grad`, that a
sum was in place, the branches not taken, and what a forward does to the module itself.
"""

from __future__ import annotations

import operator
import random
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from nbnorm.interop.torch.norms import has_hooks, is_norm_with_activation


def traced(module: nn.Module) -> tuple[fx.Graph | None, str | None]:
    """A module's graph, or why it has none that holds in training and in evaluation.

    What tracing itself changes (counters that a forward keeps, constants that it makes) is undone,
    and such a graph is not used, nor that of a forward that draws random numbers.
    """
    if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        return None, None
    before = [(m, dict(m.__dict__)) for m in module.modules()]
    flags = [(m, m.training) for m in module.modules()]
    chances = _random_states()
    graphs = []
    try:
        for mode in (True, False):
            module.train(mode)
            graphs.append(_Tracer().trace(module))
    except Exception as error:  # noqa: BLE001  whatever the model's code makes of a proxy
        return None, f"{type(error).__name__}: {error}".splitlines()[0]
    finally:
        for m, training in flags:
            m.training = training
        changed = [m for m, state in before if _restored(m, state)]
        drawn = _random_states() != chances
    if changed:
        return None, f"{type(changed[0]).__name__}.forward changes the module"
    if drawn:
        return None, "its forward draws random numbers"
    if str(graphs[0]) != str(graphs[1]):
        return None, "its graph is another in evaluation"
    return graphs[0], None


class _Tracer(fx.Tracer):
    """Looks into all modules but PyTorch's own, norms with activations and those with hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.around = _contexts()

    def create_node(self, *arguments: Any, **options: Any) -> fx.Node:
        """Note one call of the graph, which would forget the context it is made in."""
        if _contexts() != self.around:
            raise RuntimeError("parts run under checkpoint, no_grad, autocast or the like")
        return super().create_node(*arguments, **options)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        leaf = super().is_leaf_module(m, module_qualified_name)
        return leaf or is_norm_with_activation(m) or has_hooks(m)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """What a forward is given in the place of a value."""
        return _Proxy(node, self)


class _Proxy(fx.Proxy):
    """Keeps in mind that `x += y` changes x; fx has `x = x + y`."""


def in_place(name: str, one: Any, other: Any) -> Any:
    """An assignment such as `one += other`, by the name that the operator module has for it."""
    return getattr(operator, name)(one, other)


def _assigning(name: str) -> Any:
    def assign(self: fx.Proxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", in_place, (name, self, other), {})

    return assign


_ASSIGNED = (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor",
)  # fmt: skip
for _name in _ASSIGNED:
    setattr(_Proxy, f"__i{_name}__", _assigning(f"i{_name}"))


def _contexts() -> tuple[Any, ...]:
    """The contexts of PyTorch that change what a call does."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch._C._autograd._top_saved_tensors_default_hooks(False),  # noqa: SLF001
    )


def _restored(module: nn.Module, state: dict[str, Any]) -> bool:
    """Whether a module's attributes had to be set back."""
    now = module.__dict__
    if now.keys() == state.keys() and all(now[name] is state[name] for name in state):
        return False
    now.clear()
    now.update(state)
    return True


def _random_states() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state()  # noqa: NPY002  what models may draw from
    return random.getstate(), name, tuple(keys), *rest, tuple(torch.get_rng_state().tolist())
