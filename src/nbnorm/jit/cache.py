"""Compiled code on disk, never stale.

Numba's own cache asks whether the file that holds a function has changed, and nothing else: an
edited helper, intrinsic or option in another file leaves the old machine code in use. Here the
folder is named after the content of *every* module that compiled code can come from, those of
``jit`` and ``kernels``, which import nothing else of the package; each entry is named after all
that decides its machine code: function, options, argument types, processor, Numba's settings. A
process whose modules are edited while it runs neither reads nor writes: what it imported is in no
file any more.

An entry carries its own digest, so a truncated or damaged file is compiled again like a missing
one, and entries are moved into place whole, so processes that start together can share a folder.
Folders that no process has used for `KEPT_DAYS` are removed.

An entry is code that is run, and a digest does not say whose. One that another user than this one
or root owns, or that others may write, is compiled anew; folders and entries are made for this user
alone, until `share` opens them to be read.

Environment variables: ``NBNORM_CACHE=0`` turns the cache off; ``NUMBA_CACHE_DIR`` moves it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import re
import shutil
import stat
import sys
import time
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core import config
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

KEPT_DAYS = 30

_PACKAGE = Path(__file__).parent.parent
# An import contract in pyproject.toml keeps every other module out of compiled code.
_COMPILED = ("jit", "kernels")
_DIGEST_BYTES = hashlib.sha256().digest_size

# Numba's settings that change machine code; the processor's are part of the target's own key.
_SETTINGS = (
    "BOUNDSCHECK",
    "DEBUG_NRT",
    "DEBUGINFO_DEFAULT",
    "ENABLE_PROFILING",
    "EXTEND_VARIABLE_LIFETIMES",
    "LLVM_REFPRUNE_PASS",
    "LOOP_VECTORIZE",
    "OPT",
    "SLP_VECTORIZE",
)


# --- the sources ----------------------------------------------------------------------------


def _sources(folder: str) -> dict[str, tuple[int, ...]]:
    """Every module of a folder, with what the file system changes when somebody edits it."""
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                found.update(_sources(entry.path))
            elif entry.name.endswith(".py"):
                status = entry.stat()
                found[entry.path] = (
                    status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino,
                )  # fmt: skip
    return found


def _sources_or_none() -> dict[str, tuple[int, ...]] | None:
    """`_sources` of all compiled code; None if in a zip file, or where it cannot be read."""
    found = {}
    try:
        for folder in _COMPILED:
            found.update(_sources(str(_PACKAGE / folder)))
    except OSError:
        return None
    return found if str(_PACKAGE / "jit" / "cache.py") in found else None


# Noted before any module with compiled code is read: see __init__.py of this folder.
_IMPORTED = _sources_or_none()


def _edited() -> bool:
    return _sources_or_none() != _IMPORTED


# --- the folder -----------------------------------------------------------------------------


class _Problem:
    """What may be wrong with the cache; the first that is gets told."""

    told = False

    def __init__(self, text: str) -> None:
        self._text = text
        self.known = False

    def __call__(self, details: object) -> None:
        self.known = True
        if not _Problem.told:
            _Problem.told = True
            warnings.warn(
                f"{self._text}: {details}. NUMBA_CACHE_DIR names another folder, NBNORM_CACHE=0 "
                "silences this.",
                RuntimeWarning,
                stacklevel=3,
            )


_cannot_keep = _Problem(
    "nbnorm cannot keep compiled code on disk, so that every process will compile anew"
)
_cannot_trust = _Problem(
    "nbnorm compiles anew, because another user may have written what is in its cache"
)


def is_enabled() -> bool:
    """Whether compiled code is to be kept on disk: not under ``NBNORM_CACHE=0``."""
    return os.environ.get("NBNORM_CACHE", "1").lower() not in ("0", "false", "no", "off")


def cache_root() -> Path | None:
    """The folder with a folder for each version of the sources; None if there is no place."""
    if config.CACHE_DIR:
        return Path(config.CACHE_DIR).absolute()
    from platformdirs import user_cache_dir  # here, for its 2 ms: few ask, and none at import

    try:
        root = Path(user_cache_dir("nbnorm", appauthor=False))
    except RuntimeError:  # a user without a home folder
        return None
    return root if root.is_absolute() else None  # older versions answer "~/.cache/nbnorm" then


@functools.cache
def _version() -> str | None:
    """The name of the folder for these sources, this Numba and this Python."""
    if _IMPORTED is None:
        return None
    versions = (sys.version, numba.__version__, llvmlite.__version__, np.__version__)
    digest = hashlib.sha256(repr(versions).encode())
    try:
        for name in sorted(_IMPORTED):
            source = Path(name).read_bytes()
            digest.update(f"{Path(name).relative_to(_PACKAGE).as_posix()} {len(source)}\n".encode())
            digest.update(source)
    except OSError:
        return None
    return f"nbnorm-{digest.hexdigest()[:16]}"


def cache_folder() -> Path | None:
    """Where compiled code is kept, existing or not; None where it cannot or is not to be."""
    root, version = cache_root(), _version()
    if not is_enabled() or root is None or version is None:
        return None
    return root / version


def _usable_folder() -> Path | None:
    """`cache_folder`, for an entry to be read or written now; warns where there is no place."""
    if not is_enabled() or _edited():
        return None
    folder = cache_folder()
    if folder is None:
        reason = "there is no home folder" if cache_root() is None else "its sources are not files"
        _cannot_keep(reason)
    return folder


def _make(folder: Path) -> None:
    """Makes the folder for a version, and those above it where they are missing."""
    root = folder.parent
    for above in reversed(root.parents):
        above.mkdir(0o755, exist_ok=True)
    root.mkdir(0o700, exist_ok=True)
    folder.mkdir(0o700, exist_ok=True)


def share() -> None:
    """Lets every user read what is kept; to be written it remains this user's.

    Other users run it only where this one is root.
    """
    folder = cache_folder()
    if folder is None or not folder.exists():
        return
    for path in (folder.parent, folder, *folder.iterdir()):
        mode = stat.S_IMODE(path.stat().st_mode)
        readable = mode | (0o055 if path.is_dir() else 0o044)
        if mode != readable:
            path.chmod(readable)


def _remove_old(root: Path) -> None:
    oldest = time.time() - KEPT_DAYS * 24 * 3600
    with contextlib.suppress(OSError):
        for folder in root.iterdir():
            if re.fullmatch("nbnorm-[0-9a-f]{16}", folder.name) and folder.stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def _mark_used(folder: Path) -> None:
    with contextlib.suppress(OSError):
        os.utime(folder)


# --- entries --------------------------------------------------------------------------------


class PackageCache(NullCache):
    """The compiled variants of one function on disk, as Numba's dispatchers expect a cache."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        if function.__closure__:
            raise TypeError(f"{function.__qualname__} is a closure: two would share an entry")
        self._name = f"{function.__module__}.{function.__qualname__}"
        self._options = repr(sorted(options.items()))

    @property
    def cache_path(self) -> str | None:
        """The folder, as `Dispatcher.stats` shows it."""
        folder = cache_folder()
        return None if folder is None else str(folder)

    def _file_name(self, end: str) -> str:
        return f"{self._name.rpartition('.')[2]}-{end}.bin"

    def _entry(self, folder: Path, arguments: Any, codegen: Any) -> Path:
        settings = [getattr(config, name, None) for name in _SETTINGS]
        key = (self._name, self._options, str(arguments), codegen.magic_tuple(), settings)
        return folder / self._file_name(hashlib.sha256(repr(key).encode()).hexdigest()[:24])

    def load_overload(self, arguments: Any, target_context: Any) -> Any:
        """The compiled variant for these argument types, or None."""
        folder = _usable_folder()
        if folder is None:
            return None
        target_context.refresh()
        entry = self._entry(folder, arguments, target_context.codegen())
        data = _trusted_content(entry)
        if data is None:
            return None
        digest, payload = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if _digest(entry, payload) != digest:
            return None
        _mark_used(folder)
        return CompileResult._rebuild(target_context, *pickle.loads(payload))

    def save_overload(self, arguments: Any, result: Any) -> None:
        """Keeps a variant for the processes to come; warns once where that is impossible."""
        # Code that holds addresses of this process is of no use to another.
        if _cannot_keep.known or result.library.has_dynamic_globals:
            return
        folder = _usable_folder()
        if folder is None:
            return
        payload = dumps(result._reduce())
        try:
            if not folder.exists():
                _make(folder)
                _remove_old(folder.parent)
            entry = self._entry(folder, arguments, result.codegen)
            _replace(entry, _digest(entry, payload) + payload)
        except OSError as error:
            _cannot_keep(f"{error} in {folder}")

    def flush(self) -> None:
        """Removes all variants, as `Dispatcher.recompile` asks for."""
        folder = _usable_folder()
        if folder is not None:
            for entry in folder.glob(self._file_name("*")):
                with contextlib.suppress(OSError):
                    entry.unlink()


