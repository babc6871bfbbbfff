"""State in other frameworks' conventions: names, shapes, round trips, options, errors.

tests/interop/test_state_peers.py compares with the frameworks themselves.
"""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm.interop.state import export_options, export_state, import_options, import_state
from nbnorm.layers import (
    Activation,
    BatchNorm,
    Compensated,
    Conv2d,
    Conv2dBatchNorm,
    CrossIterationBatchNorm,
    Dense,
    DenseBatchNorm,
    Flatten,
    Layer,
    Sequential,
)

FRAMEWORKS = ["pytorch", "keras", "flax_linen", "flax_nnx", "onnx"]


def network(seed=0, **options):
    """Five parts with names: conv, bn, conv of groups, its batch norm, dense."""
    options = {"dtype": np.float64} | options
    return Sequential(
        Conv2d(4, 6, (3, 2), groups=2, rng=seed, **options),
        BatchNorm(6, activation="relu", **options),
        Sequential(Conv2dBatchNorm(6, 2, 1, rng=seed, **options), Activation("silu")),
        Flatten(),
        Dense(24, 5, bias=False, rng=seed, **options),
    )


NAMES = ["c0", "n0", "c1", "n1", "d"]
# How each framework would show the names and shapes of `network`.
SHOWN = {
    "pytorch": {
        "c0.weight": (6, 2, 3, 2), "c0.bias": (6,),
        "n0.weight": (6,), "n0.bias": (6,), "n0.running_mean": (6,), "n0.running_var": (6,),
        "n0.num_batches_tracked": (),
        "c1.weight": (2, 6, 1, 1),
        "n1.weight": (2,), "n1.bias": (2,), "n1.running_mean": (2,), "n1.running_var": (2,),
        "n1.num_batches_tracked": (),
        "d.weight": (5, 24),
    },
    "keras": {
        "c0/kernel": (3, 2, 2, 6), "c0/bias": (6,),
        "n0/gamma": (6,), "n0/beta": (6,), "n0/moving_mean": (6,), "n0/moving_variance": (6,),
        "c1/kernel": (1, 1, 6, 2),
        "n1/gamma": (2,), "n1/beta": (2,), "n1/moving_mean": (2,), "n1/moving_variance": (2,),
        "d/kernel": (24, 5),
    },
    "flax_linen": {
        "params": {
            "c0": {"kernel": (3, 2, 2, 6), "bias": (6,)},
            "n0": {"scale": (6,), "bias": (6,)},
            "c1": {"kernel": (1, 1, 6, 2)},
            "n1": {"scale": (2,), "bias": (2,)},
            "d": {"kernel": (24, 5)},
        },
        "batch_stats": {
            "n0": {"mean": (6,), "var": (6,)},
            "n1": {"mean": (2,), "var": (2,)},
        },
    },
    "flax_nnx": {
        "c0": {"kernel": (3, 2, 2, 6), "bias": (6,)},
        "n0": {"scale": (6,), "bias": (6,), "mean": (6,), "var": (6,)},
        "c1": {"kernel": (1, 1, 6, 2)},
        "n1": {"scale": (2,), "bias": (2,), "mean": (2,), "var": (2,)},
        "d": {"kernel": (24, 5)},
    },
    "onnx": {
        "c0.W": (6, 2, 3, 2), "c0.B": (6,),
        "n0.scale": (6,), "n0.B": (6,), "n0.input_mean": (6,), "n0.input_var": (6,),
        "c1.W": (2, 6, 1, 1),
        "n1.scale": (2,), "n1.B": (2,), "n1.input_mean": (2,), "n1.input_var": (2,),
        "d.B": (5, 24),
    },
}  # fmt: skip


def shapes(state):
    return {k: shapes(v) if isinstance(v, dict) else v.shape for k, v in state.items()}


