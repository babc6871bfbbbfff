"""State carried over to and from the frameworks themselves: the same outputs and statistics."""

from __future__ import annotations

import os

import numpy as np
import pytest

from nbnorm.interop.state import export_options, export_state, import_options, import_state
from nbnorm.layers import BatchNorm, Conv2d, Conv2dBatchNorm, Dense, Flatten, Sequential
from tests.conftest import import_optional_peer

pytestmark = pytest.mark.peer

NAMES = ["conv", "bn", "dense"]
MOMENTUM, EPS = 0.25, 0.01
# float32 on both sides, products of up to 100 terms of about 1.
TOLERANCE = 1e-5


def network(rng, axis=1, running_var="biased"):
    """A convolution of groups with batch norm, and a dense layer; no array as it began."""
    options = {"momentum": MOMENTUM, "eps": EPS, "running_var": running_var}
    net = Sequential(
        Conv2dBatchNorm(4, 6, (3, 2), groups=2, axis=axis, bias=True, rng=rng, **options),
        Flatten(),
        Dense(72, 5, rng=rng),
    )
    return randomized(net, rng)


def randomized(layer, rng):
    for name, array in {**layer.parameters(), **layer.buffers()}.items():
        if not name.endswith("num_batches_tracked"):
            array[...] = rng.uniform(0.5, 1.5, array.shape)
    return layer


def images(rng, axis):
    return rng.standard_normal((8, 4, 6, 4) if axis == 1 else (8, 6, 4, 4), dtype=np.float32)


def assert_close(ours, theirs):
    np.testing.assert_allclose(ours, np.asarray(theirs), rtol=TOLERANCE, atol=TOLERANCE)


def assert_same_state(net, state, framework):
    """What the framework has now is what the layers have."""
    other = network(np.random.default_rng(7), *(() if framework in ("pytorch", "onnx") else (-1,)))
    import_state(other, state, framework, NAMES)
    for name, array in other.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert_close(array, net.state_dict()[name])


def test_pytorch(rng, torch):
    net = network(rng, running_var="unbiased")
    options = export_options(net[0], "pytorch")
    theirs = torch.nn.Sequential()
    theirs.add_module("conv", torch.nn.Conv2d(4, 6, (3, 2), groups=2))
    theirs.add_module("bn", torch.nn.BatchNorm2d(6, **options))
    theirs.add_module("flatten", torch.nn.Flatten())
    theirs.add_module("dense", torch.nn.Linear(72, 5))
    state = export_state(net, "pytorch", NAMES)
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    x = images(rng, 1)
    with torch.no_grad():
        assert_close(net.eval()(x), theirs.eval()(torch.from_numpy(x)))
        assert_close(net.train()(x), theirs.train()(torch.from_numpy(x)))
    assert_same_state(net, theirs.state_dict(), "pytorch")
    assert import_options({}, "pytorch") == import_options(
        {name: getattr(torch.nn.BatchNorm2d(1), name) for name in options}, "pytorch"
    )


@pytest.fixture(scope="module")
def keras():
    os.environ.setdefault("KERAS_BACKEND", "torch")
    return import_optional_peer("keras")


@pytest.mark.filterwarnings("ignore")  # of whichever backend there is
def test_keras(rng, keras):
    net = network(rng, axis=-1)
    layers = keras.layers
    theirs = keras.Sequential(
        [
            keras.Input((6, 4, 4)),
            layers.Conv2D(6, (3, 2), groups=2, name="conv"),
            layers.BatchNormalization(**export_options(net[0], "keras"), name="bn"),
            layers.Flatten(),
            layers.Dense(5, name="dense"),
        ]
    )
    state = export_state(net, "keras", NAMES)
    paths = {variable.path.split("/", theirs.weights[0].path.count("/") - 1)[-1]: variable
             for variable in theirs.weights}  # fmt: skip
    assert paths.keys() == state.keys()
    for path, variable in paths.items():
        variable.assign(state[path])
    x = images(rng, -1)
    to_numpy = keras.ops.convert_to_numpy
    assert_close(net.eval()(x), to_numpy(theirs(x, training=False)))
    assert_close(net.train()(x), to_numpy(theirs(x, training=True)))
    after = {path: to_numpy(variable.value) for path, variable in paths.items()}
    assert_same_state(net, after, "keras")
    config = layers.BatchNormalization().get_config()
    assert import_options({}, "keras") == import_options(config, "keras")
    ours = import_options(theirs.get_layer("bn").get_config(), "keras")
    assert ours["momentum"] == pytest.approx(MOMENTUM)
    assert ours["eps"] == EPS


