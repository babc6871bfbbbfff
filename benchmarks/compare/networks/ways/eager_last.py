"""PyTorch with model and input in channels-last strides."""

from __future__ import annotations

from benchmarks.compare.networks.ways import eager


class Adapter(eager.Adapter):
    channels_last = True
