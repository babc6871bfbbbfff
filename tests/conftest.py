"""What every test module may use."""

from __future__ import annotations

import importlib
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from hypothesis import settings
from numba.core import config

# A first call compiles for seconds, so hypothesis's deadline would measure Numba. In CI the same
# examples every time: a failure there must be found again here.
settings.register_profile("nbnorm", deadline=None, derandomize="CI" in os.environ, print_blob=True)
settings.load_profile("nbnorm")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(2015)


def import_peer(name: str) -> ModuleType:
    """Import another library that a test needs, or skip the test.

    Under NBNORM_REQUIRE_PEERS=1 its absence is an error: a run that promised the test must
    not pass without it.
    """
    if os.environ.get("NBNORM_REQUIRE_PEERS") == "1":
        return importlib.import_module(name)
    return pytest.importorskip(name)


@pytest.fixture(scope="session")
def torch() -> ModuleType:
    return import_peer("torch")


def import_optional_peer(name: str) -> ModuleType:
    """Import a library that CI does not promise, or skip the test; its own warnings are its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


# --- what `make test` leaves to `make test-all` -----------------------------------------------

# To compile takes most of the time of the tests, each kernel for each type and activation anew. The
# quick ones compile for float32, without activation or with a ReLU. In plain NumPy, where nothing
# is compiled, every variant is quick.
QUICK_ACTIVATIONS = (None, "relu")


def _is_variant(item: pytest.Item) -> bool:
    """Whether a test is marked as one, or a parameter, or what it holds, says so."""
    # The examples of docstrings are short, and so float64.
    if item.get_closest_marker("variant") or isinstance(item, pytest.DoctestItem):
        return True
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    for name, value in parameters.items():
        dtype = value if name == "dtype" else getattr(value, "dtype", None)
        activation = value if name == "activation" else getattr(value, "activation", None)
        if dtype in ("float64", np.float64) or activation not in QUICK_ACTIVATIONS:
            return True
    return False


# Workers that compile at the same time compile the same kernels, unless each has families of its
# own. Every other file is a group by itself.
FAMILIES = {
    "conv2d": re.compile("conv2d|conv_"),
    "dense": re.compile("dense|gemm|product|summed"),
    "norms": re.compile("norms|norm_bits|norm_errors|penalties"),
    "batch norm": re.compile("functional|kernels/batch_norm"),
}


def _group_of(item: pytest.Item) -> str:
    file = item.path.relative_to(item.config.rootpath).as_posix()
    return next((name for name, files in FAMILIES.items() if files.search(file)), file)


@pytest.hookimpl(tryfirst=True)  # before tests are deselected by their markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(_group_of(item)))
        if not config.DISABLE_JIT and _is_variant(item):
            item.add_marker("slow")


# --- closing figures ------------------------------------------------------------------------

_tallied: Counter[str] = Counter()


@pytest.fixture
def tally() -> Callable[[str, int], None]:
    """``tally("calls made", n)`` adds to a figure that the run prints when it closes."""

    def add(what: str, count: int = 1) -> None:
        _tallied[what] += count

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _tallied:
        return
    failures = sum(len(terminalreporter.getreports(kind)) for kind in ("failed", "error"))
    terminalreporter.section("closing figures")
    for what, count in sorted(_tallied.items()):
        terminalreporter.write_line(f"{what}: {count:,}")
    terminalreporter.write_line(f"failures: {failures}")
