"""The OpenMP that this process has loaded, and whether Numba's layer shares its threads.

PyTorch and others bring GNU's OpenMP, whose idle threads spin for some milliseconds on processors
that the threads of a second layer want: training steps of ResNets were up to 1.3 times as fast as
PyTorch's on OpenMP's threads, shared with PyTorch, and 0.8 to 1.1 times on TBB's (two Zen 4 cores).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import sys
from collections.abc import Iterator

LIBRARY = "libgomp.so.1.0.0"  # what Numba's layer asks for; slim images have none


def loaded() -> ctypes.CDLL | None:
    """The OpenMP that is loaded and that Numba's layer runs on; None if there is none.

    The loader takes functions from what was loaded for all, as PyTorch loads its OpenMP, or else
    from the library that Numba's layer names. An OpenMP that another package has loaded for itself
    alone is not shared.
    """
    if not sys.platform.startswith("linux"):
        return None
    for_all = ctypes.CDLL(None)
    if hasattr(for_all, "GOMP_parallel"):
        return for_all
    try:
        return ctypes.CDLL(LIBRARY, mode=os.RTLD_NOLOAD)
    except OSError:
        return None


def is_available() -> bool:
    """Whether Numba's layer can be loaded."""
    try:
        importlib.import_module("numba.np.ufunc.omppool")
    except ImportError:
        return False
    return True


@contextlib.contextmanager
def number_kept() -> Iterator[None]:
    """Leaves OpenMP's number of threads as it is, PyTorch's too: a layer that starts sets it."""
    library = loaded()
    if library is None:
        yield
        return
    before = library.omp_get_max_threads()
    try:
        yield
    finally:
        library.omp_set_num_threads(before)
