"""What every test module may use."""

from __future__ import annotations

import importlib
import os
import warnings
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
    """Import another library to compare with, or skip the test.

    Under NBNORM_REQUIRE_PEERS=1 its absence is an error: a run that promised the comparison must
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
