"""States as they are found: without a gamma or a count, under other names, too large to be held."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm.interop.state import export_options, export_state, import_options, import_state
from nbnorm.layers import BatchNorm, Conv2d, Conv2dBatchNorm, Dense, Sequential

FRAMEWORKS = ["pytorch", "keras", "flax_linen", "flax_nnx", "onnx"]
KERAS = {
    "gamma": np.array([2.0, 3.0]),
    "beta": np.array([4.0, 5.0]),
    "moving_mean": np.array([6.0, 7.0]),
    "moving_variance": np.array([8.0, 9.0]),
}


def assert_imported(layer, state=KERAS):
    for own, theirs in (
        ("gamma", "gamma"), ("beta", "beta"), ("running_mean", "moving_mean"),
        ("running_var", "moving_variance"),
    ):  # fmt: skip
        np.testing.assert_array_equal(getattr(layer, own), state[theirs])


# --- gamma or beta alone --------------------------------------------------------------------


@pytest.mark.parametrize("affine", [True, False, "gamma", "beta"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_form_goes_out_and_comes_back(rng, framework, affine):
    layer, other = (BatchNorm(3, affine=affine, dtype=np.float64) for _ in range(2))
    for array in layer.state_dict().values():
        assert array is not None
    for array in (*layer.parameters().values(), *layer.buffers().values()):
        array[...] = rng.integers(2, 9, array.shape)
    import_state(other, export_state(layer, framework), framework)
    for name, array in layer.parameters().items():
        np.testing.assert_array_equal(getattr(other, name), array)
    # A layer made by the options exported computes the same.
    made = BatchNorm(
        3, **import_options(export_options(layer, framework), framework), dtype=np.float64
    )
    import_state(made, export_state(layer, framework), framework)
    x = rng.standard_normal((4, 3))
    np.testing.assert_allclose(made.eval()(x), layer.eval()(x), rtol=1e-14)


def test_what_a_state_lacks_is_a_constant():
    layer = BatchNorm(2)
    layer.gamma[:] = 7
    state = {name: array for name, array in KERAS.items() if name != "gamma"}
    import_state(layer, state, "keras")
    assert_imported(layer, KERAS | {"gamma": np.ones(2)})


def test_what_pytorch_has_for_one_of_the_two():
    assert list(export_state(BatchNorm(2, affine="gamma"), "pytorch"))[:2] == [
        "weight", "running_mean",
    ]  # fmt: skip
    assert export_options(BatchNorm(2, affine="gamma"), "pytorch")["bias"] is False
    assert import_options({"affine": True, "bias": False}, "pytorch")["affine"] == "gamma"
    assert import_options({"affine": False, "bias": True}, "pytorch")["affine"] is False
    state = export_state(BatchNorm(2, affine="beta"), "pytorch")  # there is no bias alone
    np.testing.assert_array_equal(state["weight"], 1)
    untracked = BatchNorm(2, affine="beta", track_running_stats=False)
    np.testing.assert_array_equal(export_state(untracked, "pytorch")["weight"], 1)


def test_options_of_one_of_the_two():
    assert import_options({"scale": False, "center": True}, "keras")["affine"] == "beta"
    assert import_options({"use_bias": False}, "flax_linen")["affine"] == "gamma"
    exported = export_options(BatchNorm(2, affine="beta"), "keras")
    assert (exported["scale"], exported["center"]) == (False, True)


# --- names ----------------------------------------------------------------------------------


def test_a_state_without_a_count_leaves_the_count():
    layer = BatchNorm(2)
    layer(np.array([[1.0, 2.0], [3.0, 5.0]], np.float32))
    names = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean",
             "moving_variance": "running_var"}  # fmt: skip
    import_state(layer, {names[name]: array for name, array in KERAS.items()}, "pytorch")
    assert_imported(layer)
    assert layer.num_batches_tracked == 1


@pytest.mark.parametrize("form", ["{}", "m/bn/{}", "a/m/bn/{}", "bn/{}:0", "m/bn/{}:0"])
def test_names_with_the_models_in_front_and_a_number_behind(form):
    layer = BatchNorm(2)
    names = None if form == "{}" else ["bn"]
    import_state(layer, {form.format(name): array for name, array in KERAS.items()}, "keras", names)
    assert_imported(layer)


def test_a_name_that_fits_several_is_refused():
    state = {f"{m}/bn/{name}": array for m in "ab" for name, array in KERAS.items()}
    net = Sequential(BatchNorm(2), BatchNorm(2))
    with pytest.raises(ValueError, match=r"bn/gamma may be any of \['a/bn/gamma', 'b/bn/gamma'\]"):
        import_state(net, state, "keras", ["bn", "bn"])
    import_state(net, state, "keras", ["a/bn", "b/bn"])
    assert_imported(net[1])


def test_onnxs_names_before_opset_14():
    state = {"bn.scale": KERAS["gamma"], "bn.B": KERAS["beta"], "bn.mean": KERAS["moving_mean"],
             "bn.var": KERAS["moving_variance"]}  # fmt: skip
    layer = BatchNorm(2)
    import_state(layer, state, "onnx", ["bn"])
    assert_imported(layer)


@pytest.mark.parametrize("axis", [3, [3], (3,)])
def test_an_axis_in_a_list(axis):
    assert import_options({"axis": axis}, "keras")["axis"] == 3
    assert import_options({"axis": [1, 2]}, "flax_linen")["axis"] == (1, 2)


def test_onnxs_old_attributes():
    assert import_options({"spatial": 0}, "onnx")["axis"] == (1, 2, 3)
    assert import_options({"spatial": 0}, "onnx", ndim=2)["axis"] == (1,)
    assert "axis" not in import_options({"spatial": 1, "is_test": 1}, "onnx")
    assert "axis" not in import_options({"training_mode": 0}, "onnx")
    with pytest.raises(ValueError, match="import_options: training_mode is 1; expected 0"):
        import_options({"training_mode": 1}, "onnx")


# --- kernels --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["kernel", "depthwise_kernel", "depthwise_kernel:0"])
@pytest.mark.parametrize("multiplier", [1, 2])
def test_keras_depthwise_kernels(rng, multiplier, name):
    kernel = rng.standard_normal((3, 2, 4, multiplier))
    layer = Conv2d(
        4, 4 * multiplier, (3, 2), groups=4, bias=False, axis=-1, dtype=np.float64, rng=0
    )
    import_state(layer, {f"dw/{name}": kernel}, "keras", ["dw"])
    x = rng.standard_normal((1, 3, 2, 4))
    expected = np.einsum("nrsc,rscm->ncm", x, kernel).reshape(1, 1, 1, -1)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-12)


def test_a_separable_convolution_is_two_layers_of_one_name(rng):
    depthwise, pointwise = rng.standard_normal((3, 3, 4, 1)), rng.standard_normal((1, 1, 4, 5))
    net = Sequential(
        Conv2d(4, 4, 3, groups=4, bias=False, dtype=np.float64),
        Conv2d(4, 5, 1, dtype=np.float64),
    )
    state = {"sep/depthwise_kernel": depthwise, "sep/pointwise_kernel": pointwise,
             "sep/bias": np.arange(5.0)}  # fmt: skip
    import_state(net, state, "keras", ["sep", "sep"])
    np.testing.assert_array_equal(net[0].weight[:, 0], depthwise[..., 0].transpose(2, 0, 1))
    np.testing.assert_array_equal(net[1].weight[..., 0, 0], pointwise[0, 0].T)
    np.testing.assert_array_equal(net[1].bias, np.arange(5.0))


# --- numbers --------------------------------------------------------------------------------


def test_statistics_that_float32_cannot_hold_are_not_exported():
    net = Sequential(Conv2dBatchNorm(1, 2, 1))
    net[0].running_var[1] = 1e60
    message = r"export_state: bn\.running_var is .*; expected numbers that float32 can hold"
    with pytest.raises(ValueError, match=message):
        export_state(net, "pytorch", ["c", "bn"])


def test_a_variance_may_vanish_where_eps_is_added():
    for eps, refused in ((1e-5, False), (0.0, True)):
        layer = BatchNorm(2, eps=eps)
        layer.running_var[1] = 1e-60
        if not refused:
            assert export_state(layer, "keras")["moving_variance"][1] == 0
            continue
        with pytest.raises(ValueError, match=r"moving_variance is .* float32 can hold"):
            export_state(layer, "keras")


def test_numbers_too_large_are_not_imported():
    layer = BatchNorm(2)
    before = layer.state_dict()
    message = "import_state: gamma is .*; expected numbers that float32 can hold"
    with pytest.raises(ValueError, match=message):
        import_state(layer, KERAS | {"gamma": np.array([1e60, 1.0])}, "keras")
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


class Tensor:
    """What PyTorch's tensors are to NumPy."""

    def __init__(self, values, itemsize=4, grad=False):
        self.values, self.itemsize, self.grad = values, itemsize, grad

    def detach(self):
        return Tensor(self.values, self.itemsize)

    def cpu(self):
        return self

    def is_floating_point(self):
        return True

    def element_size(self):
        return self.itemsize

    def float(self):
        return Tensor(self.values)

    def __array__(self, dtype=None, copy=None):
        if self.grad:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad")
        if self.itemsize < 4:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.values


@pytest.mark.parametrize(
    "options", [{"itemsize": 2}, {"grad": True}, {"itemsize": 2, "grad": True}]
)
def test_tensors_that_numpy_does_not_read(options):
    layer = BatchNorm(2)
    state = {name: Tensor(array, **options) for name, array in KERAS.items()}
    import_state(layer, state, "keras")
    assert_imported(layer)


class Unreadable:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("no storage")

    def __repr__(self):
        return "Unreadable()"


def test_what_cannot_be_read_is_named():
    message = r"import_state: kernel is Unreadable\(\); expected numbers in an array or tensor"
    with pytest.raises(TypeError, match=message):
        import_state(Dense(2, 2, bias=False), {"kernel": Unreadable()}, "keras")
