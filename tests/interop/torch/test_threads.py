"""Calls through PyTorch's doors have as many threads as PyTorch."""

from __future__ import annotations

import pytest
from numba.core import config

import nbnorm
from nbnorm.jit import threads

pytestmark = pytest.mark.peer


@pytest.fixture
def seen(torch, monkeypatch):
    """How many threads each call of a public function may have."""
    from nbnorm.interop.torch import calls, operators, override

    numbers = []

    def noting(function):
        def call(*arguments, **options):
            numbers.append(threads.number())
            return function(*arguments, **options)

        return call

    for module in (calls, operators, override):
        for name in ("batch_norm_forward", "batch_norm_inference", "batch_norm_backward"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, noting(getattr(module, name)))
    before = torch.get_num_threads()
    yield numbers
    torch.set_num_threads(before)


def step(torch, model):
    x = torch.ones(4, 3, 2, 2, requires_grad=True)
    model.train()(x).sum().backward()
    model.eval()(x.detach())


@pytest.mark.parametrize("door", ["convert", "enable"])
@pytest.mark.parametrize("number", [1, 2, 1000])
def test_pytorch_s_number_of_threads_holds(door, number, torch, seen):
    """As far as Numba has so many."""
    import nbnorm.interop.torch as nbt

    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3))
    torch.set_num_threads(number)
    expected = min(torch.get_num_threads(), config.NUMBA_NUM_THREADS)
    if door == "convert":
        step(torch, nbt.convert(model))
    else:
        with nbt.enabled():
            step(torch, model)
    assert len(seen) >= 3
    assert set(seen) == {expected}


def test_nbnorm_s_own_number_goes_before(torch, seen):
    import nbnorm.interop.torch as nbt

    torch.set_num_threads(config.NUMBA_NUM_THREADS)
    with nbnorm.one_thread():
        step(torch, nbt.convert(torch.nn.Sequential(torch.nn.BatchNorm2d(3))))
    assert set(seen) == {1}
