"""What pytest looks at: not what imports another library where there is none."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

_PROMISED = os.environ.get("NBNORM_REQUIRE_PEERS") == "1"  # then its absence is an error
_NEEDED = {
    "interop/dask": "dask",
    "interop/sklearn": "sklearn",
    "interop/torch": "torch",
}


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Whether a file or folder is left out."""
    for part, library in _NEEDED.items():
        if f"/{part}" in collection_path.as_posix():
            found = importlib.util.find_spec(library) is not None
            return None if found or _PROMISED else True
    return None
