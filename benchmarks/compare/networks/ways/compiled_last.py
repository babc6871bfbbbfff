"""torch.compile with model and input in channels-last strides."""

from __future__ import annotations

from benchmarks.compare.networks.ways import compiled


class Adapter(compiled.Adapter):
    channels_last = True
