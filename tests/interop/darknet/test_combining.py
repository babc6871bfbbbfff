"""Sections that combine layers."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm.interop.darknet import load_network
from tests.interop.darknet import naive
from tests.interop.darknet.cases import CLOSE, image
from tests.interop.darknet.files import image_cfg, written


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
        (["maxpool", "convolutional filters=2"], 0, 1),  # fewer channels before
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
    net = load_network(*written(tmp_path, cfg), rng=0)
    outputs = [x]  # of the section before; maxpool alone changes nothing
    for step in net.steps[:-1]:
        outputs.append(step.forward(*(outputs[i + 1] for i in step.sources)))
    truth = naive.shortcut(
        outputs[before + 1], outputs[other + 1], *((0.5, -2) if factors else (1, 1))
    )
    np.testing.assert_allclose(net(x), np.maximum(truth, 0), **CLOSE)


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 0)])
def test_shortcut_of_unequal_channels_in_the_fork(run, rng, first, second):
    x = image(rng, 2, 3, 4, 4)
    sections = ["maxpool", "route layers=0,0", f"route layers={first}", f"shortcut from={second}"]
    y = run(x, *sections, dialect="alexeyab")
    truth = np.concatenate([2 * x, x], axis=1) if first else 2 * x
    np.testing.assert_allclose(y, truth, **CLOSE)


def test_the_fork_adds_images_of_one_size_only(tmp_path):
    cfg = image_cfg(3, 4, 4, "maxpool", "maxpool stride=2", "shortcut from=0,-1")
    message = r"shapes are \(3, 2, 2\) before and \(3, 4, 4\) from; expected images of one size"
    with pytest.raises(ValueError, match=message):
        load_network(*written(tmp_path, cfg))


@pytest.mark.parametrize("sections", [["dropout", "connected output=2"], ["connected output=2"]])
def test_shortcut_of_numbers_and_an_image(tmp_path, rng, sections):
    """What a connected layer gives is an image of one pixel."""
    x = image(rng, 2, 3, 4, 4)
    if len(sections) == 1:
        sections = [*sections, "convolutional filters=3"]
    cfg = image_cfg(3, 4, 4, *sections, "shortcut from=0")
    net = load_network(*written(tmp_path, cfg), rng=0)
    first = net[0].forward(x if net[0].takes is None else x.reshape(2, *net[0].takes))
    second = net[1].forward(first.reshape(2, *net[1].takes))
    pixels = [one.reshape(2, -1, *(one.shape[2:] or (1, 1))) for one in (second, first)]
    truth = naive.shortcut(*pixels).reshape(second.shape)
    np.testing.assert_allclose(net(x), truth, **CLOSE)


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


@pytest.mark.parametrize("activation", ["linear", "leaky", "tanh"])
def test_scale_channels(run, rng, activation):
    x = image(rng, 2, 4, 3, 5)
    y = run(x, "maxpool", "avgpool", f"scale_channels from=0 activation={activation}")
    truth = np.empty(x.shape)
    for b, c, i, j in np.ndindex(x.shape):
        truth[b, c, i, j] = x[b, c, i, j] * x[b, c].mean(dtype=np.float64)
    np.testing.assert_allclose(y, naive.ACTIVATIONS[activation](truth), **CLOSE)


def test_scale_pixels(run, rng):
    x = image(rng, 2, 4, 3, 5)
    y = run(x, "maxpool", "route layers=0 groups=4 group_id=1", "scale_channels from=0 scale_wh=1")
    truth = np.empty(x.shape)
    for b, c, i, j in np.ndindex(x.shape):
        truth[b, c, i, j] = float(x[b, c, i, j]) * x[b, 1, i, j]
    np.testing.assert_allclose(y, truth, **CLOSE)


def test_sam(run, rng):
    x = image(rng, 2, 4, 3, 5)
    y = run(x, "maxpool", "upsample stride=1 scale=3", "sam from=-2 activation=relu")
    np.testing.assert_allclose(y, np.maximum(3 * x.astype(np.float64) ** 2, 0), **CLOSE)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            ["maxpool", "scale_channels from=0"],
            r"\(2, 4, 4\) before .* expected \(2, 1, 1\) before",
        ),
        (
            ["maxpool", "avgpool", "scale_channels from=0 scale_wh=1"],
            r"shapes are \(2, 1, 1\) before and \(2, 4, 4\) from; expected \(1, 4, 4\) before",
        ),
        (["maxpool", "avgpool", "sam from=0"], r"expected \(2, 4, 4\) before"),
        (["maxpool", "sam from=0,0"], "from has 2 layers; expected one"),
        (["maxpool", "sam from=0 activation=mish"], "activation is 'mish'; expected another"),
        (["connected output=3", "avgpool", "sam from=0"], "from is 3 numbers; expected an image"),
    ],
)
def test_factors_that_do_not_fit(tmp_path, sections, message):
    with pytest.raises(ValueError, match=message):
        load_network(*written(tmp_path, image_cfg(2, 4, 4, *sections)))
