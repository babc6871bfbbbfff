"""The file of weights: byte for byte as darknet packs it, and what is wrong with a bad one."""

from __future__ import annotations

import re
import struct

import numpy as np
import pytest

from nbnorm.interop.darknet import Header, load_network
from nbnorm.interop.darknet.dialect import DIALECTS
from tests.interop.darknet.files import cfg_text, floats, image_cfg, packed, written

NORMALIZED = image_cfg(
    2, 3, 3, "convolutional batch_normalize=1 filters=3 size=2 groups=1 activation=leaky"
)
BIASES, SCALES = [0.5, -1.0, 0.25], [1.5, -2.0, 3.0]
MEAN, VARIANCE = [0.125, 7.0, -0.5], [4.0, 0.0, 0.01]
WEIGHTS = np.arange(24).reshape(3, 2, 2, 2) / 8 - 1
FILE = packed(BIASES, SCALES, MEAN, VARIANCE, WEIGHTS)
HEADER_BYTES = 20

# Every kind of section that stores numbers, in each order there is.
EVERYTHING = image_cfg(
    2, 4, 4,
    "convolutional batch_normalize=1 filters=4 size=3 groups=2 pad=1 activation=relu",
    "batchnorm",
    "convolutional filters=3 activation=linear",
    "connected batch_normalize=1 output=5 activation=leaky",
    "batchnorm",
    "connected output=2",
)  # fmt: skip
WITHOUT_BIASES = 4 * 4 + 4 * 9 + 3 * 4 + 3 + 3 * 4 + 4 * 5 + 5 * 48 + 3 * 5 + 2 + 2 * 5
WITH_BIASES = WITHOUT_BIASES + 4 + 5


def numbers_of_any_size(rng, count):
    """Positive float32 of all magnitudes, zeros of both signs, denormals and the largest."""
    bits = rng.integers(0, 0x7F800000, count, dtype=np.uint32)
    values = bits.view(np.float32)
    values[:5] = 0.0, -0.0, 1e-45, np.finfo(np.float32).max, np.finfo(np.float32).tiny
    return values


# --- what is where --------------------------------------------------------------------------


def test_a_convolution_stores_its_weights_last(tmp_path):
    net = load_network(*written(tmp_path, NORMALIZED, FILE), dialect="alexeyab")
    layer = net[0].layer
    np.testing.assert_array_equal(layer.beta, BIASES)
    np.testing.assert_array_equal(layer.gamma, SCALES)
    np.testing.assert_array_equal(layer.running_mean, np.float32(MEAN))
    np.testing.assert_array_equal(layer.running_var, np.float32(VARIANCE))
    np.testing.assert_array_equal(layer.weight, WEIGHTS)
    assert net.header == Header(0, 2, 0, seen=7)


def test_a_connected_layer_stores_its_weights_before_batch_norm(tmp_path):
    cfg = cfg_text("net inputs=2", "connected batch_normalize=1 output=3")
    weights = [[1, 2], [3, 4], [5, 6]]
    file = packed(BIASES, weights, SCALES, MEAN, VARIANCE)
    layer = load_network(*written(tmp_path, cfg, file), dialect="alexeyab")[0].layer
    np.testing.assert_array_equal(layer.weight, weights)
    np.testing.assert_array_equal(layer.beta, BIASES)
    np.testing.assert_array_equal(layer.gamma, SCALES)
    np.testing.assert_array_equal(layer.running_mean, np.float32(MEAN))
    np.testing.assert_array_equal(layer.running_var, np.float32(VARIANCE))


def test_layers_without_batch_norm_store_biases_and_weights(tmp_path):
    cfg = image_cfg(1, 1, 2, "convolutional filters=2", "connected output=1")
    file = packed([1, 2], [3, 4], [5], [6, 7, 8, 9])
    net = load_network(*written(tmp_path, cfg, file))
    np.testing.assert_array_equal(net[0].layer.bias, [1, 2])
    np.testing.assert_array_equal(net[0].layer.weight.ravel(), [3, 4])
    np.testing.assert_array_equal(net[1].layer.bias, [5])
    np.testing.assert_array_equal(net[1].layer.weight, [[6, 7, 8, 9]])


