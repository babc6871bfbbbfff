"""NumPy's matmul, and so its BLAS: how long a dense layer takes that does nothing else."""

from __future__ import annotations

import numpy as np

from benchmarks.compare.protocol import Call, Given


class Adapter:
    def __init__(self, threads: int) -> None:
        pass  # its BLAS takes them from the environment

    def dense_forward(self, given: Given) -> Call:
        x, transposed = given["x"], given["weight"].T
        out = np.empty_like(given["dy"]) if given.reuse else None
        return Call(lambda: np.matmul(x, transposed, out=out), lambda z: {"z": z})
