"""What pytest looks at: not what imports PyTorch where there is none."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

_PROMISED = os.environ.get("NBNORM_REQUIRE_PEERS") == "1"  # then its absence is an error


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Whether a file or folder is left out."""
    needs_torch = "/interop/torch" in collection_path.as_posix()
    has_torch = importlib.util.find_spec("torch") is not None
    return True if needs_torch and not (has_torch or _PROMISED) else None
