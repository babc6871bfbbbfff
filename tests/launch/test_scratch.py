"""Memory that is lent: never to two at a time, and never less than was asked for."""

from __future__ import annotations

import gc
import signal
import threading
import time

import numpy as np
import pytest

import nbnorm
from nbnorm.launch import scratch as memory

# --- scratch --------------------------------------------------------------------------------


def test_scratch_is_used_again_once_it_is_idle():
    scratch = memory.Scratch()
    first = scratch.take("a", (3,), np.float64)
    address = memory.address(first)
    del first
    assert memory.address(scratch.take("a", (3,), np.float64)) == address


def test_scratch_in_use_is_not_lent_again():
    """Neither to a call within the call, nor to the next one while a result holds it."""
    scratch = memory.Scratch()
    for shape in ((3,), (100_000,)):
        first = scratch.take("a", shape, np.float64)
        second = scratch.take("a", shape, np.float64)
        assert not np.shares_memory(first, second)
        assert second.shape == shape


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers on this system")
@pytest.mark.parametrize("shape", [(8, 16, 8, 8), (64, 40)])
def test_a_call_within_a_call_disturbs_no_result(shape, rng):
    """A handler runs between any two instructions of Python, and calls what it has interrupted."""
    x, dy = rng.standard_normal((2, *shape)).astype(np.float32)
    gamma, other_gamma = rng.standard_normal((2, shape[1]))

    def work():
        y, context = nbnorm.batch_norm_forward(x, gamma)
        gradients = nbnorm.batch_norm_backward(dy, context)
        inferred = nbnorm.batch_norm_inference(x, context.mean, context.var, gamma)
        return np.concatenate([array.ravel() for array in (y, gradients.dx, inferred)])

    handled = []
    ended = False

    def handler(*_):
        y, context = nbnorm.batch_norm_forward(dy, other_gamma)
        nbnorm.batch_norm_backward(x, context)
        nbnorm.batch_norm_inference(dy, context.mean, context.var, other_gamma)
        handled.append(y)
        if len(handled) > 1 and not ended:  # armed when all is done: handlers never pile up
            signal.setitimer(signal.ITIMER_REAL, 1e-4)

    expected = work()
    handler()
    expected_inside = handled[0]
    before = signal.signal(signal.SIGALRM, handler)
    results = []
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-4)
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            results.append(np.array_equal(work(), expected))
    finally:
        ended = True  # a handler that runs now would arm the timer again
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(handled) > 10
    assert all(results)
    assert all(np.array_equal(inside, expected_inside) for inside in handled)


# --- large results --------------------------------------------------------------------------

SIZE = memory.RECYCLED_FROM


def test_memory_of_a_dropped_result_is_used_again():
    recycled = memory.Recycled(limit=10 * SIZE)
    array = recycled.take(SIZE)
    address, view = memory.address(array), array[5:]
    del array
    assert memory.address(recycled.take(SIZE)) != address  # a view is left
    del view
    gc.collect()
    assert memory.address(recycled.take(SIZE)) == address


def test_no_more_is_kept_than_the_limit():
    recycled = memory.Recycled(limit=3 * SIZE)
    arrays = [recycled.take(SIZE) for _ in range(5)]
    del arrays
    assert sum(kept.nbytes for kept in recycled._free.values()) == 3 * SIZE
    assert recycled.clear() == 3 * SIZE
    assert not recycled._free


class Keeps(dict):
    """A dictionary whose reader is interrupted, at its first look, by `interruption`."""

    interruption = None

    def get(self, key, default=None):
        found = super().get(key, default)
        interruption, self.interruption = self.interruption, None
        if interruption is not None:
            interruption()
        return found


def test_taking_within_taking_never_lends_less_than_was_asked_for():
    """Between the choice of a piece and its removal, a finalizer takes or gives back others."""
    recycled = memory.Recycled(limit=100 * SIZE)
    recycled._free = free = Keeps()
    held = []
    for interruption in (
        lambda: held.append(recycled.take(2 * SIZE)),
        lambda: recycled.give_back(np.empty(SIZE, np.uint8)),
        recycled.clear,
    ):
        arrays = [recycled.take(nbytes) for nbytes in (SIZE, 2 * SIZE)]
        del arrays
        free.interruption = interruption
        taken = recycled.take(2 * SIZE)
        assert free.interruption is None
        assert taken.nbytes == 2 * SIZE
        for other in held:
            assert not np.shares_memory(taken, other)
        held.append(taken)


def test_threads_never_share_a_piece():
    recycled = memory.Recycled(limit=4 * SIZE)
    wrong = []

    def task(name: int) -> None:
        for _ in range(50):
            array = recycled.take(SIZE)
            array[::4096] = name
            time.sleep(0)
            if not np.all(array[::4096] == name):
                wrong.append(name)
            del array

    workers = [threading.Thread(target=task, args=(name,)) for name in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []
