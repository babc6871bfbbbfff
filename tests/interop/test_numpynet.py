"""NumPyNet's flat list and files: the order, what is left out, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm.interop.numpynet import export_weights, import_weights, load_weights, save_weights
from nbnorm.layers import (
    Activation,
    BatchNorm,
    Conv2d,
    Conv2dBatchNorm,
    Dense,
    DenseBatchNorm,
    Flatten,
    Sequential,
)


def network(seed=0, **options):
    options = {"dtype": np.float64} | options
    return Sequential(
        Conv2d(3, 4, (2, 3), axis=-1, rng=seed, **options),
        BatchNorm((4, 3, 4), axis=(1, 2, 3), track_running_stats=False, **options),
        Activation("relu"),
        Flatten(),
        DenseBatchNorm(48, 5, rng=seed, bias=True, **options),
        Dense(5, 2, rng=seed, **options),
    )


def scrambled(layer, rng):
    for array in layer.parameters().values():
        array[...] = rng.standard_normal(array.shape)
    return layer


def test_the_order_is_that_of_numpynet(rng):
    """Each layer's bias and weights, raveled in NumPyNet's layout, one after the other."""
    net = scrambled(network(), rng)
    conv, norm, _, _, both, dense = net
    expected = [
        conv.bias, conv.weight.transpose(2, 3, 1, 0), norm.beta, norm.gamma, both.bias,
        both.weight.T, both.beta, both.gamma, dense.bias, dense.weight.T,
    ]  # fmt: skip
    np.testing.assert_array_equal(
        export_weights(net), np.concatenate([part.ravel() for part in expected])
    )


def test_as_numpynet_computes(rng):
    """Its connected layer: x weights + bias; its convolution: an einsum over windows."""
    conv = Conv2d(2, 3, 2, axis=-1, dtype=np.float64)
    x = rng.standard_normal((1, 2, 2, 2))
    bias, weights = rng.standard_normal(3), rng.standard_normal((2, 2, 2, 3))
    import_weights(conv, np.concatenate([bias, weights.ravel()]))
    expected = np.einsum("nijk,ijko->no", x, weights) + bias
    np.testing.assert_allclose(conv(x)[:, 0, 0], expected, rtol=1e-12)

    dense = Dense(4, 2, dtype=np.float64)
    bias, weights = rng.standard_normal(2), rng.standard_normal((4, 2))
    import_weights(dense, [*bias, *weights.ravel()])
    x = rng.standard_normal((3, 4))
    np.testing.assert_allclose(dense(x), x @ weights + bias, rtol=1e-12)


def test_through_a_file(rng, tmp_path):
    net, other = scrambled(network(), rng), network(seed=1)
    path = tmp_path / "net.weights"
    save_weights(net, path)
    content = path.read_bytes()
    assert np.frombuffer(content[:24], "<i8").tolist() == [1, 0, 0]
    load_weights(other, path)
    for name, array in other.parameters().items():
        np.testing.assert_array_equal(array, net.parameters()[name])
    path.write_bytes(np.array([1, 0, 0], "<i4").tobytes() + content[24:])  # of Windows
    load_weights(network(seed=2), str(path))


def test_what_a_layer_lacks_is_a_constant():
    layer = Sequential(Dense(1, 2, bias=False), BatchNorm(2, affine="beta"))
    layer[0].weight[...] = 7
    layer[1].beta[...] = 8
    flat = export_weights(layer)
    np.testing.assert_array_equal(flat, [0, 0, 7, 7, 8, 8, 1, 1])
    import_weights(layer, flat)
    for index, name, value in ((0, "0.bias", 1.0), (6, "1.gamma", 2.0)):
        changed = flat.copy()
        changed[index] = value
        with pytest.raises(ValueError, match=rf"{name} is .*; expected [01] everywhere"):
            import_weights(layer, changed)
    assert len(export_weights(Flatten())) == 0


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (
            [1.0, 2.0],
            ValueError,
            r"weights is array of float64 and shape \(2,\); expected .*\(3,\)",
        ),
        ([1.0] * 4, ValueError, r"expected shape \(3,\)"),
        ([[1.0] * 3], ValueError, r"expected shape \(3,\)"),
        ([1.0, 1e60, 1.0], ValueError, "weight is .* numbers that float32 can hold"),
        (["a", "b", "c"], TypeError, "expected an array of numbers"),
        ([1j] * 3, TypeError, "expected an array of numbers"),
        ([[1.0], [1.0, 2.0]], TypeError, "expected an array of numbers"),
        (None, TypeError, "expected an array of numbers"),
    ],
)
def test_what_does_not_fit_changes_nothing(weights, error, message):
    layer = Dense(2, 1, rng=0)
    before = layer.state_dict()
    with pytest.raises(error, match=f"import_weights: .*{message}"):
        import_weights(layer, weights)
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        (Conv2d(2, 3, 1), ValueError, "axis is 1; expected -1, as in NumPyNet"),
        (Conv2d(2, 2, 1, groups=2, axis=-1), ValueError, "groups is 2; expected 1, as"),
        (Conv2dBatchNorm(2, 3, 1, axis=-1), TypeError, "layer is Conv2dBatchNorm.*; expected a"),
        ("net", TypeError, "layer is 'net'; expected a Layer"),
    ],
)
def test_layers_that_numpynet_has_not(layer, error, message):
    with pytest.raises(error, match=f"export_weights: {message}"):
        export_weights(layer)


def test_files_that_are_wrong(tmp_path):
    layer, path = Dense(2, 1), tmp_path / "file"
    good = np.array([1, 0, 0], "<i8").tobytes() + np.zeros(3).tobytes()
    for content, message in (
        (good[:-1], r"47 bytes long; expected 48, of a version and 3 numbers"),
        (good + bytes(8), "56 bytes long"),
        (b"", "0 bytes long"),
        (bytes(24) + good[24:], "of another version; expected 1 0 0"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"load_weights: .*{message}"):
            load_weights(layer, path)
    with pytest.raises(ValueError, match="is no regular file"):
        load_weights(layer, tmp_path)
    with pytest.raises(TypeError, match="save_weights: path is 1; expected a path"):
        save_weights(layer, 1)
