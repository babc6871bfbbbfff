"""The sizes of this machine's caches, where its system tells them.

`nbnorm info` shows them. Plans are fitted to constants (launch/machine.py), since the pieces in
which they take sums decide the last bits of these.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

Sizes = dict[int, int]  # bytes of the cache that holds data, by level


def sizes() -> Sizes:
    """The caches of a core, the fastest where cores differ; none where the system does not tell."""
    found: Sizes = {}
    with contextlib.suppress(OSError, ValueError, AttributeError):
        for level, size in _told():
            if size > 0:
                found.setdefault(level, size)
    return dict(sorted(found.items()))


def _told() -> Iterator[tuple[int, int]]:
    if sys.platform == "darwin":
        yield from _by_sysctl()
    elif sys.platform == "win32":
        yield from _by_windows()
    else:
        yield from _by_sysfs()
        yield from _by_sysconf()


def _by_sysfs(folder: str = "/sys/devices/system/cpu/cpu0/cache") -> Iterator[tuple[int, int]]:
    """Linux: ``index2/size`` is "1024K", its level 2 and its type "Unified"."""
    for cache in sorted(Path(folder).glob("index*")):
        with contextlib.suppress(OSError):  # some ARM processors have no sizes there
            names = ("level", "type", "size")
            level, kind, size = ((cache / name).read_text().strip() for name in names)
            if kind != "Instruction":
                yield int(level), int(size.removesuffix("K")) * 1024


def _by_sysconf() -> Iterator[tuple[int, int]]:
    """The C library, which asks the processor: for containers without /sys."""
    names = ("SC_LEVEL1_DCACHE_SIZE", "SC_LEVEL2_CACHE_SIZE", "SC_LEVEL3_CACHE_SIZE")
    for level, name in enumerate(names, start=1):
        if name in os.sysconf_names:
            yield level, os.sysconf(name)


def _by_sysctl() -> Iterator[tuple[int, int]]:
    """macOS: of the performance cores, where there are two kinds."""
    library = ctypes.CDLL(None)
    for prefix in ("hw.perflevel0.", "hw."):
        for level, name in ((1, "l1dcachesize"), (2, "l2cachesize"), (3, "l3cachesize")):
            value, size = ctypes.c_int64(0), ctypes.c_size_t(8)
            failed = library.sysctlbyname(
                f"{prefix}{name}".encode(), ctypes.byref(value), ctypes.byref(size), None, 0
            )
            if not failed:
                yield level, value.value


class _Cache(ctypes.Structure):
    """Windows' CACHE_DESCRIPTOR."""

    _fields_ = (
        ("level", ctypes.c_uint8),
        ("associativity", ctypes.c_uint8),
        ("line", ctypes.c_uint16),
        ("size", ctypes.c_uint32),
        ("kind", ctypes.c_int),
    )


class _Details(ctypes.Union):
    _fields_ = (("cache", _Cache), ("others", ctypes.c_uint64 * 2))


class _Processor(ctypes.Structure):
    """Windows' SYSTEM_LOGICAL_PROCESSOR_INFORMATION."""

    _fields_ = (
        ("mask", ctypes.c_size_t),
        ("relationship", ctypes.c_int),
        ("details", _Details),
    )


_IS_CACHE, _INSTRUCTION = 2, 1


def _by_windows() -> Iterator[tuple[int, int]]:
    ask = ctypes.windll.kernel32.GetLogicalProcessorInformation  # type: ignore[attr-defined]
    length = ctypes.c_uint32(0)
    ask(None, ctypes.byref(length))
    records = (_Processor * (length.value // ctypes.sizeof(_Processor)))()
    if ask(records, ctypes.byref(length)):
        for record in records:
            cache = record.details.cache
            if record.relationship == _IS_CACHE and cache.kind != _INSTRUCTION:
                yield cache.level, cache.size
