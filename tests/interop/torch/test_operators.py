"""The registered operators: PyTorch's own checks of them, and compiled models."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import nbnorm.interop.torch as nbt
from tests.interop.torch.models import assert_same, images, net, results

pytestmark = pytest.mark.peer

KINDS = ["convolution", "dense", "norm"]


def arguments(kind, frozen, memory):
    """What `torch.ops.nbnorm.batch_norm_forward` takes, every operand given."""
    torch.manual_seed(0)

    def leaf(*shape):
        return torch.randn(*shape, dtype=torch.float64).requires_grad_()

    x, weight, y, window = {
        "convolution": (leaf(2, 4, 5, 5), leaf(6, 2, 3, 3), (2, 6, 3, 3), [1, 2, 1, 1, 2, 1, 2]),
        "dense": (leaf(6, 4), leaf(6, 4), (6, 6), []),
        "norm": (leaf(3, 6, 2, 2), None, (3, 6, 2, 2), []),
    }[kind]
    residual = leaf(*y)
    if kind != "dense":
        x, residual = (
            t.detach().contiguous(memory_format=memory).requires_grad_() for t in (x, residual)
        )
    given = (torch.rand(6).double(), torch.rand(6).double()) if frozen else (None, None)
    bias = None if weight is None else leaf(6)
    return (
        x, weight, bias, leaf(6), leaf(6), residual, *given, 1e-5, "leaky_relu", 0.2, window,
    )  # fmt: skip


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_opcheck(kind, frozen, memory):
    given = arguments(kind, frozen, memory)
    torch.library.opcheck(torch.ops.nbnorm.batch_norm_forward.default, given)
    y, statistics, z = torch.ops.nbnorm.batch_norm_forward(*given)
    operands = [None if t is None else t.detach() for t in given[:6]]
    needs = [t is not None for t in operands]
    backward = (
        torch.randn_like(y), *operands, statistics.detach(), z.detach(), frozen, *given[8:], needs,
    )  # fmt: skip
    torch.library.opcheck(torch.ops.nbnorm.batch_norm_backward.default, backward)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_derivatives(kind, frozen):
    *given, _, _, window = arguments(kind, frozen, torch.contiguous_format)
    operands, statistics = given[:6], given[6:]
    leaves = [t for t in operands if t is not None]

    def call(*values):
        values = iter(values)
        tensors = [None if t is None else next(values) for t in operands]
        return torch.ops.nbnorm.batch_norm_forward(*tensors, *statistics, "silu", None, window)[0]

    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)


def test_gradients_of_denormal_deviations():
    torch.manual_seed(0)
    x = torch.randn(8, 3, 7)
    x[:, 1] *= 1e-40
    dy = torch.randn(x.shape)
    dy[:, 1] *= 1e-6  # or float32 could not hold dx
    none = (None,) * 7
    found, expected = (
        torch.autograd.grad(
            torch.ops.nbnorm.batch_norm_forward(t, *none, 0.0, "silu", None, [])[0], t, d
        )[0]
        for t, d in [(x.clone().requires_grad_(), dy), (x.double().requires_grad_(), dy.double())]
    )
    size = expected.abs().amax((0, 2), keepdim=True)
    torch.testing.assert_close(found / size, expected / size, rtol=0, atol=2e-6, check_dtype=False)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_models(backend, monkeypatch, tmp_path):
    # A graph that another version of nbnorm left on disk would be run in the place of this one's.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model = net()
    twin = nbt.convert(copy.deepcopy(model))
    compiled = torch.compile(twin, fullgraph=True, backend=backend)
    for training in (True, False):
        model.train(training)
        compiled.train(training)
        assert_same(results(compiled, images()), results(model, images()))
        with torch.no_grad():
            assert_same([compiled(images())], [model(images())])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.BatchNorm2d(4, momentum=None)),
        nn.Sequential(nn.Conv2d(3, 4, (2, 3), padding="same"), nn.BatchNorm2d(4), nn.ReLU()),
        nn.Sequential(nn.BatchNorm2d(3, affine=False, track_running_stats=False), nn.Tanh()),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
def test_compiled_modules(model):
    model = model.double()
    twin = nbt.convert(copy.deepcopy(model))
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        assert_same(results(compiled, images()), results(model, images()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_exported_models_are_pytorchs():
    twin = nbt.convert(net()).eval()
    program = torch.export.export(twin, (images(),))
    assert "nbnorm" not in str(program.graph)
    assert_same([program.module()(images())], [twin(images())])
