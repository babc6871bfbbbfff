"""SyncBatchNorm: parts in three processes are PyTorch's batch norm of the whole."""

from __future__ import annotations

import os
from datetime import timedelta

import numpy as np
import pytest

pytest.importorskip("torch")
import torch
import torch.multiprocessing
from torch import nn

from nbnorm.interop.torch import SyncBatchNorm, convert_sync_batchnorm

pytestmark = pytest.mark.peer

EDGES = [4, 4]  # samples of three ranks, none on one


def model():
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Flatten(),
        nn.BatchNorm1d(27, momentum=None),
    )
    return made.double()


def on_rank(rank, store):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=3,
        timeout=timedelta(seconds=60),
    )  # fmt: skip
    whole, part = model(), convert_sync_batchnorm(model())
    assert type(part[1]) is type(part[4]) is SyncBatchNorm
    for step in range(2):
        random = np.random.default_rng(step)
        x = torch.from_numpy(random.normal(1, 2, (7, 2, 5, 5)))
        dy = torch.from_numpy(random.normal(size=(7, 27)))
        mine = torch.from_numpy(np.split(x.numpy(), EDGES)[rank].copy()).requires_grad_()
        whole_y = whole(x.requires_grad_())
        y = part(mine)
        whole_y.backward(dy)
        y.backward(torch.from_numpy(np.split(dy.numpy(), EDGES)[rank].copy()))
        close(y, np.split(whole_y.detach().numpy(), EDGES)[rank])
        close(mine.grad, np.split(x.grad.numpy(), EDGES)[rank])
    for ours, theirs in zip(part.parameters(), whole.parameters(), strict=True):
        torch.distributed.all_reduce(ours.grad)
        close(ours.grad, theirs.grad)
    for ours, theirs in zip(part.buffers(), whole.buffers(), strict=True):
        close(ours, theirs)
    part.eval()
    whole.eval()
    if rank == 0:  # by itself
        close(part(x), whole(x))
    part.train()
    with pytest.raises((RuntimeError, ValueError), match=r"ranks \[1\] failed|expected shape"):
        part[1](torch.ones((2, 2 if rank == 1 else 3, 4), dtype=torch.float64))
    torch.distributed.destroy_process_group()


def close(ours, theirs):
    theirs = torch.as_tensor(theirs).detach().numpy()
    np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=1e-10, atol=1e-11)


@pytest.mark.slow
def test_parts_are_the_whole(tmp_path, monkeypatch):
    if not torch.distributed.is_available():
        pytest.skip("torch has no distributed package here")
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["src", os.environ.get("PYTHONPATH", "")]))
    torch.multiprocessing.spawn(on_rank, (tmp_path / "store",), nprocs=3)


def test_without_a_process_group_it_is_pytorchs(rng):
    theirs = nn.BatchNorm2d(3)
    ours = convert_sync_batchnorm(theirs)
    assert ours.weight is theirs.weight
    x = torch.from_numpy(rng.standard_normal((4, 3, 2, 2), dtype=np.float32))
    assert torch.equal(ours(x), nn.BatchNorm2d(3)(x))
    with pytest.raises(ValueError, match=r"SyncBatchNorm: input is .* two axes or more"):
        ours(x[0, 0, 0])
    with pytest.raises(TypeError, match="convert_sync_batchnorm: module is"):
        convert_sync_batchnorm(3)
