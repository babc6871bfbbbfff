"""The number of threads for threadpoolctl, by which programs share processors out.

`threadpoolctl.threadpool_limits` then holds for nbnorm as it does for the threads of NumPy and
PyTorch. It is not imported for that: where nobody has yet, nbnorm registers when somebody does.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_NAME = "threadpoolctl"


def offer(get: Callable[[], int], set_to: Callable[[int], None]) -> None:
    """Lets threadpoolctl, whenever it is imported, get and set a number of threads."""

    def register(threadpoolctl: Any) -> None:
        class Controller(threadpoolctl.LibController):
            user_api = internal_api = "nbnorm"
            # Libraries are found by the names of their files. Numba's threads have none before
            # they are started: the compiler's stands for them, which is loaded with Numba.
            filename_prefixes = ("libllvmlite", "llvmlite")

            def get_num_threads(self) -> int:
                return get()

            def set_num_threads(self, num_threads: int) -> None:
                set_to(num_threads)

            def get_version(self) -> str | None:
                with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                    return importlib.metadata.version("nbnorm")
                return None

        threadpoolctl.register(Controller)

    if _NAME in sys.modules:
        register(sys.modules[_NAME])
    else:
        sys.meta_path.insert(0, _Finder(register))


class _Finder:
    """Finds threadpoolctl as Python does, and has a function called with it once it is imported."""

    def __init__(self, then: Callable[[ModuleType], None]) -> None:
        self._then = then

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == _NAME else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_tell(module: ModuleType) -> None:
            execute(module)
            sys.meta_path.remove(self)
            self._then(module)

        spec.loader.exec_module = execute_and_tell  # type: ignore[method-assign]
        return spec
