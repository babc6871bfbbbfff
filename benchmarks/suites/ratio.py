"""Ratios of two times, which a noisy machine does not disturb; for the asv suites.

Both sides run on one thread: where another process takes a core, two threads lose half their speed
and a copy nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

Run = Callable[[], object]

FEWEST_ROUNDS = 5


def on_one_thread() -> None:
    """Holds this process to one thread, for good: before its calls are prepared."""
    import numba
    import threadpoolctl

    numba.set_num_threads(1)
    threadpoolctl.threadpool_limits(1)  # NumPy's matmul


def ratio(call: Run, limit: Run, seconds: float = 1.0) -> float:
    """The median over rounds of the two times' ratio, the two sides taking turns."""
    ratios: list[float] = []
    end = time.perf_counter() + seconds
    while len(ratios) < FEWEST_ROUNDS or time.perf_counter() < end:
        ratios.append(_time(call) / _time(limit))
    return statistics.median(ratios)


def _time(call: Run) -> float:
    """The time of a call whose arrays its predecessor has just used."""
    call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
