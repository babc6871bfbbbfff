"""Ratios of two times, which a noisy machine does not disturb; for the asv suites."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from benchmarks.compare.workers import median_of_calls

# Threads of OpenBLAS spin for 26 ms (2^26 cycles) after a product, and take a core from whoever
# comes next: without a pause a dense layer of 0.5 ms measures 1.0 ms.
SPINNING_IS_OVER = 0.1
TURN = 0.02  # seconds of calls

Run = Callable[[], object]


def ratio(call: Run, limit: Run, seconds: float = 0.5) -> float:
    """The median over rounds of the two times' ratio, the two sides taking turns."""
    return _median_ratio(_time, call, limit, seconds)


def ratio_to_blas(call: Run, product: Run, seconds: float = 2) -> float:
    """The same for a limit with threads of its own: they get time to fall asleep."""
    return _median_ratio(_time_after_a_pause, call, product, seconds)


def _median_ratio(seconds_of: Callable[[Run], float], call: Run, limit: Run, total: float) -> float:
    ratios = []
    end = time.perf_counter() + total
    while len(ratios) < 5 or time.perf_counter() < end:
        ratios.append(seconds_of(call) / seconds_of(limit))
    return statistics.median(ratios)


def _time(call: Run) -> float:
    """The time of a call whose arrays its predecessor has just used."""
    call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _time_after_a_pause(call: Run) -> float:
    time.sleep(SPINNING_IS_OVER)
    return median_of_calls(call, TURN)