def scrambled(layer, rng):
    """The layer with no array as it began."""
    for array in {**layer.parameters(), **layer.buffers()}.values():
        array[...] = rng.integers(1, 100, array.shape)
    return layer


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_names_and_shapes(rng, framework):
    state = export_state(scrambled(network(), rng), framework, NAMES)
    assert shapes(state) == SHOWN[framework]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_round_trip_is_exact(rng, framework):
    net = scrambled(network(), rng)
    other = network(seed=1)
    import_state(other, export_state(net, framework, NAMES), framework, NAMES)
    for name, array in other.state_dict().items():
        if framework != "pytorch" and name.endswith("num_batches_tracked"):
            assert array == 0
        else:
            np.testing.assert_array_equal(array, net.state_dict()[name])


def test_every_entry_is_in_its_place(rng):
    conv, dense = scrambled(Conv2d(3, 4, (5, 2)), rng), scrambled(Dense(3, 4), rng)
    for framework in ("keras", "flax_nnx"):
        kernel = export_state(conv, framework)["kernel"]
        assert kernel[4, 1, 2, 3] == conv.weight[3, 2, 4, 1]
        assert kernel.flags.c_contiguous
        assert export_state(dense, framework)["kernel"][2, 3] == dense.weight[3, 2]
    for framework, name in (("pytorch", "weight"), ("onnx", "W")):
        np.testing.assert_array_equal(export_state(conv, framework)[name], conv.weight)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_statistics_of_every_pixel_are_not_turned(rng, framework):
    layer = scrambled(BatchNorm((3, 4), axis=(1, 2)), rng)
    other = BatchNorm((3, 4), axis=(1, 2))
    import_state(other, export_state(layer, framework), framework)
    np.testing.assert_array_equal(other.gamma, layer.gamma)
    np.testing.assert_array_equal(other.running_var, layer.running_var)


def test_what_is_exported_is_a_copy_in_the_parameters_type(rng):
    layer = scrambled(DenseBatchNorm(3, 4, dtype=np.float32), rng)
    state = export_state(layer, "keras", ["d", "bn"])
    assert {array.dtype for array in state.values()} == {np.dtype(np.float32)}
    assert export_state(BatchNorm(3, affine=False), "keras")["moving_mean"].dtype == np.float32
    assert export_state(network(), "keras", NAMES)["n0/moving_mean"].dtype == np.float64
    for array in state.values():
        array[...] = -1
    assert not any(np.any(array == -1) for array in layer.state_dict().values())


def test_single_layers_need_no_name():
    assert list(export_state(Dense(3, 4), "pytorch")) == ["weight", "bias"]
    assert list(export_state(Sequential(Flatten(), Dense(3, 4)), "onnx")) == ["B", "C"]
    assert list(export_state(Dense(3, 4), "keras", ["dense"])) == ["dense/kernel", "dense/bias"]


def test_names_within_names():
    state = export_state(Dense(3, 4), "flax_linen", ["block/out"])
    assert shapes(state) == {"params": {"block": {"out": {"kernel": (3, 4), "bias": (4,)}}}}
    # nnx counts the layers of a list by ints, linen names them.
    assert list(export_state(Dense(3, 4), "flax_nnx", ["layers/0"])["layers"]) == [0]
    other = Dense(3, 4)
    import_state(other, {"layers": {0: {"kernel": np.ones((3, 4)), "bias": np.ones(4)}}},
                 "flax_nnx", ["layers/0"])  # fmt: skip
    np.testing.assert_array_equal(other.weight, 1)


def test_layers_over_several_batches_are_carried_over_too(rng):
    pair = Compensated(Conv2d(2, 3, 1), CrossIterationBatchNorm(3, window=2))
    state = export_state(scrambled(pair, rng), "pytorch", ["0", "1"])
    assert {name.split(".")[0] for name in state} == {"0", "1"}
    plain = Sequential(Conv2d(2, 3, 1), BatchNorm(3))
    import_state(plain, state, "pytorch", ["0", "1"])
    for name, array in plain.state_dict().items():
        np.testing.assert_array_equal(array, pair.state_dict()[name])


