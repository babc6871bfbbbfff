"""States of the size of a pretrained network, of random values, in each framework and back.

The layers are those of ResNet-50 (He et al. 2016, table 1) one after the other, without shortcuts:
49 convolutions with batch norm and a dense layer, 23 million parameters.
"""

from __future__ import annotations

import functools
import os

import numpy as np
import pytest

from nbnorm.interop.state import export_options, export_state, import_state
from nbnorm.layers import Conv2dBatchNorm, Dense, Flatten, Sequential
from tests.conftest import import_optional_peer

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))  # blocks and channels
CLASSES = 1000


def windows():
    """In and out channels, window and stride of the convolutions."""
    yield 3, 64, 7, 1
    before = 64
    for blocks, c in STAGES:
        for block in range(blocks):
            yield before, c, 1, 2 if block == 0 else 1
            yield c, c, 3, 1
            yield c, 4 * c, 1, 1
            before = 4 * c


WINDOWS = list(windows())
NAMES = [*(f"{kind}{i}" for i in range(len(WINDOWS)) for kind in ("conv", "bn")), "dense"]
OPTIONS = {"eps": 1e-3, "momentum": 0.1}


@functools.cache
def network(axis, running_var):
    """The layers in inference, no array as it began; and a batch of images for them."""
    rng = np.random.default_rng(0)
    net = layers_of(axis, running_var)
    for layer in net:
        if isinstance(layer, Conv2dBatchNorm):
            layer.weight[...] *= np.sqrt(6.0)  # He's, for ReLU
            layer.bias[...] = rng.normal(0, 0.1, layer.bias.shape)
            layer.gamma[...] = rng.uniform(0.8, 1.2, layer.gamma.shape)
            layer.beta[...] = rng.normal(0, 0.1, layer.beta.shape)
            layer.running_mean[...] = rng.normal(0, 0.1, layer.running_mean.shape)
            layer.running_var[...] = rng.uniform(0.8, 1.2, layer.running_var.shape)
    x = rng.standard_normal((2, 3, 16, 16) if axis == 1 else (2, 16, 16, 3), dtype=np.float32)
    return net.eval(), x


def layers_of(axis, running_var):
    options = {"axis": axis, "bias": True, "activation": "relu", "running_var": running_var}
    return Sequential(
        *(
            Conv2dBatchNorm(c, k, size, stride=stride, padding="same", rng=i, **options, **OPTIONS)
            for i, (c, k, size, stride) in enumerate(WINDOWS)
        ),
        Flatten(),
        Dense(4 * STAGES[-1][1], CLASSES, rng=0),
    )


