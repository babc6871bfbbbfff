"""Nothing outside its arrays is read or written by any public function: see run.py."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
from numba.core import config

import nbnorm
from nbnorm.operations import OPERATIONS
from tests.bounds import harness

pytestmark = [
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="the pages' protection is written for Linux"
    ),
    pytest.mark.skipif(bool(config.DISABLE_JIT), reason="compiled code is what is tested"),
]

FUNCTIONS = {name for operation in OPERATIONS for name in operation.functions.values()}
METHODS = {"Moments.of"}  # called for what a function takes


def _name(kernel: Any) -> str:
    function = getattr(kernel, "py_func", kernel)  # itself where nothing is compiled
    return f"{function.__module__.rpartition('.')[2]}.{function.__name__}"


# Those that run on one thread or several. One is for results of more than 16,384 numbers whose
# product is deep, which random sizes hardly come to.
_PARALLEL = [name for name in nbnorm.kernels.__all__ if name.endswith("_parallel")]
KERNELS = {
    _name(getattr(nbnorm.kernels, name))
    for parallel in _PARALLEL
    for name in (parallel, parallel.removesuffix("_parallel"))
} - {"gemm.add_products_parallel"}


def check_random_calls(*arguments: str, seconds: float) -> list[harness.Report]:
    """Makes the same calls with arrays at the end and at the beginning of pages.

    One after the other: the first one compiles for both.
    """
    reports = [harness.run(place, *arguments, seconds=seconds) for place in ("end", "begin")]
    for report in reports:
        assert report.functions == FUNCTIONS | METHODS
        assert report.kernels >= KERNELS
    end, begin = (report.digests for report in reports)
    assert end.keys() == begin.keys()
    assert [case for case in end if end[case] != begin[case]] == []
    return reports


@pytest.mark.slow
def test_random_calls_touch_nothing_beside_their_arrays():
    check_random_calls("--few", "--cases", "800", seconds=900)


@pytest.mark.soak
def test_a_great_many_random_calls_touch_nothing_beside_their_arrays(tally):
    for report in check_random_calls("--cases", "10000", "--seed", "1", seconds=3 * 3600):
        tally("calls with arrays against a page without access", report.figures["calls"])


@pytest.mark.parametrize(
    ("sabotage", "place"), [("tail", "end"), ("head", "begin")], ids=["tail", "head"]
)
def test_a_broken_loop_is_found_and_the_call_is_named(sabotage, place):
    with pytest.raises(AssertionError, match="ended with -11") as caught:
        harness.run(place, "--few", "--cases", "300", "--sabotage", sabotage)
    told = str(caught.value)
    assert re.search(r"in the call\n  \w+_norm_(inference|forward)\(x=<float(32|64) ", told)
    assert "again: python -m tests.bounds.run" in told
