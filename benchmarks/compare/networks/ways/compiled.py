"""torch.compile, channels-first."""

from __future__ import annotations

from typing import Any

from benchmarks.compare.networks.ways import eager


class Adapter(eager.Adapter):
    def ready(self, model: Any) -> Any:
        self.torch._dynamo.reset()
        return self.torch.compile(model, dynamic=False)
