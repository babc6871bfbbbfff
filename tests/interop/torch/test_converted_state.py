"""Converted models: their state, their training, and what they say to bad input."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import nbnorm.interop.torch as nbt
from tests.interop.torch.models import assert_same, images, net, results

pytestmark = pytest.mark.peer


def fusions(model):
    return {entry.path: entry.fused for entry in nbt.report(model)}


def taken():
    return sum(nbt.status().taken.values())


# --- state ----------------------------------------------------------------------------------


def test_parameters_are_the_same_objects_under_the_same_names():
    model = net()
    twin = nbt.convert(model)
    assert [n for n, _ in twin.named_modules()] == [n for n, _ in model.named_modules()]
    for ours, theirs in (
        (twin.named_parameters(), model.named_parameters()),
        (twin.named_buffers(), model.named_buffers()),
    ):
        assert [(n, id(t)) for n, t in ours] == [(n, id(t)) for n, t in theirs]
    assert isinstance(twin, type(model))
    other = net(seed=5)
    twin.load_state_dict(other.state_dict())
    assert_same([model.eval()(images())], [other.eval()(images())])
    model.load_state_dict(net(seed=6).state_dict())
    other.load_state_dict(twin.state_dict())
    assert_same([twin.eval()(images())], [other(images())])


def test_the_model_stays_as_it_is():
    model = net()
    kinds = [type(m) for m in model.modules()]
    attributes = [dict(m.__dict__) for m in model.modules()]
    twin = nbt.convert(model)
    twin.eval()
    assert model.training
    assert [type(m) for m in model.modules()] == kinds
    assert [m.__dict__.keys() for m in model.modules()] == [a.keys() for a in attributes]
    before = taken()
    model(images())
    assert taken() == before


def test_inplace_and_revert():
    model = net()
    expected = results(copy.deepcopy(model), images())
    same = nbt.convert(model, inplace=True)
    assert same is model
    assert_same(results(model, images()), expected)
    plain = nbt.revert(model)
    assert [type(m) for m in plain.modules()] == [type(m) for m in net().modules()]
    assert all(p is q for p, q in zip(plain.parameters(), model.parameters(), strict=True))
    before = taken()
    plain(images())
    assert taken() == before


def test_converting_twice():
    twin = nbt.convert(nbt.convert(net()))
    assert fusions(twin) == fusions(net())
    assert_same(results(twin, images()), results(net(), images()))
    model = net()
    nbt.convert(nbt.convert(model, inplace=True), inplace=True)
    assert_same(results(model, images()), results(net(), images()))


def copies(twin):
    file = io.BytesIO()
    torch.save(twin, file)
    file.seek(0)
    return [
        copy.deepcopy(twin),
        copy.copy(twin),
        pickle.loads(pickle.dumps(twin)),
        torch.load(file, weights_only=False),
    ]


def test_copies_and_pickles_are_converted_too():
    twin = nbt.convert(net()).eval()
    twin.blocks[0].train()
    twin.blocks[1].conv1.weight.requires_grad_(False)
    for other in copies(twin):
        assert type(other).__qualname__ == "Net"
        assert not other.training
        assert other.blocks[0].training
        assert not other.blocks[1].conv1.weight.requires_grad
        assert fusions(other) == fusions(twin)
        before = taken()
        with torch.no_grad():
            other(images())
        assert taken() > before


def test_a_head_that_is_replaced_goes_with_the_model():
    twin = nbt.convert(net())
    twin.fc = nn.Linear(4, 2, dtype=torch.float64)
    twin.bn = nn.BatchNorm1d(2, dtype=torch.float64)
    plain = nbt.revert(twin)
    for other in (twin, copy.deepcopy(twin)):
        assert_same(results(other.eval(), images()), results(plain.eval(), images()))


def test_types_and_devices_change_for_both():
    model = net()
    twin = nbt.convert(model)
    model.float()
    before = taken()
    assert twin(images(dtype=torch.float32)).dtype is torch.float32
    assert taken() > before


def test_a_model_of_another_type_runs_as_pytorchs():
    model = net(dtype=torch.bfloat16)
    twin = nbt.convert(copy.deepcopy(model))
    x = images(dtype=torch.bfloat16)
    torch.testing.assert_close(twin(x), model(x))
    meta = nbt.convert(copy.deepcopy(model).to("meta"))
    assert meta(x.to("meta")).is_meta


def test_autocast_is_pytorchs():
    model = net(dtype=torch.float32)
    twin = nbt.convert(copy.deepcopy(model))
    before = nbt.status().left.get("autocast", 0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(
            twin(images(dtype=torch.float32)), model(images(dtype=torch.float32))
        )
    assert nbt.status().left["autocast"] > before


# --- training -------------------------------------------------------------------------------


def test_partial_freezing():
    model = net()
    twin = nbt.convert(copy.deepcopy(model))
    for one in (model, twin):
        for name, parameter in one.named_parameters():
            parameter.requires_grad_("bn" in name or "downsample" in name)
        one.blocks[0].bn1.eval()
    assert_same(results(twin, images()), results(model, images()))


def test_optimizers_go_on():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    plain = copy.deepcopy(model)
    other = torch.optim.SGD(plain.parameters(), 0.05, momentum=0.9)
    for step in range(4):
        if step == 1:
            model = nbt.convert(model)
        for one, its in ((model, optimizer), (plain, other)):
            its.zero_grad()
            one(images(seed=step)).square().sum().backward()
            its.step()
    assert_same(model.state_dict().values(), plain.state_dict().values(), 1e-8)


def test_moving_averages_of_weights():
    """They are written through `.data`, which no version counts."""
    twin = nbt.convert(net())
    averaged = AveragedModel(twin)
    with torch.no_grad():
        averaged.eval()(images())
        for parameter in averaged.module.parameters():
            parameter.data.copy_(torch.rand_like(parameter))
        plain = nbt.revert(averaged.module)
        assert_same([averaged(images())], [plain(images())])


@pytest.mark.parametrize("training", [True, False])
def test_derivatives(training):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 2, 2), nn.BatchNorm2d(2), nn.SiLU()).double()
    twin = nbt.convert(model).train(training)
    x = images(shape=(2, 2, 3, 3)).requires_grad_()
    names = [name for name, _ in twin.named_parameters()]

    def call(x, *parameters):
        with torch.no_grad():
            for buffer, value in zip(model.buffers(), kept, strict=True):
                buffer.copy_(value)
        return torch.func.functional_call(twin, dict(zip(names, parameters, strict=True)), (x,))

    kept = [buffer.clone() for buffer in model.buffers()]
    inputs = (x, *(p.detach().clone().requires_grad_() for p in twin.parameters()))
    before = taken()
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)
    assert taken() > before


def test_a_residual_that_is_the_input_has_two_gradients():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn = nn.BatchNorm2d(2)

        def forward(self, x):
            return torch.tanh(self.bn(x) + x)

    twin = nbt.convert(Residual().double())
    assert fusions(twin) == {"bn": "batch norm + residual + tanh"}
    x = images(shape=(2, 2, 2, 2)).requires_grad_()
    assert torch.autograd.gradcheck(twin, x)
    assert torch.autograd.gradgradcheck(twin, x)


def test_third_derivatives():
    """PyTorch's own take the saved mean for a constant; these are those of the elementary norm."""
    twin = nbt.convert(nn.BatchNorm1d(1, affine=False, track_running_stats=False, eps=0.5))
    x = images(shape=(4, 1)).requires_grad_()

    def elementary(x):
        return (x - x.mean()) / (x.var(correction=0) + 0.5).sqrt()

    found = []
    for norm in (twin, elementary):
        value = norm(x).pow(3).sum()
        for _ in range(3):
            (gradient,) = torch.autograd.grad(value, x, create_graph=True)
            value = gradient.sin().sum()
        found.append(gradient)
    torch.testing.assert_close(*found)


