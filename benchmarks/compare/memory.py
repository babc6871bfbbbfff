"""How much resident memory some calls need beyond what their process holds anyway; Linux only."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compare.protocol import LAST, Call, Given, Unsupported

CALLS = 3  # a step may leave behind what the next one needs anew
RESET_PEAK = "5"  # proc(5): sets VmHWM to the present VmRSS
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def growth(warm_up: Callable[[], Call], prepare: Callable[[], Call]) -> tuple[float, Any]:
    """The peak during some calls minus the memory of the idle process before, in MiB.

    `warm_up` makes a call of the same kind on little data: code is loaded and threads are there
    before it counts. Arrays that `prepare` makes count, results too. Returns what the last
    call gave as well.
    """
    small = warm_up()
    for _ in range(CALLS):
        small.run()
    del small
    gc.collect()
    before = _reset()
    call = prepare()
    result = None
    for _ in range(CALLS):
        del result  # a training loop keeps nothing of the step before
        result = call.run()
    return (_status("VmHWM") - before) / 1024, call.read(result)


def memory_data(given: Given) -> dict[str, Any]:
    """The data of a memory case, made where it is used: sending it would leave copies behind."""
    random = np.random.default_rng(20_240_607)
    n, c, h, w = given["x_shape"]
    in_order = (n, h, w, c) if given.case.layout == LAST else (n, c, h, w)
    x, dy = (random.standard_normal(in_order, dtype=np.float32) for _ in range(2))
    shape = (given["blocks"], *given["weight_shape"])
    weights = random.standard_normal(shape, dtype=np.float32)
    weights /= np.sqrt(np.float32(weights[0, 0].size))
    return {"x": x, "dy": dy, "weights": list(weights)}


def _reset() -> float:
    """Forget the peak so far; the resident memory in KiB."""
    try:
        CLEAR_REFS.write_text(RESET_PEAK)
        return _status("VmRSS")
    except OSError as error:
        raise Unsupported(f"the system does not tell peaks of memory: {error}") from None


def _status(name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", STATUS.read_text())
    assert found is not None
    return float(found[1])
