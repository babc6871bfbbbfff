"""PyTorch's batch norm operators on nbnorm: the same results, and PyTorch's own for the rest."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nbnorm.interop.torch as nbt

pytestmark = pytest.mark.peer

SHAPES = [(8, 3), (8, 3, 7), (4, 3, 5, 6), (2, 3, 2, 5, 3)]
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


@pytest.fixture(autouse=True)
def _as_before():
    yield
    nbt.disable()


def steps(x, training, affine):
    """Output, running statistics, first and second derivatives."""
    torch.manual_seed(0)
    c, options = x.shape[1], {"dtype": x.dtype}
    parameters = [torch.rand(c, **options, requires_grad=True) for _ in range(2 * affine)]
    mean, var = torch.randn(c, **options), torch.rand(c, **options)
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = F.batch_norm(x, mean, var, *(parameters or (None, None)), training, 0.3)
    inputs = [x, *parameters]
    first = torch.autograd.grad((y * y.sin()).sum(), inputs, create_graph=True)
    second = torch.autograd.grad(sum((g * g).sum() for g in first), x)
    return [y, mean, var, *first, *second]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_results_are_pytorchs(shape, last, training, affine):
    x = torch.randn(shape, dtype=torch.float64)
    if last:
        x = x.contiguous(memory_format=FORMATS.get(len(shape), torch.contiguous_format))
    expected = steps(x, training, affine)
    with nbt.enabled():
        before = sum(nbt.status().taken.values())
        found = steps(x, training, affine)
        assert sum(nbt.status().taken.values()) > before
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        assert ours.stride() == theirs.stride()


def test_gradients_of_denormal_deviations():
    torch.manual_seed(0)
    x = torch.randn(8, 3, 7)
    x[:, 1] *= 1e-40
    dy = torch.randn(x.shape)
    dy[:, 1] *= 1e-6  # or float32 could not hold dx
    with nbt.enabled():
        found, expected = (
            torch.autograd.grad(F.batch_norm(t, None, None, training=True, eps=1e-90), t, d)[0]
            for t, d in [
                (x.clone().requires_grad_(), dy), (x.double().requires_grad_(), dy.double()),
            ]
        )  # fmt: skip
    size = expected.abs().amax((0, 2), keepdim=True)
    torch.testing.assert_close(found / size, expected / size, rtol=0, atol=2e-6, check_dtype=False)


def test_what_is_saved_means_the_same():
    x = torch.randn(4, 3, 5)
    arguments = x, None, None, None, None, True, 0.1, 1e-5
    expected = torch.native_batch_norm(*arguments)
    with nbt.enabled():
        torch.testing.assert_close(torch.native_batch_norm(*arguments), expected)


def test_gradients_keep_a_large_means_digits():
    """A float32 mean is off by up to 5e-4 here, and so would each x - mean be."""
    torch.manual_seed(3)
    x = (torch.randn(64, 2, 16) + 1e4).requires_grad_()
    dy = torch.randn_like(x) + 1
    exact = x.detach().double().requires_grad_()
    gamma = torch.ones(2, requires_grad=True)
    exact_gamma = gamma.detach().double().requires_grad_()
    F.batch_norm(exact, None, None, exact_gamma, None, True).backward(dy.double())
    with nbt.enabled():
        F.batch_norm(x, None, None, gamma, None, True).backward(dy)
    torch.testing.assert_close(gamma.grad.double(), exact_gamma.grad, rtol=0, atol=1e-3)


def test_a_forward_of_pytorchs_may_have_our_backward_and_the_other_way_round():
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    expected = steps(x, True, True)[3]
    for first, second in ((nbt.enable, nbt.disable), (nbt.disable, nbt.enable)):
        torch.manual_seed(0)
        weight, bias = (torch.rand(3, dtype=torch.float64) for _ in range(2))
        leaf = x.clone().requires_grad_()
        first()
        y = F.batch_norm(leaf, None, None, weight, bias, True)
        second()
        (gradient,) = torch.autograd.grad((y * y.sin()).sum(), leaf)
        torch.testing.assert_close(gradient, expected)


def test_the_mask_says_which_gradients():
    x, dy, weight = torch.randn(4, 3, 5), torch.randn(4, 3, 5), torch.rand(3)
    _, mean, inv_std = torch.native_batch_norm(x, weight, None, None, None, True, 0.1, 1e-5)
    for mask in ([True, False, False], [False, True, True], [False] * 3):
        arguments = dy, x, weight, None, None, mean, inv_std, True, 1e-5, mask
        with nbt.enabled():
            ours = torch.ops.aten.native_batch_norm_backward(*arguments)
        theirs = torch.ops.aten.native_batch_norm_backward(*arguments)
        for wanted, one, other in zip(mask, ours, theirs, strict=True):
            assert (one is not None) is wanted
            if wanted:
                torch.testing.assert_close(one, other)


@pytest.mark.parametrize("track", [True, False])
def test_instance_norm(track):
    x = torch.randn(4, 3, 5, 6, dtype=torch.float64)
    ours, theirs = (
        nn.InstanceNorm2d(3, affine=True, track_running_stats=track, dtype=torch.float64)
        for _ in range(2)
    )
    expected = theirs(x)
    with nbt.enabled():
        taken = nbt.status().taken.get("forward", 0)
        torch.testing.assert_close(ours(x), expected)
        assert nbt.status().taken["forward"] == taken + 1
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, theirs.get_buffer(name))
    with nbt.enabled(instance_norm=False):
        left = nbt.status().left.get("a batch of one", 0)
        ours(x)
        assert nbt.status().left["a batch of one"] == left + 1


def left(reason):
    return nbt.status().left.get(reason, 0)


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        (torch.randn(4, 3, 5).bfloat16(), "bfloat16"),
        (torch.randn(5, 3, 4).transpose(0, 2), "strides neither contiguous nor channels-last"),
        (torch.randn(4, 3, 9)[:, :, ::2], "strides neither contiguous nor channels-last"),
    ],
)
def test_the_rest_is_left_to_pytorch(x, reason):
    expected = F.batch_norm(x, None, None, None, None, True)
    with nbt.enabled():
        before = left(reason)
        torch.testing.assert_close(F.batch_norm(x, None, None, None, None, True), expected)
        assert left(reason) == before + 1


@pytest.mark.parametrize("shape", [(0, 3, 4), (4, 3, 0)])
def test_empty_batches_fail_as_pytorchs_do(shape):
    arguments = torch.empty(shape), None, None, None, None, True, 0.1, 1e-5
    with pytest.raises(RuntimeError) as theirs:
        torch.native_batch_norm(*arguments)
    with nbt.enabled(), pytest.raises(RuntimeError) as ours:
        torch.native_batch_norm(*arguments)
    assert str(ours.value) == str(theirs.value)


def test_a_negative_variance_is_nan_as_in_pytorch():
    x, var = torch.randn(4, 2, 3), torch.tensor([1.0, -1.0])
    with nbt.enabled():
        y = F.batch_norm(x, torch.zeros(2), var)
    assert y[:, 1].isnan().all()
    assert y[:, 0].isfinite().all()


def test_meta_tensors_are_pytorchs():
    with nbt.enabled():
        assert nn.BatchNorm2d(3, device="meta")(torch.empty(2, 3, 4, 4, device="meta")).is_meta


def test_switching():
    assert not nbt.is_enabled()
    with nbt.enabled():
        assert nbt.is_enabled()
        with nbt.enabled(instance_norm=False):
            assert nbt.is_enabled()
        assert nbt.is_enabled()
    assert not nbt.is_enabled()
    nbt.enable()
    nbt.enable()
    assert nbt.status().enabled
    nbt.disable()
    nbt.disable()
    x = torch.randn(4, 3, 5)
    taken = nbt.status().taken
    F.batch_norm(x, None, None, None, None, True)
    assert nbt.status().taken == taken


def test_nothing_is_said_on_the_console(capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with nbt.enabled():
            F.batch_norm(torch.randn(4, 3, 5), None, None, None, None, True)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("training", [True, False])
def test_derivatives(training):
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.rand(2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    mean, var = torch.randn(2, dtype=torch.float64), torch.rand(2, dtype=torch.float64)

    def norm(x, weight, bias):
        # The clones: a numerical derivative calls it many times.
        return F.batch_norm(x, mean.clone(), var.clone(), weight, bias, training)

    with nbt.enabled():
        assert torch.autograd.gradcheck(norm, (x, weight, bias))
        assert torch.autograd.gradgradcheck(norm, (x, weight, bias))
