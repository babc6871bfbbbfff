"""The unchanged model, PyTorch's batch norm operators on nbnorm."""

from __future__ import annotations

from benchmarks.compare.networks.ways import eager


class Adapter(eager.Adapter):
    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import nbnorm.interop.torch as nbt

        nbt.enable()
