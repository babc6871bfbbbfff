"""One rule at every door: a variance below 0 is refused, however little, and nothing is loaded."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm import (
    Moments,
    batch_norm_forward,
    batch_norm_inference,
    conv2d_batch_norm_inference,
    dense_batch_norm_inference,
    fold_batch_norm,
)
from nbnorm.interop.state import import_state
from nbnorm.layers import BatchNorm, DenseBatchNorm, merge_running_statistics

MEAN, VAR = np.zeros(2), np.array([4.7e-2, -9.9998997e-06])  # as in files that Caffe runs
X, IMAGES, WEIGHT = np.ones((2, 2)), np.ones((2, 2, 3, 3)), np.ones((2, 2))
STATE = {"running_mean": MEAN, "running_var": VAR, "num_batches_tracked": np.int64(1)}


def loaded():
    layer = BatchNorm(2)
    layer.load_state_dict(layer.state_dict() | {"running_var": VAR})


def written_and(use):
    layer = DenseBatchNorm(2, 2, dtype=np.float64, rng=0).eval()
    layer.running_var[...] = VAR
    return use(layer)


@pytest.mark.parametrize(
    "use",
    [
        lambda: batch_norm_inference(X, MEAN, VAR),
        lambda: batch_norm_forward(X, statistics=(MEAN, VAR)),
        lambda: dense_batch_norm_inference(X, WEIGHT, MEAN, VAR),
        lambda: conv2d_batch_norm_inference(IMAGES, WEIGHT[..., None, None], MEAN, VAR),
        lambda: fold_batch_norm(WEIGHT, None, MEAN, VAR),
        lambda: Moments.from_statistics(MEAN, VAR, 5),
        lambda: merge_running_statistics([STATE], [1]),
        lambda: import_state(BatchNorm(2, affine=False), STATE, "pytorch"),
        loaded,
        lambda: written_and(lambda layer: layer(X)),
        lambda: written_and(lambda layer: layer.fold()),
    ],
)
def test_is_refused(use):
    with pytest.raises(ValueError, match=r"var is .*; expected no negative (variance|number)"):
        use()
