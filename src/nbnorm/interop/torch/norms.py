"""Which modules nbnorm can stand in for, by exact type: a subclass may compute anything."""

from __future__ import annotations

from typing import Any

from torch import nn

from nbnorm.functional.arguments import Activation
from nbnorm.interop.torch.activations import activation_of_module

# The norms, and how many axes the input of each may have.
RANKS: dict[type[nn.Module], tuple[int, ...]] = {
    nn.BatchNorm1d: (2, 3),
    nn.BatchNorm2d: (4,),
    nn.BatchNorm3d: (5,),
}
# The product that may come before a norm, and the rank that it is given.
PRODUCTS: dict[type[nn.Module], tuple[type[nn.Module], int]] = {
    nn.Linear: (nn.BatchNorm1d, 2),
    nn.Conv2d: (nn.BatchNorm2d, 4),
}

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody listens to a module's calls, or has put another forward in its place."""
    state = module.__dict__
    return any(state[hooks] for hooks in _HOOKS) or "forward" in state


def is_norm_with_activation(module: nn.Module) -> bool:
    """Whether a module is timm's batch norm that applies an activation (timm is not imported)."""
    kind = type(module)
    return kind.__qualname__ == "BatchNormAct2d" and kind.__module__.startswith("timm.layers.")


def is_norm(module: nn.Module) -> bool:
    """Whether nbnorm can run a module as a batch norm."""
    return type(module) in RANKS or is_norm_with_activation(module)


def activation_within(norm: Any) -> tuple[bool, Activation]:
    """The activation that a norm applies by itself; False where nbnorm has none such."""
    if not is_norm_with_activation(norm):
        return True, None
    if type(norm.drop) is not nn.Identity or has_hooks(norm.act):
        return False, None
    if type(norm.act) is nn.Identity:
        return True, None
    found = activation_of_module(norm.act)
    return found is not None, found