def test_without_gamma_and_beta(rng):
    layer = scrambled(BatchNorm(3, affine=False), rng)
    assert list(export_state(layer, "keras")) == ["moving_mean", "moving_variance"]
    state = export_state(layer, "onnx")  # the node has no inputs to leave out
    np.testing.assert_array_equal(state["scale"], 1)
    np.testing.assert_array_equal(state["B"], 0)
    other = BatchNorm(3, affine=False)
    import_state(other, state, "onnx")
    np.testing.assert_array_equal(other.running_var, layer.running_var)
    state["scale"] = np.array([1.0, 2.0, 1.0])
    with pytest.raises(ValueError, match=r"scale is .*; expected 1 everywhere: .* has no gamma"):
        import_state(other, state, "onnx")


def test_without_running_statistics(rng):
    layer = scrambled(BatchNorm(3, track_running_stats=False), rng)
    assert list(export_state(layer, "pytorch")) == ["weight", "bias"]
    other = BatchNorm(3, track_running_stats=False)
    import_state(other, export_state(layer, "pytorch"), "pytorch")
    np.testing.assert_array_equal(other.gamma, layer.gamma)
    with pytest.raises(
        ValueError, match=r"export_state: layer is BatchNorm.* which onnx has always"
    ):
        export_state(layer, "onnx")


# --- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda s: s.pop("n0/moving_mean"), ValueError,
         r"lacks \['n0/moving_mean'\] and has unknown \[\]"),
        (lambda s: s.update({"n1/moving_variance": np.full(2, -1.0)}), ValueError,
         "n1/moving_variance is .* no negative"),
        (lambda s: s.update(x=1), ValueError, r"unknown \['x'\]; expected exactly \['c0/kernel'"),
        (lambda s: s.update({"c0/kernel": np.ones((6, 2, 3, 2))}), ValueError,
         r"c0/kernel is .*\(6, 2, 3, 2\); expected shape \(3, 2, 2, 6\)"),
        (lambda s: s.update({"n1/beta": np.ones(3)}), ValueError, r"n1/beta is .*\(2,\)"),
        (lambda s: s.update({"d/kernel": np.ones((24, 5), complex)}), TypeError,
         "d/kernel is .* a type that becomes float64"),
    ],
)  # fmt: skip
def test_what_does_not_fit_changes_nothing(rng, change, error, message):
    net = network()
    before = net.state_dict()
    state = export_state(scrambled(network(), rng), "keras", NAMES)
    change(state)
    with pytest.raises(error, match=f"import_state: .*{message}"):
        import_state(net, state, "keras", NAMES)
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_missing_collection_is_named():
    state = export_state(BatchNorm(3), "flax_linen")
    del state["batch_stats"]
    with pytest.raises(ValueError, match=r"lacks \['batch_stats/mean', 'batch_stats/var'\]"):
        import_state(BatchNorm(3), state, "flax_linen")


class Strange(Layer):
    _parameter_names = ("gain",)

    def __init__(self):
        super().__init__()
        self.gain = np.ones(1)

    def forward(self, x, residual=None):
        raise NotImplementedError

    def _backward(self, dy, context):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((Dense(3, 4), "caffe"), ValueError, r"framework is 'caffe'; expected one of \('pytorch'"),
        ((np.ones(3), "keras"), TypeError, "layer is array .* expected a Layer"),
        ((Strange(), "keras"), TypeError, "layer is .*Strange.* expected a batch norm, Dense"),
        (
            (network(), "keras"),
            ValueError,
            "names is None; expected 5 names: of conv2d, batch_norm",
        ),
        ((network(), "keras", ["a"]), ValueError, r"names is \['a'\]; expected 5 names"),
        ((Dense(3, 4), "keras", "a"), ValueError, "names is 'a'; expected 1 names"),
        (
            (Sequential(Dense(3, 4), Dense(4, 3)), "keras", ["a", "a"]),
            ValueError,
            r"names is \['a', 'a'\]; expected a name of its own for each",
        ),
    ],
)
def test_refuses(arguments, error, message):
    with pytest.raises(error, match=f"export_state: {message}"):
        export_state(*arguments)


def test_refuses_a_state_that_is_no_mapping():
    with pytest.raises(TypeError, match=r"import_state: state is .* expected a mapping"):
        import_state(Dense(1, 1), [1.0], "keras")