def assert_close(ours, theirs):
    """To what fifty layers of float32 leave."""
    theirs = np.asarray(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


def assert_same_state(net, state, framework):
    """What the framework has is what the layers have, rounded to float32."""
    other = layers_of(net[0].options["axis"], "unbiased" if net[0].unbiased else "biased")
    import_state(other, state, framework, NAMES)
    for name, array in other.state_dict().items():
        expected = net.state_dict()[name].astype(np.float32)
        np.testing.assert_array_equal(array.astype(np.float32), expected)


def test_is_of_the_size_of_resnet50():
    assert len(NAMES) == 2 * 49 + 1
    net = layers_of(1, "biased")
    assert 20e6 < sum(array.size for array in net.parameters().values()) < 26e6


def test_pytorch(torch):
    net, x = network(1, "unbiased")
    theirs = torch.nn.Sequential()
    for i, ((c, k, size, stride), layer) in enumerate(zip(WINDOWS, net, strict=False)):
        conv = torch.nn.Conv2d(c, k, size, stride, padding=size // 2)
        theirs.add_module(f"conv{i}", conv)
        theirs.add_module(f"bn{i}", torch.nn.BatchNorm2d(k, **export_options(layer, "pytorch")))
        theirs.add_module(f"relu{i}", torch.nn.ReLU())
    theirs.add_module("flatten", torch.nn.Flatten())
    theirs.add_module("dense", torch.nn.Linear(2048, CLASSES))
    state = export_state(net, "pytorch", NAMES)
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    with torch.no_grad():
        assert_close(net(x), theirs.eval()(torch.from_numpy(x)))
    assert_same_state(net, theirs.state_dict(), "pytorch")


def test_keras():
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = import_optional_peer("keras")
    net, x = network(-1, "biased")
    layers = keras.layers
    theirs = keras.Sequential([keras.Input((16, 16, 3))])
    for i, ((_, k, size, stride), layer) in enumerate(zip(WINDOWS, net, strict=False)):
        theirs.add(layers.Conv2D(k, size, strides=stride, padding="same", name=f"conv{i}"))
        options = export_options(layer, "keras")
        theirs.add(layers.BatchNormalization(**options, name=f"bn{i}"))
        theirs.add(layers.ReLU())
    theirs.add(layers.Flatten())
    theirs.add(layers.Dense(CLASSES, name="dense"))
    state = export_state(net, "keras", NAMES)
    for variable in theirs.weights:
        variable.assign(state["/".join(variable.path.split("/")[-2:])])
    to_numpy = keras.ops.convert_to_numpy
    assert_close(net(x), to_numpy(theirs(x, training=False)))
    after = {variable.path: to_numpy(variable.value) for variable in theirs.weights}
    assert_same_state(net, after, "keras")


def test_flax_linen():
    import_optional_peer("jax")
    import_optional_peer("flax")
    from flax import linen

    net, x = network(-1, "biased")

    class Network(linen.Module):
        @linen.compact
        def __call__(self, x):
            for i, ((_, k, size, stride), layer) in enumerate(zip(WINDOWS, net, strict=False)):
                x = linen.Conv(k, (size, size), strides=stride, padding="SAME", name=f"conv{i}")(x)
                options = export_options(layer, "flax_linen")
                x = linen.BatchNorm(use_running_average=True, **options, name=f"bn{i}")(x)
                x = linen.relu(x)
            return linen.Dense(CLASSES, name="dense")(x.reshape(len(x), -1))

    state = export_state(net, "flax_linen", NAMES)
    assert_close(net(x), Network().apply(state, x))
    assert_same_state(net, state, "flax_linen")


def test_flax_nnx():
    import_optional_peer("jax")
    import_optional_peer("flax")
    from flax import nnx

    net, x = network(-1, "biased")

    class Network(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            for i, ((c, k, size, stride), layer) in enumerate(zip(WINDOWS, net, strict=False)):
                conv = nnx.Conv(c, k, (size, size), strides=stride, padding="SAME", rngs=rngs)
                options = export_options(layer, "flax_nnx")
                setattr(self, f"conv{i}", conv)
                setattr(self, f"bn{i}", nnx.BatchNorm(k, **options, rngs=rngs))
            self.dense = nnx.Linear(2048, CLASSES, rngs=rngs)

        def __call__(self, x):
            for i in range(len(WINDOWS)):
                x = nnx.relu(getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x)))
            return self.dense(x.reshape(len(x), -1))

    theirs = Network()
    current = nnx.state(theirs, (nnx.Param, nnx.BatchStat))
    nnx.replace_by_pure_dict(current, export_state(net, "flax_nnx", NAMES))
    nnx.update(theirs, current)
    theirs.eval()
    assert_close(net(x), theirs(x))
    state = nnx.to_pure_dict(nnx.state(theirs, (nnx.Param, nnx.BatchStat)))
    assert_same_state(net, state, "flax_nnx")


def test_onnx():
    onnx = import_optional_peer("onnx")
    from onnx.reference import ReferenceEvaluator

    net, x = network(1, "biased")
    helper, nodes, last = onnx.helper, [], "x"
    for i, ((*_, size, stride), layer) in enumerate(zip(WINDOWS, net, strict=False)):
        names = [f"bn{i}.{own}" for own in ("scale", "B", "input_mean", "input_var")]
        half = size // 2
        nodes += [
            helper.make_node("Conv", [last, f"conv{i}.W", f"conv{i}.B"], [f"z{i}"],
                             strides=[stride] * 2, pads=[half] * 4),
            helper.make_node("BatchNormalization", [f"z{i}", *names], [f"n{i}"],
                             **export_options(layer, "onnx")),
            helper.make_node("Relu", [f"n{i}"], [f"y{i}"]),
        ]  # fmt: skip
        last = f"y{i}"
    nodes += [
        helper.make_node("Flatten", [last], ["flat"]),
        helper.make_node("Gemm", ["flat", "dense.B", "dense.C"], ["y"], transB=1),
    ]
    info = helper.make_tensor_value_info
    state = export_state(net, "onnx", NAMES)
    graph = helper.make_graph(
        nodes, "network", [info("x", onnx.TensorProto.FLOAT, x.shape)],
        [info("y", onnx.TensorProto.FLOAT, (len(x), CLASSES))],
        [onnx.numpy_helper.from_array(array, name) for name, array in state.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])
    onnx.checker.check_model(model, full_check=True)
    (y,) = ReferenceEvaluator(model).run(None, {"x": x})
    assert_close(net(x), y)
    after = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    assert_same_state(net, after, "onnx")
