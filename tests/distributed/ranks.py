"""What every rank does, in threads, under mpiexec and over gloo; tests are in the files beside.

mpiexec -n 3 python -m tests.distributed.ranks layers|errors|differing|missing
"""

from __future__ import annotations

import os
import sys
import time

import numpy as np

from nbnorm.distributed import mpi, synchronized
from nbnorm.layers import BatchNorm, Conv2dBatchNorm, Dense, DenseBatchNorm, Flatten, Sequential

# Samples of the three ranks: of different numbers, none on one.
EDGES = [4, 4]
SAMPLES = 7
F8 = {"dtype": np.float64}
# Between float64 sums of a hundred terms, in other orders.
ROUNDING = 1e-12


def layers(axis=1):
    """Each kind of layer, with the shape of its input but for the samples."""
    return {
        "BatchNorm": (BatchNorm(3, ddof=1, activation="silu", **F8), (3, 4)),
        "kept axes": (BatchNorm((3, 4), axis=(1, 2), momentum=None, **F8), (3, 4)),
        "DenseBatchNorm": (DenseBatchNorm(4, 3, bias=True, rng=0, **F8), (4,)),
        "Conv2dBatchNorm": (Conv2dBatchNorm(3, 2, 3, padding=1, rng=0, **F8), (3, 5, 4)),
        "Sequential": (
            Sequential(
                Conv2dBatchNorm(3, 2, 3, activation="relu", rng=0, **F8),
                Flatten(),
                Sequential(Dense(12, 5, rng=1, **F8), BatchNorm(5, **F8)),
            ),
            (3, 5, 4),
        ),
    }


def check_layers(rank, communicator):
    """Parts are the whole: outputs, dx, gradients that add up, running statistics bit by bit."""
    alone = layers()
    for name, (layer, shape) in layers().items():
        whole, _ = alone[name]
        assert synchronized(layer, communicator) is layer
        for step in range(2):
            random = np.random.default_rng(step)
            x = random.normal(1, 2, (SAMPLES, *shape))
            y = whole(x)
            dy = random.normal(size=y.shape)
            dx = whole.backward(dy)
            weights = random.uniform(0.5, 2, (SAMPLES, *(1,) * (y.ndim - 1)))
            mine, mine_dy = np.split(x, EDGES)[rank], np.split(dy, EDGES)[rank]
            assert_close(layer(mine), np.split(y, EDGES)[rank])
            assert_close(layer.backward(mine_dy), np.split(dx, EDGES)[rank])
            if not isinstance(layer, Sequential):
                part = np.split(weights, EDGES)[rank]
                expected = np.split(whole(x, sample_weight=weights), EDGES)[rank]
                assert_close(layer(mine, sample_weight=part), expected)
        for parameter, gradient in layer.gradients().items():
            total = sum(communicator.allgather(gradient))
            assert_close(total, whole.gradients()[parameter])
        for buffer, value in layer.buffers().items():
            assert_close(value, whole.buffers()[buffer])
            for other in communicator.allgather(value.astype(np.float64)):
                np.testing.assert_array_equal(other, value)
        before = layer.state_dict()
        layer.eval()(mine)  # by itself: no other rank is asked
        for buffer, value in layer.state_dict().items():
            np.testing.assert_array_equal(value, before[buffer])


def assert_close(actual, expected):
    scale = max(1.0, np.abs(expected).max(initial=0.0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=ROUNDING * scale)


def check_errors(rank, communicator):
    """An error of rank 1 is raised on all, forward and backward; the next step works again."""
    layer = synchronized(BatchNorm(3, **F8), communicator)
    x = np.random.default_rng(rank).normal(size=(4, 3))
    bad = np.ones((4, 2))
    state = layer.state_dict()
    told = message(lambda: layer(bad if rank == 1 else x))
    if rank == 1:
        expected = "array of float64 and shape (4, 2); expected (3,) along axis 1"
        assert told == f"ValueError: BatchNorm.forward: x is {expected}", told
    else:
        expected = "expected all ranks to come this far: see their errors"
        assert told == f"RuntimeError: BatchNorm.forward: ranks [1] failed; {expected}", told
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, state[name])
    layer(x)
    told = message(lambda: layer.backward(bad if rank == 1 else x))
    assert ("ValueError: batch_norm_backward: dy" if rank == 1 else "ranks [1] failed") in told
    assert not any(gradient.any() for gradient in layer.gradients().values())
    layer(x)
    layer.backward(x)
    told = message(lambda: layer(x[:0]))  # no values at all: the same error on all ranks
    assert "moments is Moments(count=0, shape=(3,)); expected Moments of a count above 1" in told


def check_differing(rank, communicator):
    """Ranks whose layers differ are told in what, all of them."""
    for made, expected in (
        (lambda: BatchNorm(3 + rank), "other channels: rank 0 has 3, rank 1 has 4, rank 2 has 5"),
        (lambda: BatchNorm(3, eps=0.5**rank), "of other eps: rank 0 has 1, rank 1 has 0.5, rank 2"),
        (lambda: BatchNorm(3, ddof=rank // 2), "of other ddof: rank 0 has 0, rank 1 has 0, rank 2"),
        (
            lambda: BatchNorm(3, dtype=np.float64 if rank else np.float32),
            "of other type: rank 0 has 4, rank 1 has 8, rank 2 has 8",
        ),
        (
            lambda: Sequential(*[BatchNorm(3) for _ in range(rank + 1)]),
            "of other number of them: rank 0 has 1, rank 1 has 2, rank 2 has 3",
        ),
    ):  # fmt: skip
        layer = made()
        told = message(lambda layer=layer: synchronized(layer, communicator))
        assert told.startswith("ValueError: synchronized: "), told
        assert expected in told, told
        norms = layer if isinstance(layer, Sequential) else [layer]
        assert all(norm.exchange is None for norm in norms)


def message(call):
    """The error that is raised, in words."""
    try:
        call()
    except Exception as error:  # noqa: BLE001  of any kind
        return f"{type(error).__name__}: {error}"
    return "no error"


CHECKS = {"layers": check_layers, "errors": check_errors, "differing": check_differing}


def check_missing(comm):
    """Rank 2 does not come: the others say so, each by itself."""
    if comm.rank == 2:
        time.sleep(8)
    else:
        told = message(lambda: mpi(comm, timeout=0.5).allgather(np.ones(3)))
        print(told, flush=True)
        time.sleep(1)  # so that no rank's end is taken for the job's before the others have spoken
    os._exit(0)  # MPI would wait for the gather to end


def main():
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    if sys.argv[1] == "missing":
        check_missing(comm)
    CHECKS[sys.argv[1]](comm.rank, mpi(comm, timeout=60))
    print(f"rank {comm.rank} is done", flush=True)


if __name__ == "__main__":
    main()
