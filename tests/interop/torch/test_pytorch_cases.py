"""PyTorch's own cases of its batch norms: operators (OpInfo) and modules (ModuleInfo)."""

from __future__ import annotations

import copy
import importlib

import pytest
import torch

import nbnorm.interop.torch as nbt
from tests.conftest import import_peer

pytestmark = pytest.mark.peer

OPERATORS = ["native_batch_norm", "nn.functional.batch_norm", "nn.functional.instance_norm"]
MODULES = [f"nn.{kind}{axes}d" for kind in ("BatchNorm", "InstanceNorm") for axes in (1, 2, 3)]
TYPES = [torch.float32, torch.float64]


@pytest.fixture(scope="module")
def database():
    """PyTorch's cases by the database they are in and their name; it takes seconds to import."""
    import_peer("expecttest")  # which they need
    testing = "torch.testing._internal.common_"
    found = {}
    for module, name in (("methods_invocations", "op_db"), ("modules", "module_db")):
        infos = getattr(importlib.import_module(testing + module), name)
        found |= {(name, info.name): info for info in infos}
    return found


def copied(value):
    """Arguments of a call's own: running statistics are written to."""
    if isinstance(value, torch.Tensor):
        new = value.detach().clone(memory_format=torch.preserve_format)
        return new.requires_grad_(value.requires_grad)
    if isinstance(value, (tuple, list)):
        return type(value)(map(copied, value))
    return {k: copied(v) for k, v in value.items()} if isinstance(value, dict) else value


def tensors_of(value):
    if isinstance(value, torch.Tensor):
        return [value]
    values = value.values() if isinstance(value, dict) else value
    return (
        [t for v in values for t in tensors_of(v)] if isinstance(value, (tuple, list, dict)) else []
    )


def called(function, arguments, options):
    """Outputs, gradients, and the arguments as the call left them."""
    arguments, options = copied(arguments), copied(options)
    outputs = tensors_of(function(*arguments, **options))
    leaves = [t for t in tensors_of([arguments, options]) if t.requires_grad]
    first = outputs[0]
    gradients = []
    if leaves and first.requires_grad:
        dy = torch.linspace(-1, 1, first.numel(), dtype=first.dtype).reshape(first.shape)
        gradients = torch.autograd.grad(first, leaves, dy, allow_unused=True)
    return [*outputs, *gradients, *tensors_of([arguments, options])]


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) is (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", OPERATORS)
def test_operators(database, name, dtype):
    info = database["op_db", name]
    count = 0
    for sample in info.sample_inputs("cpu", dtype, requires_grad=True):
        arguments = (sample.input, *sample.args)
        try:
            expected = called(info.op, arguments, sample.kwargs)
        except (RuntimeError, ValueError) as error:
            with nbt.enabled(), pytest.raises(type(error)):
                called(info.op, arguments, sample.kwargs)
            continue
        with nbt.enabled():
            assert_same(called(info.op, arguments, sample.kwargs), expected)
        count += 1
    assert count


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", MODULES)
def test_modules(database, name, dtype, training):
    info = database["module_db", name]
    inputs = info.module_inputs_func(
        info, device="cpu", dtype=dtype, requires_grad=True, training=training
    )
    for given in inputs:
        made, forward = given.constructor_input, given.forward_input
        torch.manual_seed(0)
        module = info.module_cls(*made.args, **made.kwargs).to(dtype).train(training)
        results = []
        for way in ("PyTorch's", "enabled", "converted"):
            one = copy.deepcopy(module)
            one = nbt.convert(one) if way == "converted" else one
            if way == "enabled":
                nbt.enable()
            try:
                found = called(one, forward.args, forward.kwargs)
            finally:
                nbt.disable()
            results.append([*found, *one.state_dict().values()])
        assert_same(results[1], results[0])
        assert_same(results[2], results[0])
