"""Models whose convolutions, linear layers, norms and activations run fused on nbnorm."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from torch import fx, nn

from nbnorm import checks
from nbnorm.interop.torch.layouts import finish_in_order, may_be_channels_last
from nbnorm.interop.torch.modules import TWINS
from nbnorm.interop.torch.norms import is_norm, is_norm_with_activation
from nbnorm.interop.torch.patterns import Entry, Graph, replace
from nbnorm.interop.torch.tracing import traced

_REPORT, _OPTIONS = "_nbnorm_report", "_nbnorm_options"


def convert(
    model: nn.Module,
    *,
    fuse: bool = True,
    inplace: bool = False,
    channels_last: bool | None = None,
) -> nn.Module:
    """A twin of a model that runs on nbnorm.

    Where torch.fx can trace the model, or a part of it, a Conv2d before a BatchNorm2d, a Linear
    before a BatchNorm1d, the norm, a sum with one other tensor and an activation run as one
    operation; elsewhere each norm runs by itself. `report` says what became of each.

    The twin has the same parameters and buffers, the same objects under the same names, and its own
    flags for training and evaluation. Its graph is that of the moment: code in `forward` that
    depends on more than the modules and tensors, such as an attribute that is changed later, is
    not run again.

    Parameters
    ----------
    model : torch.nn.Module
    fuse : bool
        False runs the norms alone on nbnorm, and everything else as before.
    inplace : bool
        Convert the model itself.
    channels_last : bool, optional
        The memory order of images inside: True and False turn what comes in another order. By
        default channels come last where nothing in the graph can tell, and outputs are given back
        as PyTorch would; otherwise images stay as they come.

    Returns
    -------
    torch.nn.Module
        Of a class derived from the model's.

    Raises
    ------
    TypeError
        model is no module.
    """
    if not isinstance(model, nn.Module):
        raise checks.wrong_type("convert", "model", model, "a torch.nn.Module")
    twin = model if inplace else _copied(model, {})
    if isinstance(twin, Converted):
        twin = revert(twin)
    entries: list[Entry] = []
    changes: list[Callable[[], None]] = []
    _plan(twin, "", (bool(fuse), channels_last), entries, changes)
    for change in changes:  # none of which can fail: a model is never half converted
        change()
    twin.__dict__[_REPORT] = entries
    return twin


def revert(model: nn.Module) -> nn.Module:
    """The model as PyTorch runs it, with the same parameters and buffers."""
    if not isinstance(model, nn.Module):
        raise checks.wrong_type("revert", "model", model, "a torch.nn.Module")
    plain = _copied(model, {})
    for module in plain.modules():
        module.__class__ = _class_before(type(module))
        module.__dict__.pop(_REPORT, None)
        module.__dict__.pop(_OPTIONS, None)
    return plain


def report(model: nn.Module) -> list[Entry]:
    """What `convert` made of each norm of a model, or would make; it prints as a line each."""
    entries = model.__dict__.get(_REPORT)
    return list(report(convert(model)) if entries is None else entries)


# --- planning -------------------------------------------------------------------------------


def _plan(
    module: nn.Module,
    path: str,
    options: tuple[bool, bool | None],
    entries: list[Entry],
    changes: list[Callable[[], None]],
) -> None:
    """Note what is to become of a module and those in it."""
    fuse, channels_last = options
    if type(module) in TWINS:
        _plan_norm(module, path, entries, changes)
        return
    if not any(map(is_norm, module.modules())):
        return
    graph = reason = None
    if fuse:
        graph, reason = traced(module)
    inner: Iterable[tuple[str, nn.Module]] = module.named_children()
    if graph is None:
        if reason is not None:
            entries.append(Entry(path, "", f"not traced: {reason}"))
        if is_norm_with_activation(module):
            entries.append(Entry(path, "", "in a model that is not traced"))
            return
    else:
        found = Graph(graph, module)
        inner, matches = found.opaque(), found.matches()
        if channels_last is None and may_be_channels_last(found):
            finish_in_order(graph)
            channels_last = True
        for match in matches:
            entry = match.entry
            entries.append(entry._replace(path=_joined(path, entry.path)))
            if match.chain:
                replace(graph, match, channels_last)
        changes.append(_becoming(module, graph, options))
    for name, child in inner:
        _plan(child, _joined(path, name), options, entries, changes)


def _plan_norm(
    norm: nn.Module, path: str, entries: list[Entry], changes: list[Callable[[], None]]
) -> None:
    if "forward" in norm.__dict__:
        entries.append(Entry(path, "", "its forward was replaced"))
        return
    entries.append(Entry(path, "batch norm"))

    def become() -> None:
        norm.__class__ = TWINS.get(type(norm), type(norm))  # a shared one comes twice

    changes.append(become)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


# --- classes --------------------------------------------------------------------------------


class Converted:
    """A module that runs a graph of fused operations in the place of its class's forward.

    It is pickled and copied as the module it was, and converted again.
    """

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _converted_again, (revert(self), self.__dict__[_OPTIONS])


def _converted_again(model: nn.Module, options: tuple[bool, bool | None]) -> nn.Module:
    return convert(model, fuse=options[0], inplace=True, channels_last=options[1])


def _becoming(
    module: nn.Module, graph: fx.Graph, options: tuple[bool, bool | None]
) -> Callable[[], None]:
    forward = type(fx.GraphModule(module, graph)).forward
    kind = type(module)
    names = {"forward": forward, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    converted = type(kind.__name__, (Converted, kind), names)

    def become() -> None:
        module.__class__ = converted
        module.__dict__[_OPTIONS] = options

    return become


def _class_before(kind: type[nn.Module]) -> type[nn.Module]:
    if issubclass(kind, Converted):
        return kind.__mro__[2]
    return next((norm for norm, twin in TWINS.items() if twin is kind), kind)


def _copied(module: nn.Module, known: dict[int, nn.Module]) -> nn.Module:
    """A module with the same parameters and buffers, and modules of its own within.

    The dicts that hold parameters and buffers are shared: a buffer that `Module.to` replaces is
    then replaced for both.
    """
    if id(module) in known:
        return known[id(module)]
    kind = type(module)
    known[id(module)] = new = object.__new__(kind)
    for name, value in module.__dict__.items():
        own = type(value) in (dict, OrderedDict, set) and name not in ("_parameters", "_buffers")
        new.__dict__[name] = value.copy() if own else value
    new.__dict__["_modules"] = {
        name: None if child is None else _copied(child, known)
        for name, child in module._modules.items()  # noqa: SLF001
    }
    return new
