"""The model converted."""

from __future__ import annotations

from typing import Any

from benchmarks.compare.networks.ways import eager


class Adapter(eager.Adapter):
    def ready(self, model: Any) -> Any:
        import nbnorm.interop.torch as nbt

        return nbt.convert(model)