# --- options --------------------------------------------------------------------------------


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_options_come_back(framework, affine):
    layer = BatchNorm(8, eps=1e-4, momentum=0.25, affine=affine)
    options = import_options(export_options(layer, framework), framework)
    running_var = "unbiased" if framework == "pytorch" else "biased"
    expected = {"eps": 1e-4, "momentum": 0.25, "affine": affine or framework == "onnx",
                "track_running_stats": True, "running_var": running_var}  # fmt: skip
    if framework not in ("pytorch", "onnx"):
        expected["axis"] = 1
    assert options == expected
    BatchNorm(8, **options)


def test_options_by_hand():
    layer = BatchNorm(8, momentum=0.25, eps=1e-3, axis=-1, affine=False)
    expected = {"epsilon": 1e-3, "momentum": 0.75, "axis": -1}
    assert export_options(layer, "keras") == expected | {"scale": False, "center": False}
    flax = expected | {"use_scale": False, "use_bias": False}
    assert export_options(layer, "flax_linen") == export_options(layer, "flax_nnx") == flax
    assert export_options(BatchNorm(8, momentum=0.25), "onnx") == {
        "epsilon": 1e-5,
        "momentum": 0.75,
    }
    cumulative = BatchNorm(8, momentum=None, track_running_stats=False)
    assert export_options(cumulative, "pytorch") == {
        "eps": 1e-5, "momentum": None, "affine": True, "track_running_stats": False,
    }  # fmt: skip
    assert export_options(DenseBatchNorm(2, 3), "keras")["axis"] == -1
    assert export_options(Conv2dBatchNorm(2, 3, 1), "keras")["axis"] == 1


def test_defaults_of_the_frameworks():
    found = {name: import_options({}, name) for name in FRAMEWORKS}
    assert {name: options["eps"] for name, options in found.items()} == {
        "pytorch": 1e-5, "keras": 1e-3, "flax_linen": 1e-5, "flax_nnx": 1e-5, "onnx": 1e-5,
    }  # fmt: skip
    assert {name: round(options["momentum"], 12) for name, options in found.items()} == {
        "pytorch": 0.1, "keras": 0.01, "flax_linen": 0.01, "flax_nnx": 0.01, "onnx": 0.1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("layer", "framework", "error", "message"),
    [
        (BatchNorm(3, ddof=1), "pytorch", ValueError, "ddof is 1; expected what pytorch has: 0"),
        (BatchNorm(3, momentum=None), "keras", ValueError, "momentum is None; expected what keras"),
        (BatchNorm(3, track_running_stats=False), "onnx", ValueError, "track_running_stats is"),
        (BatchNorm(3, axis=-1), "pytorch", ValueError, "axis is -1; expected what pytorch has: 1"),
        (BatchNorm((3, 4), axis=(1, 2)), "keras", ValueError, r"axis is \(1, 2\); .*: one axis"),
        (Dense(3, 4), "keras", TypeError, "layer is Dense"),
        (BatchNorm(3), "mxnet", ValueError, "framework is 'mxnet'"),
    ],
)
def test_refuses_options_that_others_lack(layer, framework, error, message):
    with pytest.raises(error, match=f"export_options: {message}"):
        export_options(layer, framework)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"center": "no"}, TypeError, "center is 'no'; expected True or False"),
        ({"renorm": True}, ValueError, "renorm is True; expected False"),
        ({"virtual_batch_size": 8}, ValueError, "virtual_batch_size is 8; expected None"),
        ({"momentum": None}, ValueError, "momentum is None; expected a number from 0 to 1"),
        ({"momentum": 1.5}, ValueError, "momentum is 1.5; expected a number from 0 to 1"),
        ({"epsilon": -1.0}, ValueError, "epsilon is -1.0; expected a finite number"),
        ({"axis": [1.0]}, TypeError, r"axis is \(1.0,\); expected an int, or a list"),
        (["epsilon"], TypeError, r"options is \['epsilon'\]; expected a mapping"),
    ],
)
def test_refuses_options(options, error, message):
    with pytest.raises(error, match=f"import_options: {message}"):
        import_options(options, "keras")
