"""What every test module may use."""

from __future__ import annotations

import importlib
import os
import warnings
from collections import Counter
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from hypothesis import settings

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
