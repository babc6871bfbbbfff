"""Converted models: PyTorch's results, and what is left alone."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

import nbnorm.interop.torch as nbt
from tests.interop.torch.models import Block, assert_same, images, net, results

pytestmark = pytest.mark.peer


def fusions(model):
    return {entry.path: entry.fused for entry in nbt.report(model)}


def reasons(model):
    return {entry.path: entry.left for entry in nbt.report(model)}


def taken():
    return sum(nbt.status().taken.values())


# --- results --------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("channels_last", [None, True, False])
@pytest.mark.parametrize("fuse", [True, False])
def test_results_are_pytorchs(training, channels_last, fuse):
    model = net().train(training)
    twin = nbt.convert(copy.deepcopy(model), channels_last=channels_last, fuse=fuse)
    before = taken()
    for memory in (torch.contiguous_format, torch.channels_last):
        x = images().contiguous(memory_format=memory)
        assert_same(results(twin, x), results(model, x))
    assert taken() > before
    with torch.no_grad():
        assert_same([twin(images())], [model(images())])
    with torch.inference_mode():
        assert_same([twin(images())], [model(images())])


def test_what_is_fused():
    assert fusions(nbt.convert(net())) == {
        "blocks.0.bn1": "conv2d + batch norm + relu",
        "blocks.0.bn2": "conv2d + batch norm + residual + relu",
        "blocks.0.downsample.1": "conv2d + batch norm",
        "blocks.1.bn1": "conv2d + batch norm + relu",
        "blocks.1.bn2": "conv2d + batch norm + residual + relu",
        "bn": "linear + batch norm + gelu",
    }
    assert set(fusions(nbt.convert(net(), fuse=False)).values()) == {"batch norm"}
    assert fusions(net()) == fusions(nbt.convert(net()))  # of a model, what would become of it
    assert str(nbt.report(net())[-1]) == "bn: linear + batch norm + gelu"


ACTIVATIONS = [
    nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.3), nn.ELU(0.7), nn.SELU(), nn.GELU(), nn.SiLU(),
    nn.Mish(), nn.Hardswish(), nn.Hardsigmoid(), nn.Sigmoid(), nn.Tanh(), nn.ReLU(inplace=True),
]  # fmt: skip
OTHERS = [nn.GELU(approximate="tanh"), nn.Softplus(), nn.PReLU(), nn.Dropout(0.0)]


@pytest.mark.parametrize("activation", [*ACTIVATIONS, *OTHERS], ids=str)
def test_activations(activation):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), activation).double()
    twin = nbt.convert(copy.deepcopy(model))
    (said,) = fusions(twin).values()
    assert (said.count("+") == 2) is (activation in ACTIVATIONS)
    # PyTorch's derivative of hardsigmoid is 1 / 6 in float32, whatever the type.
    tolerance = 1e-6 if type(activation) is nn.Hardsigmoid else 1e-10
    assert_same(results(twin, images()), results(model, images()), tolerance)


class Calls(nn.Module):
    """A convolution, a norm and whatever a function does behind them."""

    def __init__(self, function):
        super().__init__()
        self.conv, self.bn, self.function = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), function

    def forward(self, x):
        return self.function(self.bn(self.conv(x)))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (F.relu, "relu"),
        (lambda y: F.relu(y, inplace=True), "relu"),
        (lambda y: F.relu(y, True), "relu"),
        (lambda y: y.relu_(), "relu"),
        (torch.relu, "relu"),
        (lambda y: F.leaky_relu(y, 0.2, True), "leaky_relu 0.2"),
        (F.leaky_relu, "leaky_relu 0.01"),
        (lambda y: F.leaky_relu(y, negative_slope=0.3), "leaky_relu 0.3"),
        (lambda y: F.elu(y, alpha=2.0), "elu 2"),
        (F.gelu, "gelu"),
        (lambda y: F.gelu(y, approximate="none"), "gelu"),
        (lambda y: F.gelu(y, approximate="tanh"), None),
        (F.hardswish, "hard_swish"),
        (lambda y: y.sigmoid(), "sigmoid"),
        (lambda y: F.relu(y) + y, None),  # the norm's own output is used
        (lambda y: y + y, None),
        (lambda y: y + 1.0, None),
        (lambda y: torch.add(y, y.mean(), alpha=2), None),
    ],
)
def test_functions(function, said):
    model = Calls(function).double()
    twin = nbt.convert(copy.deepcopy(model))
    expected = "conv2d + batch norm" + (f" + {said}" if said else "")
    assert fusions(twin) == {"bn": expected}
    assert_same(results(twin, images()), results(model, images()))


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=3),
        nn.Conv2d(3, 6, 3, padding="same", bias=False),
        nn.Conv2d(3, 6, (2, 4), padding="same"),
        nn.Conv2d(3, 6, 1, padding="valid"),
        nn.Conv2d(3, 6, 3, padding=1).to(memory_format=torch.channels_last),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
def test_convolutions(conv):
    model = nn.Sequential(conv, nn.BatchNorm2d(6), nn.SiLU()).double()
    strides = model[0].weight.stride()
    twin = nbt.convert(copy.deepcopy(model))
    assert_same(results(twin, images()), results(model, images()))
    assert twin[0].weight.stride() == strides


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm1d(3), (5, 3)),
        (nn.BatchNorm1d(3), (5, 3, 4)),
        (nn.BatchNorm2d(3, momentum=None), (4, 3, 2, 5)),
        (nn.BatchNorm3d(3, momentum=0.0), (2, 3, 2, 3, 2)),
        (nn.BatchNorm2d(3, affine=False), (4, 3, 2, 5)),
        (nn.BatchNorm2d(3, track_running_stats=False), (4, 3, 2, 5)),
        (nn.BatchNorm2d(3, eps=0.1, momentum=0.7), (4, 3, 2, 5)),
    ],
    ids=str,
)
@pytest.mark.parametrize("wrapped", [True, False])
def test_norms(norm, shape, wrapped):
    model = copy.deepcopy(norm).double()
    model = nn.Sequential(model) if wrapped else model
    twin = nbt.convert(copy.deepcopy(model))
    for training in (True, True, False):
        x = images(shape=shape)
        ours = results(twin.train(training), x)
        assert_same(ours, results(model.train(training), x))


# --- what is left alone ---------------------------------------------------------------------


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.conv(x)
        return self.bn(y) + y


class SharedNorm(Twice):
    def forward(self, x):
        return self.bn(self.conv(self.bn(x)))


class SharedConvolution(Twice):
    def __init__(self):
        super().__init__()
        self.bn2 = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.bn2(self.conv(self.bn(self.conv(x))))


class InPlaceBetween(Twice):
    """The convolution's input is changed before the norm."""

    def forward(self, x):
        x = x * 2
        y = self.conv(x)
        x += 1
        return self.bn(y) + x


