"""The long form of test_threads.py: every function in every scenario on every layer, for longer.

Run by `make soak`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.jit.calls import CALLS
from tests.jit.test_threads import (
    LAYERS,
    digest,  # noqa: F401  a fixture
    layer,  # noqa: F401  a fixture
    scenario,
)

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="forks and signals are needed"),
]

EVERY = tuple(CALLS)

# What own_code compiles for each process anew.
FEW = ("batch norm", "dense", "depthwise conv2d")

# Scenarios, and how many seconds a piece of their work lasts at least.
SCENARIOS = {
    "several_threads": 10.0,
    "executors": 3.0,
    "with_joblib": 3.0,
    "own_code": 5.0,
    "pools": 3.0,
    "fork_after_use": 0.0,
    "fork_before_use": 0.0,
    "fork_from_a_thread": 0.0,
    "fork_after_use_by_a_thread": 0.0,
    "fork_while_a_thread_works": 10.0,
    "interrupted": 10.0,
    "daemon_threads_at_the_end": 10.0,
}


def check(records: list[dict[str, Any]], expected: str, tally: Callable[..., None]) -> None:
    for record in records:
        assert record["digest"] == expected, record
        tally("calls made", record["calls"])
        tally("faults injected", record["faults"])


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name, layer, digest, tally):  # noqa: F811
    names = FEW if name == "own_code" else EVERY
    expected = digest(names)
    records = scenario(name, names, seconds=SCENARIOS[name], NUMBA_THREADING_LAYER=layer)
    check(records, expected, tally)
    if name == "daemon_threads_at_the_end":  # it prints nothing
        tally("faults injected", 8)


@pytest.mark.parametrize("threads", [3, 7, 16])
def test_other_numbers_of_threads(threads, layer, digest, tally):  # noqa: F811
    records = scenario(
        "several_threads", EVERY, seconds=5.0, NUMBA_THREADING_LAYER=layer,
        NUMBA_NUM_THREADS=threads,
    )  # fmt: skip
    check(records, digest(EVERY), tally)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_confined_to_one_processor(layer, digest, tally):  # noqa: F811
    for variables in ({"NUMBA_NUM_THREADS": None}, {"NUMBA_NUM_THREADS": 2}):
        records = scenario("confined", EVERY, NUMBA_THREADING_LAYER=layer, **variables)
        check(records, digest(EVERY), tally)
        tally("faults injected")


@pytest.mark.parametrize("absent", [*([name] for name in LAYERS), LAYERS], ids="-".join)
def test_without_layers(absent, digest, tally):  # noqa: F811
    records = scenario("missing", EVERY, seconds=10.0, missing=absent)
    check([record for record in records if "digest" in record], digest(EVERY), tally)
    tally("faults injected", len(absent))


@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
def test_interrupts_while_compiling(digest, tally):  # noqa: F811
    names = ("batch norm inference",)
    for _ in range(10):
        records = scenario("interrupted_while_compiling", names, NBNORM_CACHE=0)
        check(records, digest(names), tally)
