"""Converted models in several processes: workers of a DataLoader, and DistributedDataParallel."""

from __future__ import annotations

import copy
import os
import socket

import numpy as np
import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

import nbnorm
import nbnorm.interop.torch as nbt
from tests.interop.torch.models import assert_same, images, net

pytestmark = pytest.mark.peer


class Normalized(Dataset):
    """Items that a worker normalizes by nbnorm, big enough for parallel kernels."""

    def __init__(self):
        self.x = np.random.default_rng(0).standard_normal((4, 64, 16, 32, 32), np.float32)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return torch.from_numpy(nbnorm.batch_norm_forward(self.x[index])[0])


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_of_a_dataloader(start):
    data = Normalized()
    expected = torch.stack([data[i] for i in range(len(data))])  # the pool of threads runs
    twin = nbt.convert(net(dtype=torch.float32))
    twin(images(dtype=torch.float32)).sum().backward()  # and PyTorch's
    loader = DataLoader(
        data, batch_size=1, num_workers=2, multiprocessing_context=start, timeout=120
    )
    torch.testing.assert_close(torch.cat(list(loader)), expected, rtol=0, atol=0)


def replica(rank, port, queue):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    model = DistributedDataParallel(nbt.convert(net()))
    for step in range(2):
        model.zero_grad()
        x = images(seed=step, shape=(6, 3, 5, 5))[3 * rank : 3 * rank + 3]
        model(x).square().sum().backward()
    queue.put((rank, [p.grad.numpy() for p in model.parameters()]))
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_replicas_have_the_mean_of_their_gradients():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=replica, args=(rank, port, queue)) for rank in range(2)]
    for process in processes:
        process.start()
    found = dict(queue.get(timeout=240) for _ in processes)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    gradients = []
    for rank in range(2):
        model = net()
        for step in range(2):
            model.zero_grad()
            x = images(seed=step, shape=(6, 3, 5, 5))[3 * rank : 3 * rank + 3]
            model(x).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    expected = [(one + other) / 2 for one, other in zip(*gradients, strict=True)]
    for rank in range(2):
        assert_same(map(torch.from_numpy, found[rank]), expected)


def digits_network():
    layers = []
    for c, k, stride in ((1, 16, 1), (16, 32, 2), (32, 32, 1)):
        layers += [nn.Conv2d(c, k, 3, stride, 1, bias=False), nn.BatchNorm2d(k), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


@pytest.mark.slow
def test_training_on_the_digits_gives_the_same_accuracy():
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    x = torch.from_numpy(digits.images[:, None] / 16)
    target = torch.from_numpy(digits.target).long()
    held_out = torch.arange(len(x)) % 5 == 0
    torch.manual_seed(0)
    start = digits_network().double()  # in which both ways stay together
    accuracies = []
    for convert in (lambda model: model, nbt.convert):
        model = convert(copy.deepcopy(start))
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        order = torch.Generator().manual_seed(1)
        xs, ts = x[~held_out], target[~held_out]
        for _ in range(5):
            for chosen in torch.randperm(len(xs), generator=order).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(xs[chosen]), ts[chosen]).backward()
                optimizer.step()
        with torch.no_grad():
            right = model.eval()(x[held_out]).argmax(1) == target[held_out]
        accuracies.append(float(right.float().mean()))
    assert accuracies[0] > 0.94
    assert accuracies[0] == accuracies[1]
