"""Sections that change the size of images."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm.interop.darknet import load_network
from tests.interop.darknet import naive
from tests.interop.darknet.cases import CLOSE, image
from tests.interop.darknet.files import image_cfg, written


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


def test_a_window_larger_than_any_image(run, rng):
    """It takes as long as the image has pixels."""
    x = image(rng, 2, 3, 4, 5)
    y = run(x, "maxpool size=1000000000 stride=1")
    np.testing.assert_array_equal(y, naive.max_pool(x, 20, (1, 1), 19))
    y = run(x, "local_avgpool size=1000000000 stride=1")
    np.testing.assert_allclose(y, naive.mean_pool(x, 20, 1, 19), **CLOSE)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", ["", " padding=0", " padding=1"])
def test_local_avgpool(run, rng, size, stride, padding):
    x = image(rng, 2, 3, 5, 6)
    y = run(x, f"local_avgpool size={size} stride={stride}{padding}")
    margin = int(padding[-1]) if padding else size - 1
    np.testing.assert_allclose(y, naive.mean_pool(x, size, stride, margin), **CLOSE)


def test_local_avgpool_of_windows_outside(run, rng):
    y = run(image(rng, 1, 1, 3, 3), "local_avgpool size=1 stride=1 padding=4")
    assert np.isnan(y[0, 0, 0]).all()
    assert not np.isnan(y[0, 0, 2:5, 2:5]).any()


@pytest.mark.parametrize(("reverse", "shape"), [(0, (2, 3)), (1, (8, 12))])
@pytest.mark.parametrize("dialect", ["pjreddie", "alexeyab"])
def test_reorg(run, rng, reverse, shape, dialect):
    x = image(rng, 2, 8, 4, 6)
    y = run(x, f"reorg stride=2 reverse={reverse}", dialect=dialect)
    truth = [naive.reorg(one.ravel(), 6, 4, 8, 2, reverse) for one in x]
    np.testing.assert_array_equal(y, np.reshape(truth, (2, -1, *shape)))


def test_reorg_with_numbers_beside(run, rng):
    x = image(rng, 2, 1, 3, 4)
    y = run(x, "reorg extra=2 stride=1")
    np.testing.assert_array_equal(y, [[*one.ravel(), 0, 0] for one in x])


@pytest.mark.parametrize("reverse", [0, 1])
def test_reorg_to_channels_last(run, rng, reverse):
    x = image(rng, 2, 5, 3, 4)
    y = run(x, f"reorg flatten=1 reverse={reverse}")
    truth = [naive.flatten(one.ravel(), 12, 5, not reverse) for one in x]
    np.testing.assert_array_equal(y, np.reshape(truth, x.shape))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_reorg3d(run, rng, stride):
    x = image(rng, 2, 3, 6, 12)
    y = run(x, f"reorg3d stride={stride}")
    c, h, w = 3 * stride**2, 6 // stride, 12 // stride
    truth = [naive.reorg(one.ravel(), w, h, c, stride, False) for one in x]
    np.testing.assert_array_equal(y, np.reshape(truth, (2, c, h, w)))


@pytest.mark.parametrize(("high", "wide"), [(3, 3), (2, 5), (6, 7), (1, 1)])
@pytest.mark.parametrize("noadjust", [0, 1])
def test_crop(run, rng, high, wide, noadjust):
    x = image(rng, 2, 3, 6, 7)
    y = run(x, f"crop crop_height={high} crop_width={wide} noadjust={noadjust} flip=1 angle=9")
    np.testing.assert_allclose(y, naive.crop(x, high, wide, noadjust), **CLOSE)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("reorg stride=2", "stride is 2; expected a divisor of 6 channels, squared"),
        ("reorg stride=2 reverse=1", "stride is 2; expected a divisor of 6 channels, squared"),
        ("reorg stride=4", "stride is 4; expected a divisor of 6 and 8"),
        ("reorg stride=0", "stride is 0; expected 1 or more"),
        ("reorg extra=-1", "extra is -1; expected 0 or more"),
        ("reorg flatten=1 stride=2", "flatten is 1 and stride 2; expected a stride of 1"),
        ("reorg3d stride=4", "stride is 4; expected a divisor of 6 and 8"),
        ("reorg3d stride=2 reverse=1", "reverse is '1'; expected 0: not supported"),
        ("crop crop_height=7 crop_width=8", "the crop is 7 x 8; expected at most 6 x 8"),
        ("crop crop_height=0", "crop_height is 0; expected 1 or more"),
        ("local_avgpool size=9 padding=0", r"the output would be of shape \(6, -2, 0\)"),
    ],
)
def test_sizes_that_do_not_fit(tmp_path, section, message):
    with pytest.raises(ValueError, match=message):
        load_network(*written(tmp_path, image_cfg(6, 6, 8, section)))
