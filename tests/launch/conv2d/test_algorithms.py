"""Which algorithm works out a convolution."""

from __future__ import annotations

import pytest

from nbnorm.jit import target
from nbnorm.launch.conv2d import algorithms, depthwise, direct, grouped, pointwise, winograd
from nbnorm.launch.conv2d.convolution import Convolution

WIDE = Convolution(
    n=8, groups=1, c=64, k=64, image=(28, 28), window=(3, 3), positions=(28, 28), stride=(1, 1),
    dilation=(1, 1), before=(1, 1), axis=1, algorithm="auto",
)  # fmt: skip
NARROW = WIDE._replace(groups=64, c=1, k=1)


def chosen(conv, itemsize=4, last=False, of_weights=False):
    return algorithms.chosen(conv, itemsize, last, of_weights)


def test_wide_convolutions_of_3x3_are_winograds():
    assert chosen(WIDE) is winograd
    assert chosen(WIDE._replace(algorithm="direct")) is direct


@pytest.mark.parametrize(
    "changes",
    [
        {"window": (1, 1)},
        {"window": (3, 2)},
        {"stride": (2, 2)},
        {"dilation": (2, 2)},
        {"n": 3, "positions": (7, 7)},  # few tiles
        {"n": 10, "positions": (7, 7), "c": 512, "k": 512},  # few pixels for so many weights
        {"positions": (5, 5)},  # tiles that are mostly overhang
        {"c": 3},
        {"k": 2},
    ],
    ids=str,
)
def test_others_are_direct(changes):
    assert chosen(WIDE._replace(**changes)) is direct


def test_weights_that_no_cache_holds_take_more_pixels():
    conv = WIDE._replace(n=32, positions=(4, 4), c=512, k=512)
    assert chosen(conv) is winograd
    assert chosen(conv, of_weights=True) is direct
    assert chosen(conv._replace(n=31)) is direct
    assert chosen(conv._replace(n=31, c=256, k=256)) is winograd


def test_the_gradient_of_the_weights_takes_more_tiles():
    conv = WIDE._replace(n=1)  # 49
    assert chosen(conv) is winograd
    assert chosen(conv, of_weights=True) is direct
    assert chosen(conv._replace(n=2), of_weights=True) is winograd


def test_channels_fill_a_register():
    lanes = target.register_bytes() // 4
    assert chosen(WIDE._replace(c=lanes)) is winograd
    assert chosen(WIDE._replace(c=lanes - 1)) is direct


def test_narrow_groups_have_kernels_of_their_own():
    assert chosen(NARROW) is depthwise
    assert chosen(NARROW._replace(window=(5, 5))) is grouped
    assert chosen(NARROW._replace(k=2)) is grouped
    assert chosen(NARROW._replace(c=algorithms.WIDEST_GROUP)) is grouped
    assert chosen(NARROW._replace(c=algorithms.WIDEST_GROUP + 1)) is direct
    assert chosen(NARROW._replace(k=algorithms.WIDEST_GROUP + 1)) is direct
    assert chosen(NARROW._replace(groups=1)) is direct


def test_by_one_pixel_it_is_a_product_where_channels_lie_last():
    conv = WIDE._replace(n=1, window=(1, 1), before=(0, 0))
    assert chosen(conv, last=True) is pointwise
    assert chosen(conv, last=True, of_weights=True) is pointwise
    assert chosen(conv._replace(algorithm="direct"), last=True) is pointwise
    assert chosen(conv._replace(dilation=(2, 2)), last=True) is pointwise
    assert chosen(conv) is direct


@pytest.mark.parametrize(
    "changes",
    [
        {"stride": (2, 2), "positions": (14, 14)},
        {"before": (1, 0), "positions": (29, 28)},
        {"positions": (28, 29)},  # zeros on the right
        {"positions": (27, 28), "before": (1, 0), "image": (27, 28)},
        {"groups": 2, "c": 32, "k": 32},
        {"window": (1, 2)},
        {"n": 2},  # more pixels than it gains for
    ],
    ids=str,
)
def test_other_convolutions_by_one_pixel_are_direct(changes):
    conv = WIDE._replace(n=1, window=(1, 1), before=(0, 0))
    assert chosen(conv._replace(**changes), last=True) is direct


def test_a_forced_winograd_is_taken_whatever_it_gains():
    conv = WIDE._replace(n=1, c=1, k=1, positions=(2, 2), algorithm="winograd")
    assert algorithms.has_winograd(conv)
    assert chosen(conv) is winograd
    assert not algorithms.has_winograd(conv._replace(groups=2))