@pytest.mark.filterwarnings("ignore")
def test_keras_convolutions_with_stride(rng, keras):
    theirs = keras.layers.Conv2D(5, (3, 4), strides=(2, 3), padding="same")
    theirs.build((None, 8, 7, 3))
    ours = Conv2d(3, 5, (3, 4), stride=(2, 3), padding="same", axis=-1)
    kernel, bias = map(keras.ops.convert_to_numpy, theirs.get_weights())
    import_state(ours, {"kernel": kernel, "bias": bias}, "keras")
    x = rng.standard_normal((2, 8, 7, 3), dtype=np.float32)
    assert_close(ours(x), keras.ops.convert_to_numpy(theirs(x)))


@pytest.fixture(scope="module")
def flax():
    import_optional_peer("jax")
    return import_optional_peer("flax")


@pytest.mark.filterwarnings("ignore")
def test_flax_linen(rng, flax):
    from flax import linen

    net = network(rng, axis=-1)
    options = export_options(net[0], "flax_linen")

    class Network(linen.Module):
        @linen.compact
        def __call__(self, x, train):
            x = linen.Conv(6, (3, 2), feature_group_count=2, padding="VALID", name="conv")(x)
            x = linen.BatchNorm(use_running_average=not train, **options, name="bn")(x)
            return linen.Dense(5, name="dense")(x.reshape(len(x), -1))

    theirs = Network()
    state = export_state(net, "flax_linen", NAMES)
    x = images(rng, -1)
    assert_close(net.eval()(x), theirs.apply(state, x, train=False))
    y, changed = theirs.apply(state, x, train=True, mutable=["batch_stats"])
    assert_close(net.train()(x), y)
    assert_same_state(net, state | changed, "flax_linen")
    defaults = linen.BatchNorm()
    names = export_options(BatchNorm(1), "flax_linen")
    assert import_options({}, "flax_linen") == import_options(
        {name: getattr(defaults, name) for name in names}, "flax_linen"
    )