class AddsToTheOther(Twice):
    """The sum is written over a tensor that is used again."""

    def forward(self, x):
        other = x * 2
        other += self.bn(self.conv(x))
        return other * x


def prepared(change):
    sequence = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())
    change(sequence)
    return sequence


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Twice(), "used more than once"),
        (SharedNorm(), "called more than once"),
        (SharedConvolution(), "called more than once"),
        (InPlaceBetween(), "changed in place"),
        (AddsToTheOther(), ""),
        (prepared(lambda m: parametrizations.spectral_norm(m[0])), "Parametrized"),
        (prepared(lambda m: parametrizations.weight_norm(m[0])), "Parametrized"),
        (prepared(lambda m: m[0].register_forward_hook(lambda *_: None)), "hooks"),
        (prepared(lambda m: m[1].register_forward_hook(lambda *_: None)), "hooks"),
        (prepared(lambda m: setattr(m[0], "padding_mode", "circular")), "circular"),
    ],
)  # fmt: skip
def test_left_alone(model, said):
    model = model.double().eval()  # spectral norm's own iteration goes on in training
    twin = nbt.convert(copy.deepcopy(model))
    assert any(said in reason for reason in reasons(twin).values())
    x = images(shape=(3, 3, 6, 6))
    with torch.no_grad():
        assert_same([twin(x)], [model(x)])
    if type(model) is InPlaceBetween:  # autograd refuses it
        return
    assert_same(results(twin, x), results(model, x))
    if "Parametrized" not in said:
        assert_same(results(twin.train(), x), results(model.train(), x))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("wrap", [weight_norm, spectral_norm])
def test_old_weight_norms_are_hooks(wrap):
    twin = nbt.convert(nn.Sequential(wrap(nn.Linear(4, 3)), nn.BatchNorm1d(3)).double())
    assert "hooks" in reasons(twin)["1"]


