"""Nothing outside its arrays is read or written by any public function: see run.py."""

from __future__ import annotations

import re
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

import nbnorm
from tests.bounds import harness

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the pages' protection is written for Linux"
)

FUNCTIONS = {
    name
    for name in nbnorm.__all__
    if name.islower() and callable(getattr(nbnorm, name)) and name != "main"
}

KERNELS = {
    f"{kernel.py_func.__module__.rpartition('.')[2]}.{kernel.py_func.__name__}"
    for kernel in map(nbnorm.kernels.__dict__.get, nbnorm.kernels.__all__)
    if hasattr(kernel, "py_func")
}


def at_both_ends(*arguments: str, seconds: float) -> tuple[harness.Report, harness.Report]:
    """The same calls with arrays at the end and at the beginning of pages."""
    with ThreadPoolExecutor() as threads:
        end, begin = threads.map(
            lambda place: harness.run(place, *arguments, seconds=seconds), ("end", "begin")
        )
    return end, begin


def check(end: harness.Report, begin: harness.Report) -> None:
    """All functions were called, with the same results wherever their arrays lay."""
    for report in (end, begin):
        assert report.functions == FUNCTIONS
    both = end.digests.keys() & begin.digests.keys()
    assert both
    assert [case for case in sorted(both) if end.digests[case] != begin.digests[case]] == []


@pytest.mark.slow
def test_random_calls_touch_nothing_beside_their_arrays():
    check(*at_both_ends("--few", "--cases", "1000", "--seconds", "30", seconds=900))


@pytest.mark.soak
def test_a_great_many_random_calls_touch_nothing_beside_their_arrays(tally):
    reports = at_both_ends("--cases", "20000", "--seed", "1", seconds=3 * 3600)
    check(*reports)
    for report in reports:
        assert report.kernels >= KERNELS
        tally("calls with guarded arrays", report.figures["calls"])


@pytest.mark.parametrize(
    ("sabotage", "place"), [("tail", "end"), ("head", "begin")], ids=["tail", "head"]
)
def test_a_broken_loop_is_found_and_the_call_is_named(sabotage, place):
    with pytest.raises(AssertionError, match="ended with -11") as caught:
        harness.run(place, "--few", "--cases", "300", "--sabotage", sabotage)
    told = str(caught.value)
    assert re.search(r"in the call\n  batch_norm_(inference|forward)\(<float(32|64) ", told)
    assert "again: python -m tests.bounds.run" in told
