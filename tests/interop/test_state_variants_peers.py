"""States as the frameworks have them: one of gamma and beta, no count, depthwise, bfloat16."""

from __future__ import annotations

import os

import numpy as np
import pytest

from nbnorm import fold_batch_norm
from nbnorm.interop.state import export_options, export_state, import_options, import_state
from nbnorm.layers import BatchNorm, Conv2d, Sequential
from tests.conftest import import_optional_peer

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}  # float32 on both sides


@pytest.mark.parametrize("affine", [True, "gamma", "beta", False])
def test_pytorch_takes_every_form(rng, torch, affine):
    layer = BatchNorm(3, affine=affine)
    layer(rng.standard_normal((8, 3), dtype=np.float32))
    theirs = torch.nn.BatchNorm1d(3, **export_options(layer, "pytorch"))
    state = {name: torch.from_numpy(a) for name, a in export_state(layer, "pytorch").items()}
    theirs.load_state_dict(state)
    x = rng.standard_normal((4, 3), dtype=np.float32)
    y = theirs.eval()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(layer.eval()(x), y, **TOLERANCE)


def test_pytorchs_bfloat16_and_parameters(torch):
    module = torch.nn.BatchNorm2d(4)
    layer = BatchNorm(4)
    import_state(layer, module.bfloat16().state_dict(), "pytorch")
    untracked = torch.nn.BatchNorm2d(4, track_running_stats=False)
    layer = BatchNorm(4, track_running_stats=False)
    import_state(layer, dict(untracked.named_parameters()), "pytorch")
    np.testing.assert_array_equal(layer.gamma, 1)


def test_pytorchs_frozen_batch_norm(rng, torch):
    class FrozenBatchNorm2d(torch.nn.Module):
        """As torchvision has it: four buffers, and no count."""

        def __init__(self, count):
            super().__init__()
            for name in ("weight", "bias", "running_mean", "running_var"):
                self.register_buffer(name, torch.rand(count) + 0.5)

        def forward(self, x):
            scale = self.weight * (self.running_var + 1e-5).rsqrt()
            bias = self.bias - self.running_mean * scale
            return x * scale.reshape(1, -1, 1, 1) + bias.reshape(1, -1, 1, 1)

    module = FrozenBatchNorm2d(3)
    layer = BatchNorm(3)
    import_state(layer, module.state_dict(), "pytorch")
    x = rng.standard_normal((2, 3, 4, 4), dtype=np.float32)
    np.testing.assert_allclose(layer.freeze()(x), module(torch.from_numpy(x)).numpy(), **TOLERANCE)


@pytest.mark.parametrize(
    ("name", "arguments", "shape", "out_axis"),
    [
        ("Conv1d", (3, 4, 5), (2, 3, 9), 0),
        ("Conv3d", (3, 4, 2), (2, 3, 4, 4, 4), 0),
        ("ConvTranspose2d", (4, 4, 3), (2, 4, 5, 5), 1),
    ],
)
def test_pytorchs_convolutions_folded(rng, torch, name, arguments, shape, out_axis):
    conv = getattr(torch.nn, name)(*arguments).double()
    norm = getattr(torch.nn, f"BatchNorm{len(shape) - 2}d")(4).double().eval()
    torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
    torch.nn.init.uniform_(norm.running_mean)
    x = torch.from_numpy(rng.standard_normal(shape))
    with torch.no_grad():
        right = norm(conv(x)).numpy()
        weight, bias = fold_batch_norm(
            conv.weight.numpy(), conv.bias.numpy(), norm.running_mean.numpy(),
            norm.running_var.numpy(), out_axis=out_axis,
        )  # fmt: skip
        conv.weight.copy_(torch.from_numpy(weight))
        conv.bias.copy_(torch.from_numpy(bias))
        np.testing.assert_allclose(conv(x).numpy(), right, rtol=1e-10, atol=1e-12)


def test_keras_depthwise_separable_and_unscaled(rng):
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = import_optional_peer("keras")
    kinds = keras.layers
    theirs = keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            kinds.DepthwiseConv2D(3, depth_multiplier=2, name="dw"),
            kinds.BatchNormalization(scale=False, name="bn"),
            kinds.SeparableConv2D(5, 3, name="sep"),
        ]
    )
    options = import_options(theirs.get_layer("bn").get_config(), "keras")
    net = Sequential(
        Conv2d(4, 8, 3, groups=4, axis=-1),
        BatchNorm(8, **options),
        Conv2d(8, 8, 3, groups=8, axis=-1, bias=False),
        Conv2d(8, 5, 1, axis=-1),
    )
    for variable in theirs.weights:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape).astype(np.float32))
    to_numpy = keras.ops.convert_to_numpy
    state = {variable.path: to_numpy(variable.value) for variable in theirs.weights}
    import_state(net, state, "keras", ["dw", "bn", "sep", "sep"])
    x = rng.standard_normal((2, 6, 6, 4), dtype=np.float32)
    y = to_numpy(theirs(x, training=False))
    np.testing.assert_allclose(net.eval()(x), y, rtol=1e-4, atol=1e-3)
