"""NumPyNet's files of weights."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from nbnorm import checks
from nbnorm.interop.numpynet.weights import count_of, export_weights, import_flat
from nbnorm.layers import Layer

PathLike: TypeAlias = str | os.PathLike[str]

_VERSION = [1, 0, 0]
# NumPy's int when NumPyNet wrote its files: 8 bytes, but on Windows 4.
_INTEGERS = ("<i8", "<i4")


def save_weights(layer: Layer[Any], path: PathLike) -> None:
    """Write the parameters of layers as NumPyNet writes them.

    Parameters
    ----------
    layer
        As in `export_weights`.
    path : str or path

    Raises
    ------
    ValueError, TypeError
        As `export_weights`; path is no path. Nothing is written then.
    """
    place = _checked_path("save_weights", path)
    flat = export_weights(layer)
    place.write_bytes(np.array(_VERSION, _INTEGERS[0]).tobytes() + flat.astype("<f8").tobytes())


def load_weights(layer: Layer[Any], path: PathLike) -> None:
    """Copy a file of NumPyNet's into the parameters of layers; a wrong one changes nothing.

    Parameters
    ----------
    layer
        As in `export_weights`.
    path : str or path
        Its length is compared with what the layers take before it is read.

    Raises
    ------
    ValueError
        As `import_weights`; the file has another length or version, or is no regular file.
    TypeError
        As `import_weights`; path is no path.
    """
    function = "load_weights"
    place = _checked_path(function, path)
    count = count_of(function, layer)
    status = place.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe has no length, and might never end
        raise ValueError(f"{function}: {str(place)!r} is no regular file; expected one")
    for integer in _INTEGERS:
        head = 3 * np.dtype(integer).itemsize
        if status.st_size == head + 8 * count:
            content = place.read_bytes()
            if np.frombuffer(content[:head], integer).tolist() != _VERSION:
                raise ValueError(
                    f"{function}: {str(place)!r} is of another version; expected 1 0 0"
                )
            return import_flat(function, layer, np.frombuffer(content[head:], "<f8"))
    raise ValueError(
        f"{function}: {str(place)!r} is {status.st_size} bytes long; expected {24 + 8 * count}, of "
        f"a version and {count} numbers"
    )


def _checked_path(function: str, path: Any) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise checks.wrong_type(function, "path", path, "a path")
    return Path(path)
