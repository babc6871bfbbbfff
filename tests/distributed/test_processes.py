"""Synchronized layers over real processes: MPI by mpiexec, gloo by torch's spawn."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from nbnorm.distributed import gloo
from tests.conftest import import_optional_peer
from tests.distributed import ranks

pytestmark = pytest.mark.peer

ROOT = Path(__file__).parents[2]


def mpiexec(*arguments, ranks=3, check=True):
    """What some processes print; each on one thread, since they share the processors."""
    import_optional_peer("mpi4py")
    command = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}")
    assert command, "mpiexec comes with the package mpich"
    environment = {**os.environ, "NUMBA_NUM_THREADS": "1"}
    run = subprocess.run(
        [command, "-n", str(ranks), sys.executable, *arguments],
        check=False, capture_output=True, text=True, timeout=600, env=environment, cwd=ROOT,
    )  # fmt: skip
    if check:
        assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.parametrize("name", ranks.CHECKS)
def test_mpi(name):
    told = mpiexec("-m", "tests.distributed.ranks", name)
    # Lines of several processes may run into each other.
    assert sorted(re.findall(r"rank \d is done", told)) == [f"rank {n} is done" for n in range(3)]


def test_mpi_says_who_is_missing():
    told = mpiexec("-m", "tests.distributed.ranks", "missing", check=False)
    expected = r"TimeoutError: allgather: ranks \[2\] have not come for 0.5 s; expected all 3 ranks"
    assert len(re.findall(expected, told)) == 2, told


def on_gloo(rank, name, store):
    import torch.distributed

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=3,
        timeout=timedelta(seconds=60),
    )  # fmt: skip
    ranks.CHECKS[name](rank, gloo())
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", ranks.CHECKS)
def test_gloo(name, tmp_path, monkeypatch):
    torch = import_optional_peer("torch")
    if not torch.distributed.is_available():
        pytest.skip("torch has no distributed package here")
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["src", os.environ.get("PYTHONPATH", "")]))
    import torch.multiprocessing

    torch.multiprocessing.spawn(on_gloo, (name, tmp_path / "store"), nprocs=3)


def test_gloo_needs_a_process_group():
    import_optional_peer("torch")
    with pytest.raises(ValueError, match="gloo: process_group is None; expected one: call torch"):
        gloo()
