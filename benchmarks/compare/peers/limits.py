"""How fast this machine moves the bytes: a copy of x, and `a + b -> c`.

Two ways are offered, NumPy's on one thread and PyTorch's on all of them where it is installed; the
faster is the limit, decided once for each case by a short race when it is prepared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.compare.protocol import Call, Given
from benchmarks.compare.timing import median_of_calls

RACE_SECONDS = 0.02


class Adapter:
    def __init__(self, threads: int) -> None:
        try:
            import torch
        except ImportError:
            self.torch = None
        else:
            torch.set_num_threads(threads)
            self.torch = torch

    def memory_copy(self, given: Given) -> Call:
        x, y = given["x"], np.empty_like(given["x"])
        ways = [lambda: np.copyto(y, x)]
        if self.torch:
            source, target = self.torch.from_numpy(x), self.torch.from_numpy(y)
            ways.append(lambda: target.copy_(source))
        return Call(_faster(ways), lambda _: {"result": y})

    def memory_add(self, given: Given) -> Call:
        a, b, c = given["x"], given["dy"], np.empty_like(given["x"])
        ways: list[Callable[[], Any]] = [lambda: np.add(a, b, out=c)]
        if self.torch:
            first, second, out = (self.torch.from_numpy(v) for v in (a, b, c))
            ways.append(lambda: self.torch.add(first, second, out=out))
        return Call(_faster(ways), lambda _: {"result": c})


def _faster(ways: list[Callable[[], Any]]) -> Callable[[], Any]:
    return min(ways, key=lambda way: median_of_calls(way, RACE_SECONDS))
