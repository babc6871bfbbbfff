"""What can be fused in a traced graph: a product, a norm, a sum and an activation."""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from nbnorm.functional.arguments import Activation
from nbnorm.interop.torch.activations import activation_of_call, activation_of_module
from nbnorm.interop.torch.modules import fused
from nbnorm.interop.torch.norms import (
    PRODUCTS,
    activation_within,
    has_hooks,
    is_norm,
    is_norm_with_activation,
)
from nbnorm.interop.torch.tracing import in_place


class Entry(NamedTuple):
    """What became of one module: what runs as one, or why it was left to PyTorch."""

    path: str
    fused: str
    left: str = ""

    def __str__(self) -> str:
        said = ", ".join(part for part in (self.fused, self.left) if part)
        return f"{self.path or '(the model)'}: {said}"


class Match:
    """A norm in a graph, and what it takes along."""

    def __init__(self, norm: fx.Node) -> None:
        self.chain = [norm]  # product, norm, sum and activation, as far as there are such
        self.norm = norm
        self.product: fx.Node | None = None
        self.sum: fx.Node | None = None
        self.activation: Any = None  # what a function applies, or the path of a module
        self.activation_is_module = False
        self.entry = Entry(str(norm.target), "")

    @property
    def residual(self) -> fx.Node | None:
        """What is added, as the graph is now."""
        if self.sum is None:
            return None
        one, other = _summands(self.sum)
        return other if one is self.norm else one

    def left(self, reason: str) -> Match:
        """The same with nothing of it taken."""
        self.entry = self.entry._replace(left=reason)
        self.chain = []
        return self


class Graph:
    """A traced graph with the modules that it calls."""

    def __init__(self, graph: fx.Graph, root: nn.Module) -> None:
        self.graph = graph
        self.modules = dict(root.named_modules(remove_duplicate=False))
        self.order = {node: place for place, node in enumerate(graph.nodes)}
        # By identity: one module may have several names.
        self.calls = Counter(
            id(self.modules[node.target]) for node in graph.nodes if node.op == "call_module"
        )

    def module(self, node: Any) -> nn.Module | None:
        """The module that a node calls with one tensor; None for any other node."""
        is_call = isinstance(node, fx.Node) and node.op == "call_module"
        if not is_call or len(node.args) != 1 or node.kwargs:
            return None
        return self.modules[node.target]

    def opaque(self) -> list[tuple[str, nn.Module]]:
        """The modules that the graph calls without looking into them, and that have others in."""
        paths = {node.target for node in self.graph.nodes if node.op == "call_module"}
        found = ((str(path), self.modules[path]) for path in paths)
        return [
            (path, module)
            for path, module in found
            if any(True for _ in module.children()) and not is_norm(module)
        ]

    def matches(self) -> list[Match]:
        """Every norm, in the order of the graph; the chain of one that is left alone is empty."""
        found: list[Match] = []
        taken: set[fx.Node] = set()
        for node in self.graph.nodes:
            module = self.module(node)
            if module is not None and is_norm(module):
                found.append(self._match(node, module, taken))
                taken.update(found[-1].chain)
        return found

    def _match(self, node: fx.Node, norm: nn.Module, taken: set[fx.Node]) -> Match:
        match = Match(node)
        if has_hooks(norm):
            return match.left("it has hooks")
        if self.calls[id(norm)] > 1:
            return match.left("it is called more than once")
        if not activation_within(norm)[0]:
            return match.left("its activation is another")
        parts = ["batch norm"]
        before = node.args[0]
        left = self._why_not_before(norm, before)
        if left == "":
            match.product = before
            match.chain.insert(0, before)
            parts.insert(0, "linear" if type(self.module(before)) is nn.Linear else "conv2d")
        if is_norm_with_activation(norm):
            parts += _in_words(activation_within(norm)[1])
        else:
            if self._adds(match, taken):
                parts.append("residual")
            if self._activates(match):
                activation = match.activation
                if match.activation_is_module:
                    activation = activation_of_module(self.modules[activation])
                parts += _in_words(activation)
        match.entry = Entry(str(node.target), " + ".join(parts), left or "")
        return match

    def _why_not_before(self, norm: nn.Module, node: fx.Node) -> str | None:
        """Why the product before a norm stays by itself; None where there is no product."""
        product = self.module(node)
        if product is None or not isinstance(product, (nn.Linear, nn.Conv2d)):
            return None
        expected, _ = PRODUCTS.get(type(product), (None, 0))
        name = f"{node.target} stays by itself:"
        if expected is None or not (type(norm) is expected or is_norm_with_activation(norm)):
            return f"{name} it is a {type(product).__name__} before a {type(norm).__name__}"
        if has_hooks(product):
            return f"{name} it has hooks (weight or spectral norm is one)"
        if self.calls[id(product)] > 1:
            return f"{name} it is called more than once"
        if len(node.users) > 1:
            return f"{name} its output is used more than once"
        if isinstance(product, nn.Conv2d) and product.padding_mode != "zeros":
            return f"{name} its padding is {product.padding_mode!r}"
        if self._changes_in_place([node], next(iter(node.users))):
            return f"{name} something is changed in place behind it"
        return ""

    def _adds(self, match: Match, taken: set[fx.Node]) -> bool:
        """Take the sum along that alone uses the norm's value."""
        user = self._only_user(match)
        if user is None or user in taken:
            return False
        one, other = _summands(user)
        if one is other or not (isinstance(one, fx.Node) and isinstance(other, fx.Node)):
            return False
        if one is not match.norm and _writes(user, None):  # it changes the other's value
            return False
        match.sum = user
        match.chain.append(user)
        return True

    def _activates(self, match: Match) -> bool:
        """Take the activation along that alone uses the value so far."""
        user = self._only_user(match)
        if user is None or not user.args or user.args[0] is not match.chain[-1]:
            return False
        module = self.module(user)
        if module is not None:
            if activation_of_module(module) is None or has_hooks(module):
                return False
            match.activation, match.activation_is_module = user.target, True
        else:
            match.activation = activation_of_call(user)
            if match.activation is None:
                return False
        match.chain.append(user)
        return True

    def _only_user(self, match: Match) -> fx.Node | None:
        """The node that alone uses a match's value, if the match may run where that node is."""
        if len(match.chain[-1].users) != 1:
            return None
        (user,) = match.chain[-1].users
        return None if self._changes_in_place(match.chain, user) else user

    def _changes_in_place(self, chain: list[fx.Node], last: fx.Node) -> bool:
        """Whether a node from the first of a chain to another, not in it, writes over a tensor.

        A fused operation runs where its last node was, and reads its input there.
        """
        nodes = list(self.graph.nodes)[self.order[chain[0]] : self.order[last]]
        return any(
            _writes(node, self.modules.get(str(node.target))) for node in nodes if node not in chain
        )


