"""Packages that import a module of theirs when a name from it is first asked for.

Numba's decorators take time for every kernel, and nobody uses all of them. For type checkers and
editors such a package has an `__init__.pyi`, which can serve as its list of names too.

Modules of this library import each other by their own names, never a lazy one: a thread that asks
for a name holds `importing` while it waits for a module, so a module that waited for `importing`
while it is being imported would wait for ever.
"""

from __future__ import annotations

import importlib
import sys
from _thread import RLock  # threading's own, without the 2 ms of importing threading

from nbnorm.forks import hold_while_forking

TYPE_CHECKING = False  # as type checkers take it, without the 4 ms of importing typing
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

# A child would wait for ever for a module that another thread, which it has no more, was importing.
importing = hold_while_forking(RLock())


def lazy_names(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package.

    `homes` tells for each name where it is defined: ``module:name``, or ``module`` alone for a
    module.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, attribute = homes[name].partition(":")
        with importing:
            value = importlib.import_module(module)
            if attribute:
                value = getattr(value, attribute)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return get, names


def names_in_stub(package: str) -> dict[str, str]:
    """The names that a package's `__init__.pyi` imports, and where each is defined."""
    # Here, for `import nbnorm` has no use for them and takes less time than they do.
    import ast
    import pkgutil

    stub = pkgutil.get_data(package, "__init__.pyi")  # which a zip file may hold, too
    assert stub is not None
    return {
        alias.asname or alias.name: f"{node.module}:{alias.name}"
        for node in ast.parse(stub).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
