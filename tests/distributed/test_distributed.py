"""Synchronized layers over threads that stand for processes, and what is refused."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from nbnorm.distributed import mpi, synchronized
from nbnorm.layers import BatchNorm, CrossIterationBatchNorm, Dense, Sequential
from tests.distributed import ranks


class Threads:
    """A communicator of each of some threads."""

    def __init__(self, size):
        self.size = size
        self.gathers = [0] * size
        self._barrier = threading.Barrier(size, timeout=60)
        self._given = [None] * size

    def of(self, rank):
        threads = self

        class Communicator:
            def allgather(self, array):
                threads.gathers[rank] += 1
                threads._given[rank] = array.copy()
                threads._barrier.wait()
                gathered = list(threads._given)
                threads._barrier.wait()
                return gathered

        return Communicator()

    def run(self, check):
        errors = []

        def one(rank):
            try:
                check(rank, self.of(rank))
            except BaseException as error:  # noqa: BLE001  to be raised again
                errors.append(error)
                self._barrier.abort()

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        broken = threading.BrokenBarrierError
        for error in sorted(errors, key=lambda error: isinstance(error, broken)):
            raise error


@pytest.mark.parametrize("name", ranks.CHECKS)
def test_three_ranks(name):
    Threads(3).run(ranks.CHECKS[name])


def test_one_gather_each_way():
    threads = Threads(2)

    def step(rank, communicator):
        layer = synchronized(BatchNorm(3, dtype=np.float64), communicator)
        before = threads.gathers[rank]
        layer.backward(layer(np.random.default_rng(rank).normal(size=(4, 3))))
        assert threads.gathers[rank] - before == 2

    threads.run(step)


def test_a_frozen_layer_asks_nobody(rng):
    threads = Threads(1)
    layer = synchronized(BatchNorm(3, dtype=np.float64), threads.of(0)).freeze()
    before = threads.gathers[0]
    layer.backward(layer(rng.normal(size=(4, 3))))
    assert threads.gathers[0] == before


class Broken:
    """A communicator that does not return what it was given."""

    def __init__(self, *returned):
        self.returned = returned

    def allgather(self, array):
        return self.returned


@pytest.mark.parametrize(
    ("layer", "communicator", "error", "message"),
    [
        (3, Threads(1).of(0), TypeError, "layer is 3; expected a Layer"),
        (BatchNorm(3), None, TypeError, r"communicator is None; expected what has an allgather"),
        (Dense(3, 2), Threads(1).of(0), TypeError, "layer is Dense.* expected a BatchNorm, Dense"),
        (Sequential(Dense(3, 2)), Threads(1).of(0), TypeError, "layer is Sequential"),
        (
            CrossIterationBatchNorm(3, window=2),
            Threads(1).of(0),
            TypeError,
            "layer is Cross.* expected batch norms over one",
        ),
        (BatchNorm(3), Broken(np.ones(2)), ValueError, r"rank 0 gave array of .*shape \(2,\)"),
        (BatchNorm(3), Broken("ones"), ValueError, "rank 0 gave 'ones'; expected array"),
    ],
)
def test_refuses(layer, communicator, error, message):
    with pytest.raises(error, match=f"synchronized: {message}"):
        synchronized(layer, communicator)


def test_mpi_needs_mpi4pys_communicator():
    with pytest.raises(TypeError, match="mpi: comm is 3; expected a communicator of mpi4py"):
        mpi(3)
