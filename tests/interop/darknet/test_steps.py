"""Each section against the numbers that darknet's loops give, in float64."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm.interop.darknet import load_network
from tests.interop.darknet import naive
from tests.interop.darknet.files import cfg_text, image_cfg, packed, written

# float32 rounds to 6e-8, sums here have at most some 30 terms of about 1.
CLOSE = {"rtol": 2e-6, "atol": 4e-6}


def image(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def parameters(rng, k):
    """Biases, scales, means and variances; one variance so small that the place of eps shows."""
    variance = rng.uniform(0.1, 4, k)
    variance[-1] = 1e-11
    rows = rng.standard_normal(k), rng.uniform(0.5, 2, k), rng.standard_normal(k), variance
    return np.float32(rows)


def assert_channels_close(y, truth):
    """Channels differ in size by that small variance: each is measured by its largest number."""
    assert y.shape == truth.shape
    assert y.dtype == np.float32
    scale = np.abs(truth).max(axis=tuple(i for i in range(truth.ndim) if i != 1), keepdims=True)
    scale[(scale == 0) | ~np.isfinite(scale)] = 1
    np.testing.assert_allclose(y / scale, truth / scale, **CLOSE)


@pytest.fixture
def run(tmp_path):
    """Return what a network of some sections gives for x, with these numbers in its file."""

    def run(x, *sections, numbers=None, **options):
        if x.ndim == 4:
            cfg = image_cfg(*x.shape[1:], *sections)
        else:
            cfg = cfg_text(f"net inputs={x.shape[1]}", *sections)
        file = None if numbers is None else packed(*numbers)
        net = load_network(*written(tmp_path, cfg, file), **options)
        y, before = net(x), x.copy()
        assert_channels_close(net.fold()(x), y)
        np.testing.assert_array_equal(x, before)  # nothing is written over
        assert y.shape == (len(x), *net[-1].shape)
        return y

    return run


@pytest.mark.parametrize("dialect", ["pjreddie", "alexeyab"])
def test_convolution_with_batch_norm(run, rng, dialect):
    x, weight = image(rng, 2, 3, 5, 6), image(rng, 4, 3, 3, 3)
    numbers = parameters(rng, 4)
    y = run(
        x, "convolutional batch_normalize=1 filters=4 size=3 pad=1 stride=2 activation=leaky",
        numbers=[numbers, weight], dialect=dialect,
    )  # fmt: skip
    z = naive.convolution(x, weight, (2, 2), padding=1)
    assert_channels_close(y, naive.ACTIVATIONS["leaky"](naive.normalized(z, *numbers, dialect)))


def test_convolution_with_all_its_options(run, rng):
    x, weight, bias = image(rng, 1, 4, 7, 9), image(rng, 6, 2, 3, 3), image(rng, 6)
    y = run(
        x, "convolutional filters=6 groups=2 size=3 pad=1 stride_x=1 stride_y=2 dilation=2 "
        "activation=leaky",
        numbers=[bias, weight],
    )  # fmt: skip
    z = naive.convolution(x, weight, (2, 1), padding=2, dilation=2, groups=2)
    z += bias[:, np.newaxis, np.newaxis]
    np.testing.assert_allclose(y, naive.ACTIVATIONS["leaky"](z), **CLOSE)


def test_convolution_is_logistic_by_default(run, rng):
    x, weight, bias = image(rng, 2, 3, 2, 2), image(rng, 4, 3, 1, 1), image(rng, 4)
    z = naive.convolution(x, weight) + bias[:, np.newaxis, np.newaxis]
    y = run(x, "convolutional filters=4", numbers=[bias, weight])
    np.testing.assert_allclose(y, naive.logistic(z), **CLOSE)
    numbers = parameters(rng, 4)
    numbers[3, -1] = 1
    y = run(x, "convolutional filters=4 batch_normalize=1", numbers=[numbers, weight])
    truth = naive.logistic(naive.normalized(naive.convolution(x, weight), *numbers, "pjreddie"))
    np.testing.assert_allclose(y, truth, **CLOSE)


@pytest.mark.parametrize("eps", [0.0, 0.5])
@pytest.mark.parametrize("dialect", ["pjreddie", "alexeyab"])
def test_another_eps_stays_in_its_place(run, rng, dialect, eps):
    x = image(rng, 2, 3, 2, 2)
    biases, scales, mean, variance = parameters(rng, 3)
    y = run(x, "batchnorm", numbers=[biases, scales, mean, variance], dialect=dialect, eps=eps)
    column = (slice(None), np.newaxis, np.newaxis)
    variance = variance.astype(np.float64)
    root = np.sqrt(variance) + eps if dialect == "pjreddie" else np.sqrt(variance + eps)
    truth = (x - mean[column]) / root[column] * scales[column] + biases[column]
    assert_channels_close(y, truth)


@pytest.mark.parametrize(("dialect", "momentum"), [("pjreddie", 0.01), ("alexeyab", 0.1)])
def test_layers_train_by_their_dialect(tmp_path, rng, dialect, momentum):
    x = image(rng, 8, 2, 3, 3)
    cfg = image_cfg(2, 3, 3, "batchnorm")
    net = load_network(*written(tmp_path, cfg), dialect=dialect)
    layer = net[0].layer
    assert not layer.training
    layer.train()
    y = net(x)
    mean, var = x.mean((0, 2, 3), np.float64), x.var((0, 2, 3), np.float64, ddof=1)
    truth = naive.normalized(x, [0, 0], [1, 1], mean, var, dialect)  # by m - 1, as both divide
    # In the older dialect sqrt(var + 1e-12) for sqrt(var) + 1e-6: 1e-6 of y.
    np.testing.assert_allclose(y, truth, **CLOSE)
    np.testing.assert_allclose(layer.running_mean, momentum * mean, rtol=1e-6)
    start = layer.running_var - momentum * var
    np.testing.assert_allclose(start, 1 - momentum, rtol=1e-5)
    assert load_network(tmp_path / "test.cfg", momentum=0.25)[0].layer.momentum == 0.25


@pytest.mark.parametrize("dialect", ["pjreddie", "alexeyab"])
def test_connected(run, rng, dialect):
    x, weight = image(rng, 3, 2, 2, 3), image(rng, 5, 12)
    rows = x.reshape(3, 12).astype(np.float64)
    biases, *normalization = parameters(rng, 5)
    y = run(
        x, "connected output=5 batch_normalize=1 activation=relu",
        numbers=[biases, weight, *normalization], dialect=dialect,
    )  # fmt: skip
    truth = naive.normalized(rows @ weight.T, biases, *normalization, dialect)
    assert_channels_close(y, np.maximum(truth, 0))
    y = run(x, "connected output=5", numbers=[biases, weight], dialect=dialect)
    np.testing.assert_allclose(y, naive.logistic(rows @ weight.T + biases), **CLOSE)


def test_convolution_of_what_a_connected_layer_gives(run, rng):
    x = image(rng, 2, 3)
    first, second = image(rng, 4, 3), image(rng, 2, 4, 1, 1)
    sections = "connected output=4 activation=linear", "convolutional filters=2 activation=linear"
    y = run(x, *sections, numbers=[np.zeros(4), first, np.zeros(2), second])
    truth = x.astype(np.float64) @ first.T @ second.reshape(2, 4).T
    np.testing.assert_allclose(y.reshape(2, 2), truth, **CLOSE)


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("dialect", ["pjreddie", "alexeyab"])
def test_batchnorm(run, rng, dialect, biases):
    x = image(rng, 2, 3, 4, 5)
    numbers = parameters(rng, 3)
    if not biases:
        numbers[0] = 0
    y = run(x, "batchnorm", numbers=numbers if biases else numbers[1:], dialect=dialect)
    assert_channels_close(y, naive.normalized(x, *numbers, dialect))


@pytest.mark.parametrize("section", ["convolutional filters=3", "connected output=3"])
@pytest.mark.parametrize("activation", ["linear", "leaky"])
def test_batchnorm_folds_into_what_is_before(tmp_path, rng, section, activation):
    x = image(rng, 2, 2, 4, 4)
    sections = f"{section} activation={activation}", "batchnorm", "softmax"
    net = load_network(*written(tmp_path, image_cfg(2, 4, 4, *sections)), rng=0)
    net.buffers()["1.running_var"][...] = 4
    net.buffers()["1.running_mean"][...] = 0.5, 1, -1
    folded = net.fold()
    is_gone = not any("running_var" in name for name in folded.buffers())
    assert is_gone == (activation == "linear")
    assert folded[1].sources == ((-1,) if is_gone else (0,))
    assert list(folded.parameters())[:2] == [
        f"{int(is_gone)}.{name}" for name in ("weight", "bias")
    ]
    np.testing.assert_allclose(folded(x), net(x), **CLOSE)


@pytest.mark.parametrize("activation", naive.ACTIVATIONS)
def test_activations(run, rng, activation):
    x = 3 * image(rng, 2, 3, 4, 4)
    y = run(x, "maxpool", f"shortcut from=0 activation={activation}")
    truth = naive.ACTIVATIONS[activation](2 * x.astype(np.float64))
    np.testing.assert_allclose(y, truth, **CLOSE)


def test_logistic_of_what_exp_cannot_hold(run):
    x = np.float32([[-1e4, -100, 0, 100, 1e4, np.nan]])
    y = run(x, "dropout", "shortcut from=0 activation=logistic")
    np.testing.assert_array_equal(y, np.float32([[0, 0, 0.5, 1, 1, np.nan]]))


@pytest.mark.parametrize("activation", ["linear", "leaky", "logistic"])
def test_shortcut_of_equal_shapes(run, rng, activation):
    x, weight, bias = image(rng, 2, 3, 4, 4), image(rng, 3, 3, 1, 1), image(rng, 3)
    y = run(
        x, "maxpool", "convolutional filters=3 activation=linear",
        f"shortcut from=-2 activation={activation}", numbers=[bias, weight],
    )  # fmt: skip
    z = naive.convolution(x, weight) + bias[:, np.newaxis, np.newaxis]
    np.testing.assert_allclose(y, naive.ACTIVATIONS[activation](z + x), **CLOSE)


@pytest.mark.parametrize(
    ("sections", "other", "before"),
    [
        (["maxpool", "route layers=0 groups=2"], 0, 1),  # fewer channels before
        (["maxpool", "route layers=0,0"], 0, 1),  # more
        (["maxpool", "maxpool size=2 stride=2"], 0, 1),  # a smaller image before
        (["maxpool", "upsample stride=3"], 0, 1),  # a larger one
        (["maxpool", "route layers=0,0", "upsample"], 0, 2),
        (["maxpool", "maxpool stride=4", "route layers=1,1"], 0, 2),
    ],
)
@pytest.mark.parametrize("factors", ["", " alpha=.5 beta=-2"])
def test_shortcut_of_unequal_shapes(tmp_path, rng, sections, other, before, factors):
    x = image(rng, 2, 4, 8, 12)
    cfg = image_cfg(4, 8, 12, *sections, f"shortcut from={other} activation=relu{factors}")
    net = load_network(*written(tmp_path, cfg))
    outputs = [x]  # of the section before; maxpool alone changes nothing
    for step in net.steps[:-1]:
        outputs.append(step.forward(*(outputs[i + 1] for i in step.sources)))
    truth = naive.shortcut(
        outputs[before + 1], outputs[other + 1], *((0.5, -2) if factors else (1, 1))
    )
    np.testing.assert_allclose(net(x), np.maximum(truth, 0), **CLOSE)


def test_shortcut_of_unequal_images_in_the_fork(run, rng):
    x = image(rng, 2, 3, 4, 4)
    y = run(x, "maxpool", "maxpool stride=2", "shortcut from=0,-1", dialect="alexeyab")
    pooled = naive.max_pool(x, 2, (2, 2), 1)
    truth = 2 * pooled.reshape(2, -1).astype(np.float64)
    truth += x.reshape(2, -1)[:, : truth.shape[1]]
    np.testing.assert_allclose(y.reshape(2, -1), truth, **CLOSE)


def test_shortcut_of_several(run, rng):
    x = image(rng, 2, 3, 4, 4)
    y = run(
        x, "maxpool", "upsample stride=1 scale=2", "upsample stride=1 scale=4", "shortcut from=0,1"
    )
    np.testing.assert_allclose(y, 11 * x.astype(np.float64), **CLOSE)


def test_route(run, rng):
    x = image(rng, 2, 4, 3, 3)
    sections = ["maxpool", "upsample stride=1 scale=2"]
    np.testing.assert_array_equal(run(x, *sections, "route layers=-2"), x)
    y = run(x, *sections, "route layers=1,0")
    np.testing.assert_array_equal(y, np.concatenate([2 * x, x], axis=1))
    y = run(x, *sections, "route layers=0,-1 groups=2 group_id=1")
    np.testing.assert_array_equal(y, np.concatenate([x[:, 2:], 2 * x[:, 2:]], axis=1))
    y = run(x, *sections, "route layers=0 groups=4 group_id=2")
    np.testing.assert_array_equal(y, x[:, 2:3])


@pytest.mark.parametrize(
    ("options", "size", "stride", "padding"),
    [
        ("size=2 stride=2", 2, (2, 2), 1),
        ("size=2 stride=1", 2, (1, 1), 1),
        ("size=3 stride=2", 3, (2, 2), 2),
        ("size=3 stride=2 padding=1", 3, (2, 2), 1),
        ("size=5 stride=1", 5, (1, 1), 4),
        ("size=3 stride=3 padding=0", 3, (3, 3), 0),
        ("size=2 stride_x=3 stride_y=1", 2, (1, 3), 1),
        ("size=2 stride=1 padding=6", 2, (1, 1), 6),  # whole windows outside
        ("size=9 stride=4", 9, (4, 4), 8),
        ("size=1 stride=3", 1, (3, 3), 0),
    ],
)
def test_maxpool(run, rng, options, size, stride, padding):
    x = image(rng, 2, 3, 7, 8) - 5  # below the zeros that must not be seen
    y = run(x, f"maxpool {options}")
    np.testing.assert_array_equal(y, naive.max_pool(x, size, stride, padding))


def test_maxpool_of_many_shapes(run, rng):
    for h, size, stride in np.ndindex(6, 4, 4):
        x = image(rng, 1, 1, h + 1, 3)
        y = run(x, f"maxpool size={size + 1} stride={stride + 1}")
        np.testing.assert_array_equal(
            y, naive.max_pool(x, size + 1, (stride + 1, stride + 1), size)
        )


def test_avgpool(run, rng):
    x = image(rng, 2, 3, 5, 7) + 1000
    y = run(x, "avgpool")
    assert y.shape == (2, 3, 1, 1)
    np.testing.assert_allclose(y[..., 0, 0], x.astype(np.float64).mean((2, 3)), rtol=1e-7)


def test_upsample(run, rng):
    x = image(rng, 2, 3, 4, 6)
    y = run(x, "upsample stride=3 scale=-1.5")
    np.testing.assert_allclose(y, naive.upsampled(x, 3, -1.5), **CLOSE)
    y = run(x, "upsample stride=-2 scale=.25")
    np.testing.assert_allclose(y, naive.downsampled(x, 2, 0.25), **CLOSE)


def test_dropout_passes_everything_on(run, rng):
    x = image(rng, 2, 3, 4, 4)
    np.testing.assert_array_equal(run(x, "dropout probability=.5"), x)


def test_softmax(run, rng):
    x = 10 * image(rng, 3, 2, 3, 2)
    y = run(x, "softmax groups=3 temperature=2.5")
    np.testing.assert_allclose(y, naive.softmax(x.reshape(3, 12), 3, 2.5), **CLOSE)
    np.testing.assert_allclose(y.sum(axis=1), 3, rtol=1e-6)
    large = run(np.float32([[1e4, 1e4, -1e4]]), "softmax")
    np.testing.assert_array_equal(large, np.float32([[0.5, 0.5, 0]]))


def test_l2norm(run, rng):
    x = image(rng, 2, 3, 4, 5)
    x[1, :, 2, 3] = 0  # darknet: NaN
    y = run(x, "l2norm")
    norm = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(y, x / np.where(norm == 0, 1, norm), **CLOSE)


@pytest.mark.parametrize("new_coords", [0, 1])
@pytest.mark.parametrize(("mask", "anchors"), [("", 2), ("mask=1 ", 1)])
def test_yolo(run, rng, mask, anchors, new_coords):
    x = 3 * image(rng, 2, anchors * 8, 3, 5)
    y = run(x, f"yolo {mask}num=2 classes=3 scale_x_y=1.2 new_coords={new_coords}")
    np.testing.assert_allclose(y, naive.yolo(x, anchors, 3, 1.2, new_coords), **CLOSE)


def test_every_yolo_and_the_last_are_handed_out(tmp_path, rng):
    x = image(rng, 2, 7, 3, 3)
    cfg = image_cfg(7, 3, 3, "yolo classes=2", "upsample stride=1", "yolo classes=2", "softmax")
    net = load_network(*written(tmp_path, cfg))
    for one in (net, net.fold()):
        y, outputs = one.forward(x)
        assert list(outputs) == [0, 2, 3]
        assert outputs[3] is y
        np.testing.assert_allclose(outputs[0], naive.yolo(x, 1, 2, 1, 0), **CLOSE)


def test_a_step_that_others_need_is_not_merged(tmp_path, rng):
    x = image(rng, 1, 2, 3, 3)
    cfg = image_cfg(
        2, 3, 3, "dropout", "convolutional filters=2 activation=linear",
        "shortcut from=0 activation=leaky", "route layers=1,2",
    )  # fmt: skip
    net = load_network(*written(tmp_path, cfg), rng=0)
    folded = net.fold()
    assert folded[2].sources == (1, 0)
    np.testing.assert_array_equal(folded(x), net(x))


def test_a_folded_network_has_arrays_of_its_own(tmp_path, rng):
    x = image(rng, 1, 2, 3, 3)
    sections = "convolutional batch_normalize=1 activation=leaky", "connected", "batchnorm"
    net = load_network(*written(tmp_path, image_cfg(2, 3, 3, *sections)), rng=0)
    folded = net.fold()
    before = folded(x)
    for array in (net.parameters() | net.buffers()).values():
        array[...] += 1
    np.testing.assert_array_equal(folded(x), before)
    assert not np.array_equal(net(x), before)


def test_an_empty_batch(tmp_path):
    cfg = image_cfg(
        2, 6, 6, "convolutional batch_normalize=1 filters=4 activation=leaky", "maxpool stride=2",
        "upsample", "shortcut from=0", "avgpool", "connected output=3", "softmax",
    )  # fmt: skip
    y = load_network(*written(tmp_path, cfg))(np.empty((0, 2, 6, 6), np.float32))
    assert y.shape == (0, 3)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros((1, 2, 3, 4), np.float32), ValueError, r"expected shape \(n, 2, 3, 3\)"),
        (np.zeros((2, 3, 3), np.float32), ValueError, r"expected shape \(n, 2, 3, 3\)"),
        (np.zeros((1, 2, 3, 3)), TypeError, "expected an array of float32"),
        ([[1.0]], TypeError, "expected a NumPy array"),
    ],
)
def test_wrong_inputs(tmp_path, x, error, message):
    net = load_network(*written(tmp_path, image_cfg(2, 3, 3, "avgpool")))
    with pytest.raises(error, match=rf"Network\.forward: x is .*; {message}"):
        net.forward(x)