def _writes(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node may write over a tensor that it is given."""
    if node.op == "call_module":
        return bool(getattr(module, "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    if node.op != "call_function":
        return False
    name = getattr(node.target, "__name__", "")
    written = name.endswith("_") and not name.startswith("_")
    return bool(
        written
        or node.target in (in_place, operator.setitem, setattr)
        or node.kwargs.get("inplace", False)
        or "out" in node.kwargs
    )


def _in_words(activation: Activation) -> list[str]:
    if activation is None:
        return []
    return [activation if isinstance(activation, str) else f"{activation[0]} {activation[1]:g}"]


def _summands(node: fx.Node) -> tuple[Any, Any]:
    """The two things that a node adds; None twice where it is no sum of two."""
    arguments = list(node.args)
    if node.target is in_place and arguments.pop(0) != "iadd":
        return None, None
    functions = (operator.add, torch.add, in_place)
    is_sum = node.target in (("add", "add_") if node.op == "call_method" else functions)
    if not is_sum or len(arguments) != 2 or node.kwargs:
        return None, None
    return arguments[0], arguments[1]


def replace(graph: fx.Graph, match: Match, channels_last: bool | None) -> None:
    """Put one call in the place of a match's nodes."""
    last = match.chain[-1]
    with graph.inserting_before(last):
        norm = graph.get_attr(str(match.norm.target))
        product, activation = None, match.activation
        if match.product is not None:
            product = graph.get_attr(str(match.product.target))
        if match.activation_is_module:
            activation = graph.get_attr(activation)
        call = graph.call_function(
            fused,
            (norm, match.chain[0].args[0], product, match.residual, activation),
            {} if channels_last is None else {"channels_last": channels_last},
        )
    last.replace_all_uses_with(call)
    for node in reversed(match.chain):
        graph.erase_node(node)
