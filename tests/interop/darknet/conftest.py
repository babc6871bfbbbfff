"""A network of a few sections, run as it is and folded."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm.interop.darknet import load_network
from nbnorm.interop.darknet.dialect import DIALECTS
from tests.interop.darknet.cases import assert_channels_close
from tests.interop.darknet.files import cfg_text, image_cfg, packed, written


@pytest.fixture
def run(tmp_path):
    """Return what a network of some sections gives for x, with these numbers in its file.

    x is (n, c, h, w) or (n, count), or as many axes after `lead` axes as there are sizes.
    """

    def run(x, *sections, numbers=None, lead=1, **options):
        shape = x.shape[lead:]
        if len(shape) == 3:
            cfg = image_cfg(*shape, *sections)
        else:
            cfg = cfg_text(f"net inputs={shape[0]}", *sections)
        file = None
        if numbers is not None:
            version = DIALECTS[options.get("dialect", "pjreddie")].version
            file = packed(*numbers, version=version)
        net = load_network(*written(tmp_path, cfg, file), **options)
        y, before = net(x), x.copy()
        assert_channels_close(net.fold()(x), y)
        np.testing.assert_array_equal(x, before)  # nothing is written over
        assert y.shape == (*x.shape[:lead], *net[-1].shape)
        return y

    return run