@pytest.mark.parametrize(
    ("version", "form", "transposed"),
    [
        ((0, 1, 0), "<iiiI", False),
        ((0, 2, 0), "<iiiQ", False),
        ((0, 2, 5), "<iiiQ", False),
        ((1, 0, 0), "<iiiQ", False),
        ((999, 999, 0), "<iiiQ", False),
        ((1000, 0, 0), "<iiiI", False),
        ((0, 1000, 3), "<iiiI", False),
        ((1001, 0, 0), "<iiiI", True),
        ((0, 1001, 0), "<iiiI", True),
    ],
)
def test_headers_of_all_versions(tmp_path, rng, version, form, transposed):
    cfg = cfg_text("net inputs=3", "connected output=2", "connected output=3 batch_normalize=1")
    seen = 2**40 + 1 if form.endswith("Q") else 2**32 - 1
    numbers = rng.standard_normal(2 + 6 + 3 + 6 + 9)
    numbers[-3:] **= 2
    file = struct.pack(form, *version, seen) + floats(numbers)
    net = load_network(*written(tmp_path, cfg, file), dialect="pjreddie")
    assert net.header == (*version, seen)
    weights = np.float32(numbers[2:8])
    expected = weights.reshape(3, 2).T if transposed else weights.reshape(2, 3)
    np.testing.assert_array_equal(net[0].layer.weight, expected)
    net.save_weights(tmp_path / "again.weights")
    assert (tmp_path / "again.weights").read_bytes() == file


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("count", [WITHOUT_BIASES, WITH_BIASES])
def test_what_was_read_is_written_byte_for_byte(tmp_path, rng, dialect, count):
    numbers = numbers_of_any_size(rng, count)
    file = packed() + numbers.tobytes()
    net = load_network(*written(tmp_path, EVERYTHING, file), dialect=dialect)
    net.save_weights(tmp_path / "again.weights")
    assert (tmp_path / "again.weights").read_bytes() == file


def test_every_variance_comes_back(rng):
    variances = numbers_of_any_size(rng, 1_000_000)
    dialect = DIALECTS["pjreddie"]
    kept = dialect.to_layer(variances)
    back = dialect.to_file(kept).astype(np.float32)
    np.testing.assert_array_equal(back.view(np.uint32), variances.view(np.uint32))
    # sqrt(running_var + eps) is sqrt(variance) + 1e-6, but for float64's rounding.
    root = np.sqrt(kept + dialect.options()["eps"])
    np.testing.assert_allclose(root, np.sqrt(variances.astype(np.float64)) + 1e-6, rtol=1e-15)


def test_changes_are_saved(tmp_path):
    net = load_network(*written(tmp_path, NORMALIZED, FILE))
    net.parameters()["0.gamma"][1] = 9
    net.header = net.header._replace(seen=8)
    net.save_weights(str(tmp_path / "again.weights"))
    expected = packed(BIASES, [1.5, 9, 3], MEAN, VARIANCE, WEIGHTS, seen=8)
    assert (tmp_path / "again.weights").read_bytes() == expected


@pytest.mark.parametrize(("dialect", "version"), [("pjreddie", (0, 2, 0)), ("alexeyab", (0, 2, 5))])
def test_without_a_file_layers_start_random(tmp_path, dialect, version):
    (cfg,) = written(tmp_path, EVERYTHING)
    one, same, other = (load_network(cfg, dialect=dialect, rng=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one[0].layer.weight, same[0].layer.weight)
    assert (one[0].layer.weight != other[0].layer.weight).all()
    one.save_weights(tmp_path / "new.weights")
    file = (tmp_path / "new.weights").read_bytes()
    assert struct.unpack_from("<iiiQ", file) == (*version, 0)
    count = WITH_BIASES if dialect == "alexeyab" else WITHOUT_BIASES
    assert len(file) == HEADER_BYTES + 4 * count


# --- [batchnorm] ----------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_length_tells_whether_batchnorm_has_biases(tmp_path, dialect):
    cfg = image_cfg(2, 1, 1, "batchnorm")
    net = load_network(*written(tmp_path, cfg, packed([1, 2], [3, 4], [5, 6])), dialect=dialect)
    assert list(net.parameters()) == ["0.gamma"]
    np.testing.assert_array_equal(net[0].layer.gamma, [1, 2])
    np.testing.assert_array_equal(net[0].layer.running_mean, [3, 4])
    file = packed([9, 8], [1, 2], [3, 4], [5, 6])
    net = load_network(*written(tmp_path, cfg, file), dialect=dialect)
    np.testing.assert_array_equal(net[0].layer.beta, [9, 8])
    np.testing.assert_array_equal(net[0].layer.gamma, [1, 2])
    np.testing.assert_array_equal(net[0].layer.running_mean, [3, 4])


def test_an_argument_says_whether_batchnorm_has_biases(tmp_path):
    paths = written(tmp_path, image_cfg(2, 1, 1, "batchnorm"), packed([1, 2], [3, 4], [5, 6]))
    assert load_network(*paths, batchnorm_biases=False)[0].layer.beta is None
    message = (
        r"layer 0 \[batchnorm\]: rolling_variance at byte 44 has 0 bytes to the end; expected 8"
    )
    with pytest.raises(ValueError, match=message):
        load_network(*paths, batchnorm_biases=True)
    assert load_network(paths[0], batchnorm_biases=True)[0].layer.beta is not None


# --- bad files ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 11, 12, 15, 19])
def test_a_file_shorter_than_its_header(tmp_path, size):
    paths = written(tmp_path, NORMALIZED, FILE[:size])
    expected = 12 if size < 12 else 20
    message = f"test.weights' has {size} bytes; expected a header of {expected} at byte 0"
    with pytest.raises(ValueError, match=message):
        load_network(*paths)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (20, "biases at byte 20 has 0 bytes to the end; expected 12"),
        (20 + 11, "biases at byte 20 has 11 bytes to the end; expected 12"),
        (20 + 12 + 4, "scales at byte 32 has 4 bytes to the end; expected 12"),
        (20 + 25, "rolling_mean at byte 44 has 1 bytes to the end; expected 12"),
        (20 + 36, "rolling_variance at byte 56 has 0 bytes to the end; expected 12"),
        (20 + 48, "weights at byte 68 has 0 bytes to the end; expected 96"),
        (len(FILE) - 1, "weights at byte 68 has 95 bytes to the end; expected 96"),
    ],
)
def test_a_file_that_ends_early(tmp_path, size, message):
    paths = written(tmp_path, NORMALIZED, FILE[:size])
    with pytest.raises(ValueError, match=rf"test\.weights', layer 0 \[convolutional\]: {message}"):
        load_network(*paths)