def test_a_parameter_changed_in_place_is_noticed():
    twin = nbt.convert(net())
    y = twin(images())
    with torch.no_grad():
        twin.blocks[0].conv1.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_transforms_of_torch_func_are_pytorchs():
    model = net()
    twin = nbt.convert(copy.deepcopy(model))
    ours, theirs = (
        torch.func.grad(lambda x, one=one: one.eval()(x).square().sum())(images())
        for one in (twin, model)
    )
    torch.testing.assert_close(ours, theirs)
    _, ours = torch.func.jvp(twin, (images(),), (images(seed=2),))
    _, theirs = torch.func.jvp(model, (images(),), (images(seed=2),))
    torch.testing.assert_close(ours, theirs)


# --- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 2, 5, 5), (3, 3, 5), (1, 3, 1, 1)])
def test_bad_input_is_answered_as_pytorch_answers(shape):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()).double()
    twin = nbt.convert(copy.deepcopy(model))
    with pytest.raises((ValueError, RuntimeError)) as theirs:
        model(torch.ones(shape, dtype=torch.float64))
    with pytest.raises(theirs.type) as ours:
        twin(torch.ones(shape, dtype=torch.float64))
    assert str(ours.value) == str(theirs.value)
    assert_same(twin.buffers(), model.buffers())


@pytest.mark.parametrize("function", [nbt.convert, nbt.revert])
def test_no_module(function):
    with pytest.raises(TypeError, match="model is 3; expected a torch"):
        function(3)
