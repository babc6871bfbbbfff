"""Readers driven with damaged input, for as long as one likes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

QUICK = settings(max_examples=150, suppress_health_check=list(HealthCheck))

# In seconds, for each of six kinds of damage: a minute in all, and an hour.
SHORT, LONG = 10.0, 600.0

Drawn = Sequence[SearchStrategy[Any]]


def drive(check: Callable[..., None], drawn: Drawn, seconds: float) -> int:
    """Calls a check with what is drawn for so long; returns how often."""
    rounds = settings(QUICK, max_examples=500, derandomize=False, database=None)
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        rounds(given(*drawn)(check))()
        count += rounds.max_examples
    return count
