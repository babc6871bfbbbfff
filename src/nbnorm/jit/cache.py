"""Compiled code on disk, never stale.

Numba's own cache asks whether the file that holds a function has changed, and nothing else: an
edited helper, intrinsic or option in another file leaves the old machine code in use. Here the
folder is named after the content of *every* module of the package, and each entry after all that
decides its machine code: function, options, argument types, processor. An entry carries its own
digest, so a truncated or damaged file is compiled again like a missing one, and entries are moved
into place whole, so processes that start together can share a folder.

Environment variables: ``NBNORM_CACHE=0`` turns the cache off; ``NUMBA_CACHE_DIR`` moves it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import tempfile
import warnings
from pathlib import Path
from types import FunctionType
from typing import Any

import numba
from numba.core import config
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps
from numba.misc.appdirs import user_cache_dir

_PACKAGE = Path(__file__).parent.parent
_DIGEST_BYTES = hashlib.sha256().digest_size


@functools.cache
def cache_folder() -> Path | None:
    """Where compiled code is kept: one folder for each version of sources, Numba and Python.

    None where ``NBNORM_CACHE=0``.
    """
    if os.environ.get("NBNORM_CACHE", "1") == "0":
        return None
    digest = hashlib.sha256(f"{numba.__version__} {sys.version}".encode())
    for source in sorted(_PACKAGE.rglob("*.py")):
        digest.update(str(source.relative_to(_PACKAGE)).encode())
        digest.update(source.read_bytes())
    root = Path(config.CACHE_DIR or user_cache_dir("nbnorm", appauthor=False))
    return root / f"nbnorm-{digest.hexdigest()[:16]}"


class PackageCache:
    """The compiled variants of one function on disk, as Numba's dispatchers expect a cache."""

    def __init__(self, function: FunctionType, options: dict[str, Any]) -> None:
        self._name = f"{function.__module__}.{function.__qualname__}"
        self._options = repr(sorted(options.items()))

    @property
    def cache_path(self) -> str | None:
        folder = cache_folder()
        return None if folder is None else str(folder)

    def _entry(self, folder: Path, arguments: Any, codegen: Any) -> Path:
        key = f"{self._name} {self._options} {arguments} {codegen.magic_tuple()}"
        digest = hashlib.sha256(key.encode()).hexdigest()[:24]
        return folder / f"{self._name.rpartition('.')[2]}-{digest}.bin"

    def load_overload(self, arguments: Any, target_context: Any) -> Any:
        """The compiled variant for these argument types, or None."""
        folder = cache_folder()
        if folder is None:
            return None
        target_context.refresh()
        try:
            data = self._entry(folder, arguments, target_context.codegen()).read_bytes()
        except OSError:
            return None
        digest, payload = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if hashlib.sha256(payload).digest() != digest:
            return None
        # Imported here, as Numba does: unpickling is the one part of pickle that is needed.
        import pickle

        return CompileResult._rebuild(target_context, *pickle.loads(payload))

    def save_overload(self, arguments: Any, result: Any) -> None:
        """Keeps a variant for the processes to come; warns once where that is impossible."""
        folder = cache_folder()
        if folder is None or _unwritable:
            return
        payload = dumps(result._reduce())
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
                try:
                    file.write(hashlib.sha256(payload).digest() + payload)
                    file.close()
                    os.replace(file.name, self._entry(folder, arguments, result.codegen))
                except BaseException:
                    os.unlink(file.name)
                    raise
        except OSError as error:
            _unwritable.append(folder)
            warnings.warn(
                f"nbnorm cannot keep compiled code in {folder} ({error}); every process will "
                "compile anew. NUMBA_CACHE_DIR names another folder, NBNORM_CACHE=0 silences this.",
                RuntimeWarning,
                stacklevel=2,
            )


_unwritable: list[Path] = []