@pytest.mark.parametrize("extra", [1, 4, 12])
def test_a_file_that_goes_on(tmp_path, extra):
    cfg = NORMALIZED + "\n[avgpool]\n"
    paths = written(tmp_path, cfg, FILE + bytes(extra))
    message = rf"test\.weights', layer 1 \[avgpool\]: the last, ends at byte 164 and {extra} bytes"
    with pytest.raises(ValueError, match=message):
        load_network(*paths)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("place", "name"),
    [(0, "biases"), (5, "scales"), (7, "rolling_mean"), (9, "rolling_variance"), (35, "weights")],
)
def test_a_number_that_is_not_finite(tmp_path, value, place, name):
    file = bytearray(FILE)
    byte = HEADER_BYTES + 4 * place
    struct.pack_into("<f", file, byte, value)
    paths = written(tmp_path, NORMALIZED, bytes(file))
    message = rf"layer 0 \[convolutional\]: {name} is {value} at byte {byte}; expected finite"
    with pytest.raises(ValueError, match=message):
        load_network(*paths)


def test_a_negative_variance(tmp_path):
    paths = written(tmp_path, NORMALIZED, packed(BIASES, SCALES, MEAN, [1, 2, -1e-9], WEIGHTS))
    message = r"rolling_variance is -9.*e-10 at byte 64; expected no negative variance"
    with pytest.raises(ValueError, match=message):
        load_network(*paths)


def test_what_is_not_to_be_saved(tmp_path):
    net = load_network(*written(tmp_path, NORMALIZED, FILE))
    target = tmp_path / "again.weights"
    with pytest.raises(ValueError, match=r"Network\.save_weights: the network is folded"):
        net.fold().save_weights(target)
    net[0].layer.running_mean[1] = 1e39  # finite in float64
    message = r"Network\.save_weights: layer 0 \[convolutional\]: rolling_mean is not finite"
    with pytest.raises(ValueError, match=message):
        net.save_weights(target)
    net[0].layer.running_mean[1] = 0
    net.header = Header(0, 1, 0, seen=2**32)
    with pytest.raises(ValueError, match=r"Network\.save_weights: header is .*seen=4294967296"):
        net.save_weights(target)
    assert not target.exists()
    with pytest.raises(TypeError, match=r"Network\.save_weights: path is 3; expected a path"):
        net.save_weights(3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"cfg": 1}, TypeError, "cfg is 1; expected a path"),
        ({"weights": b""}, TypeError, "weights is b''; expected a path"),
        ({"dialect": "darknet"}, ValueError, "dialect is 'darknet'; expected one of"),
        ({"eps": -1.0}, ValueError, "eps is -1.0; expected a finite number, 0 or more"),
        ({"momentum": 1.5}, ValueError, "momentum is 1.5; expected a number from 0 to 1"),
        ({"size": 0}, ValueError, "size is 0; expected an int of 1 or more"),
    ],
)
def test_wrong_arguments(tmp_path, arguments, error, message):
    (cfg,) = written(tmp_path, NORMALIZED)
    with pytest.raises(error, match=re.escape(f"load_network: {message}")):
        load_network(**{"cfg": cfg, **arguments})


def test_missing_files(tmp_path):
    (cfg,) = written(tmp_path, NORMALIZED)
    for arguments in ([tmp_path / "none.cfg"], [cfg, tmp_path / "none.weights"]):
        with pytest.raises(FileNotFoundError):
            load_network(*arguments)