def _digest(entry: Path, payload: bytes) -> bytes:
    """What an entry begins with: its name counts, as a whole file under another's is damage too."""
    return hashlib.sha256(entry.name.encode() + payload).digest()


def _trusted_content(entry: Path) -> bytes | None:
    """What is in an entry; None if there is none, or if others may have written it."""
    try:
        with entry.open("rb") as file:
            # Of the open file, which nobody can exchange between the question and the reading.
            if _may_be_written_by_others(os.fstat(file.fileno())):
                _cannot_trust(entry)
                return None
            return file.read()
    except OSError:
        return None


def _may_be_written_by_others(status: os.stat_result) -> bool:
    if os.name == "nt":  # no owners to ask for: a user's cache folder is his own there
        return False
    return status.st_uid not in (0, os.geteuid()) or bool(status.st_mode & 0o022)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _replace(path: Path, content: bytes) -> None:
    """Writes a file that others see whole or not at all."""
    unfinished = path.with_suffix(f".{uuid.uuid4().hex}")
    try:
        with open(unfinished, "xb", opener=_private) as file:
            file.write(content)
        unfinished.replace(path)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        # Windows replaces no file that is being read: another process has written the entry.
        if not (os.name == "nt" and isinstance(error, PermissionError) and path.is_file()):
            raise