def test_a_hook_that_comes_later_is_called():
    model = net()
    twin = nbt.convert(model)
    seen = []
    twin.blocks[0].conv1.register_forward_hook(lambda m, i, y: seen.append(y.shape))
    twin.blocks[1].bn2.register_forward_hook(lambda m, i, y: seen.append(y.shape))
    expected = model(images())
    assert_same([twin(images())], [expected])
    assert len(seen) == 2
    model(images())
    assert len(seen) == 2  # the twin's own


def test_sums_in_place_stay_in_place():
    class Alias(Twice):
        def forward(self, x):
            y = alias = x * 2
            y += self.bn(self.conv(x))
            n = before = x.size(0)
            n += 1
            return alias * y * n * before

    model = Alias().double()
    x = images(shape=(3, 3, 6, 6))
    assert_same(results(nbt.convert(copy.deepcopy(model)), x), results(model, x))


def test_subclasses_are_left_alone():
    class Own(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) * 2

    model = nn.Sequential(nn.Conv2d(3, 4, 3), Own(4)).double()
    twin = nbt.convert(model)
    assert nbt.report(twin) == []
    assert_same([twin(images())], [model(images())])


# --- graphs that do not trace ---------------------------------------------------------------


class Decides(nn.Module):
    """Python asks for values: no graph of the whole, but of the block."""

    def __init__(self):
        super().__init__()
        self.block, self.bn = Block(3, 3), nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.block(x)
        return self.bn(y) if y.sum() > 0 else self.bn(-y)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.block, self.count = Block(3, 3), 0

    def forward(self, x):
        self.count += 1
        return self.block(x)


class Chance(Counting):
    def forward(self, x):
        return self.block(x) + torch.rand(5)


class Modes(Counting):
    def forward(self, x):
        return self.block(x) if self.training else self.block(self.block(x))


@pytest.mark.parametrize("kind", [Decides, Counting, Chance, Modes])
def test_parts_are_converted_where_the_whole_does_not_trace(kind):
    model = kind().double()
    twin = nbt.convert(model)
    assert "not traced" in reasons(twin)[""]
    assert fusions(twin)["block.bn2"] == "conv2d + batch norm + residual + relu"
    for training in (True, False):
        for one in (model, twin):
            one.train(training)
        torch.manual_seed(2)
        expected = model(images())
        torch.manual_seed(2)
        assert_same([twin(images())], [expected])
    if kind is Counting:
        assert model.count == twin.count == 2


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_blocks(reentrant):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block(3, 3)

        def forward(self, x):
            return checkpoint(self.block, x, use_reentrant=reentrant)

    model = Checkpointed().double()
    twin = nbt.convert(copy.deepcopy(model))
    assert "not traced" in reasons(twin)[""]
    before = taken()
    if reentrant:  # it refuses torch.autograd.grad
        for one in (twin, model):
            one(images().requires_grad_()).square().sum().backward()
        pairs = zip(twin.parameters(), model.parameters(), strict=True)
        assert_same(*zip(*((p.grad, q.grad) for p, q in pairs), strict=True))
    else:
        assert_same(results(twin, images()), results(model, images()))
    assert_same(twin.buffers(), model.buffers())
    assert taken() > before


def test_contexts_are_kept():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block(3, 3)

        def forward(self, x):
            with torch.no_grad():
                y = self.block(x)
            return y + x

    twin = nbt.convert(Frozen().double())
    assert "no_grad" in reasons(twin)[""]
    assert_same(
        torch.autograd.grad(twin(x := images().requires_grad_()).sum(), x), [torch.ones_like(x)]
    )


# --- timm -----------------------------------------------------------------------------------


class BatchNormAct2d(nn.BatchNorm2d):
    """What timm's class of this name does, under the name that it has there."""

    __module__ = "timm.layers.norm_act"

    def __init__(self, channels, activation):
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), activation

    def forward(self, x):
        assert x.ndim == 4  # which torch.fx cannot trace
        return self.act(self.drop(super().forward(x)))


@pytest.mark.parametrize(
    "activation", [nn.ReLU(inplace=True), nn.Identity(), nn.Softplus()], ids=str
)
def test_norms_with_activations(activation):
    norm = BatchNormAct2d(4, activation)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.SiLU()).double()
    twin = nbt.convert(copy.deepcopy(model))
    expected = {
        nn.ReLU: "conv2d + batch norm + relu", nn.Identity: "conv2d + batch norm", nn.Softplus: "",
    }  # fmt: skip
    assert fusions(twin) == {"1": expected[type(activation)]}
    for training in (True, False):
        ours, theirs = (results(m.train(training), images()) for m in (twin, model))
        assert_same(ours, theirs)