@pytest.mark.filterwarnings("ignore")
def test_flax_nnx(rng, flax):
    from flax import nnx

    net = network(rng, axis=-1)
    options = export_options(net[0], "flax_nnx")

    class Network(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.conv = nnx.Conv(4, 6, (3, 2), feature_group_count=2, padding="VALID", rngs=rngs)
            self.bn = nnx.BatchNorm(6, **options, rngs=rngs)
            self.dense = nnx.Linear(72, 5, rngs=rngs)

        def __call__(self, x):
            x = self.bn(self.conv(x))
            return self.dense(x.reshape(len(x), -1))

    theirs = Network()
    current = nnx.state(theirs, (nnx.Param, nnx.BatchStat))
    nnx.replace_by_pure_dict(current, export_state(net, "flax_nnx", NAMES))
    nnx.update(theirs, current)
    x = images(rng, -1)
    theirs.eval()
    assert_close(net.eval()(x), theirs(x))
    theirs.train()
    assert_close(net.train()(x), theirs(x))
    state = nnx.to_pure_dict(nnx.state(theirs, (nnx.Param, nnx.BatchStat)))
    assert_same_state(net, state, "flax_nnx")
    defaults = nnx.BatchNorm(1, rngs=nnx.Rngs(0))
    names = export_options(BatchNorm(1), "flax_nnx")
    assert import_options({}, "flax_nnx") == import_options(
        {name: getattr(defaults, name) for name in names}, "flax_nnx"
    )


@pytest.fixture(scope="module")
def onnx():
    return import_optional_peer("onnx")


def onnx_model(onnx, net, training):
    """Conv, BatchNormalization, Flatten and Gemm, with the exported initializers."""
    helper, state = onnx.helper, export_state(net, "onnx", NAMES)
    order = ("conv.W", "conv.B", "bn.scale", "bn.B", "bn.input_mean", "bn.input_var")
    outputs = ["normalized", "mean", "var"] if training else ["normalized"]
    options = export_options(net[0], "onnx") | {"training_mode": int(training)}
    nodes = [
        helper.make_node("Conv", ["x", *order[:2]], ["z"], group=2),
        helper.make_node("BatchNormalization", ["z", *order[2:]], outputs, **options),
        helper.make_node("Flatten", ["normalized"], ["flat"]),
        helper.make_node("Gemm", ["flat", "dense.B", "dense.C"], ["y"], transB=1),
    ]
    sizes = {"x": (8, 4, 6, 4), "y": (8, 5), "mean": (6,), "var": (6,)}
    infos = {
        name: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in sizes.items()
    }
    graph = helper.make_graph(
        nodes,
        "network",
        [infos["x"]],
        [infos[name] for name in ("y", *outputs[1:])],
        [onnx.numpy_helper.from_array(array, name) for name, array in state.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.filterwarnings("ignore")
def test_onnx(rng, onnx):
    from onnx.reference import ReferenceEvaluator

    net = network(rng)
    x = images(rng, 1)
    inference = onnx_model(onnx, net, training=False)
    (y,) = ReferenceEvaluator(inference).run(None, {"x": x})
    assert_close(net.eval()(x), y)

    training = onnx_model(onnx, net, training=True)
    y, mean, var = ReferenceEvaluator(training).run(None, {"x": x})
    assert_close(net.train()(x), y)
    assert_close(net[0].running_mean, mean)
    assert_close(net[0].running_var, var)

    initializers = {t.name: onnx.numpy_helper.to_array(t) for t in inference.graph.initializer}
    assert_same_state(network(np.random.default_rng(2015)), initializers, "onnx")
    schema = onnx.defs.get_schema("BatchNormalization", 15)
    defaults = {  # float32
        name: round(schema.attributes[name].default_value.f, 6) for name in ("epsilon", "momentum")
    }
    assert import_options({}, "onnx") == import_options(defaults, "onnx")


@pytest.mark.parametrize(
    ("padding", "theirs"),
    [
        ("same", {"auto_pad": "SAME_UPPER"}),
        ("same_lower", {"auto_pad": "SAME_LOWER"}),
        ("valid", {"auto_pad": "VALID"}),
        (((1, 0), (2, 3)), {"pads": [1, 2, 0, 3]}),
    ],
)
def test_onnx_paddings(rng, onnx, padding, theirs):
    from onnx.reference import ReferenceEvaluator

    ours = Conv2d(3, 5, (3, 4), stride=(2, 3), padding=padding, rng=rng)
    x = rng.standard_normal((2, 3, 8, 7), dtype=np.float32)
    node = onnx.helper.make_node("Conv", ["x", "w", "b"], ["y"], strides=[2, 3], **theirs)
    (y,) = ReferenceEvaluator(node).run(None, {"x": x, "w": ours.weight, "b": ours.bias})
    assert_close(ours(x), y)


@pytest.mark.filterwarnings("ignore")
def test_onnxruntime(rng, onnx):
    onnxruntime = import_optional_peer("onnxruntime")
    net = network(rng)
    x = images(rng, 1)
    model = onnx_model(onnx, net, training=False)
    model.ir_version = 8  # of opset 15, for runtimes older than the newest onnx
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (y,) = session.run(None, {"x": x})
    assert_close(net.eval()(x), y)
