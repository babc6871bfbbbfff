"""What a measurement was made on: it is printed and stored beside every figure."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from benchmarks.tools import isa


def describe() -> dict[str, str | int]:
    """The processor, how many of its cores this process may use, the system and the Python."""
    return {
        "processor": _processor(),
        "cores": _cores(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }


def version(distribution: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def load() -> float:
    """How many cores other work kept busy in the last minute; 0 where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _processor() -> str:
    try:
        first_core = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0]
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    lines = (line.partition(":") for line in first_core.split("\n"))
    fields = {name.strip(): value.strip() for name, _, value in lines}
    flags = fields.get("flags", fields.get("Features", "")).split()
    widest = next((flag for flag in ("avx512f", "avx2", "asimd") if flag in flags), "")
    if held := isa.held():
        widest += f" held to {held}"
    return f"{fields.get('model name', platform.machine())} {widest}".strip()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
