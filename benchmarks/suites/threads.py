"""The asv suite of scaling: the same calls on one thread, on two and so on.

As many as NUMBA_NUM_THREADS allows; `asv.conf.json` fixes it.
"""

from __future__ import annotations

from . import batch_norm, conv2d_batch_norm, dense_batch_norm
from .calls import Calls, Directions
from .ratio import ratio

THREADS = [1, 2, 4]


def calls_of(operation: str) -> Calls:
    kind, shape, *layout = operation.split(", ")
    if kind == "batch norm":
        return batch_norm.function_calls(shape, *layout)
    if kind == "dense":
        return dense_batch_norm.fused_calls(shape)
    return conv2d_batch_norm.fused_calls(shape, *layout)


OPERATIONS = [
    "batch norm, 32x256x14x14, channels-first",
    "batch norm, 32x256x14x14, channels-last",
    "dense, 1024x1024x1024",
    "conv2d, 3x3 4x64x56, channels-first",
]


class Scaling(Directions):
    """Times by the number of threads."""

    params = (OPERATIONS, THREADS)
    param_names = ("operation", "threads")

    def prepare(self, operation: str, threads: int) -> Calls:
        import numba

        if threads > numba.config.NUMBA_NUM_THREADS:
            raise NotImplementedError("NUMBA_NUM_THREADS is less")
        numba.set_num_threads(threads)
        return calls_of(operation)


class Speedup:
    """The time on one thread over that on all of them, forward and backward."""

    params = (OPERATIONS,)
    param_names = ("operation",)
    unit = "times faster"

    def setup(self, operation: str) -> None:
        self.calls = calls_of(operation)

    def track_speedup(self, operation: str) -> float:
        from nbnorm.jit.threads import one_thread

        def on_all() -> None:
            self.calls.forward()
            self.calls.backward()

        def on_one() -> None:
            with one_thread():
                on_all()

        on_one()  # compiles, as setup has for all threads
        return ratio(on_one, on_all)
