"""What both kinds of file have in common: paths, lengths, and how much is too much."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TypeAlias

from nbnorm import checks

PathLike: TypeAlias = str | os.PathLike[str]

FUNCTION = "load_network"

# Of one output of one sample, and of all that a file of weights holds: 2 GiB of float32. The
# largest public network has half as many.
MOST_NUMBERS = 1 << 29


def checked_path(name: str, value: PathLike, function: str = FUNCTION) -> Path:
    """Return a path, given as one or as a str."""
    if not isinstance(value, (str, os.PathLike)):
        raise checks.wrong_type(function, name, value, "a path")
    return Path(value)


def length_of(path: Path) -> int:
    """Return how many bytes a file has; a pipe or a device has no length, and might never end."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{FUNCTION}: {str(path)!r} is no regular file; expected one")
    return status.st_size
