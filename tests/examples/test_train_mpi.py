"""The example over MPI: training in parts is training on the whole."""

from __future__ import annotations

import re

import pytest

from tests.distributed.test_processes import mpiexec


@pytest.mark.peer
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_processes_train_as_one(dtype):
    pytest.importorskip("sklearn")
    told = mpiexec("examples/train_mpi.py", "--dtype", dtype, ranks=4)
    assert "4 processes have the same bits after 50 steps." in told
    apart = float(re.search(r"whole batches is (\S+) off", told)[1])
    if dtype == "float64":  # float32 rounds enough for relu to take other sides
        assert apart < 1e-9
