"""Every layer by its name: what makes a small one, and the shape of its x."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nbnorm.layers import (
    Activation,
    BatchNorm,
    Conv2d,
    Conv2dBatchNorm,
    Dense,
    DenseBatchNorm,
    Flatten,
    GroupNorm,
    InstanceNorm,
    L1Normalize,
    L1Penalty,
    L2Normalize,
    L2Penalty,
    Layer,
    Sequential,
)

LAYERS: dict[str, tuple[Callable[[], Layer[Any]], tuple[int, ...]]] = {
    "Activation": (lambda: Activation("silu"), (5, 3)),
    "BatchNorm": (lambda: BatchNorm(3, dtype=np.float64), (5, 3, 2)),
    "Conv2d": (lambda: Conv2d(3, 4, 2, dtype=np.float64, rng=0), (2, 3, 4, 4)),
    "Conv2dBatchNorm": (
        lambda: Conv2dBatchNorm(3, 4, 2, bias=True, dtype=np.float64, rng=0),
        (2, 3, 4, 4),
    ),
    "Dense": (lambda: Dense(3, 4, dtype=np.float64, rng=0), (5, 3)),
    "DenseBatchNorm": (lambda: DenseBatchNorm(3, 4, dtype=np.float64, rng=0), (5, 3)),
    "Flatten": (Flatten, (2, 3, 4)),
    "GroupNorm": (lambda: GroupNorm(4, num_groups=2, dtype=np.float64), (5, 4, 2)),
    "InstanceNorm": (lambda: InstanceNorm(3, dtype=np.float64), (5, 3, 2)),
    "L1Normalize": (L1Normalize, (5, 3, 2)),
    "L1Penalty": (lambda: L1Penalty(0.1), (5, 3)),
    "L2Normalize": (L2Normalize, (5, 3, 2)),
    "L2Penalty": (lambda: L2Penalty(0.1), (5, 3)),
    "Sequential": (
        lambda: Sequential(Dense(3, 4, dtype=np.float64, rng=0), BatchNorm(4, dtype=np.float64)),
        (5, 3),
    ),
}
