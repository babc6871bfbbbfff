"""How a call is timed: one turn's median, after a warm-up."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

WARM_UP = 0.005  # seconds of calls before the clock counts
LEAST_CALLS = 3
SLOW = 1.0  # seconds; a longer call is a turn, and needs no warm-up: XLA has some of 12 seconds


def median_of_calls(run: Callable[[], Any], seconds: float) -> float:
    """Call for about so many seconds, three times at least, after a warm-up that is not counted.

    Of a call that takes longer than `SLOW` there is only one.
    """
    clock, times = time.perf_counter, []
    warm = clock() + WARM_UP  # threads wake, and caches forget the library that went before
    while True:
        start = clock()
        result = run()
        end = clock()
        del result
        if end - start > SLOW:
            return end - start
        if end >= warm:
            break
    end = clock() + seconds
    while len(times) < LEAST_CALLS or clock() < end:
        start = clock()
        result = run()
        times.append(clock() - start)
        del result  # given back here, outside the clock
    return statistics.median(times)
