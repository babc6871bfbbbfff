"""PyTorch as it is, channels-first; what the others derive from."""

from __future__ import annotations

import resource
import sys
from typing import Any

from benchmarks.compare.protocol import Call, Given

LOSSES = 3  # steps whose losses are compared
LEARNING_RATE, MOMENTUM = 0.01, 0.9


class Adapter:
    channels_last = False

    def __init__(self, threads: int) -> None:
        import torch

        self.torch = torch
        torch.set_num_threads(threads)

    def ready(self, model: Any) -> Any:
        """The model as this way runs it."""
        return model

    def training_step(self, given: Given) -> Call:
        """Forward, backward and a step of SGD with momentum; the first losses are compared."""
        torch, problem = self.torch, given["problem"]
        model, x = self._made(problem)
        shape = (len(x), *x.shape[2:]) if problem.by_pixel else (len(x),)
        target = torch.randint(problem.classes, shape, generator=torch.Generator().manual_seed(2))
        optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, MOMENTUM)
        run_model = self.ready(model.train())

        def run() -> Any:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(run_model(x), target)
            loss.backward()
            optimizer.step()
            return loss

        losses = torch.stack([run().detach() for _ in range(LOSSES)])
        return Call(run, lambda _: {"losses": losses.numpy()})

    def inference(self, given: Given) -> Call:
        model, x = self._made(given["problem"])
        run_model, torch = self.ready(model.eval()), self.torch

        def run() -> Any:
            with torch.no_grad():
                return run_model(x)

        return Call(run, lambda y: {"y": y.contiguous().numpy()})

    def peak(self, given: Given) -> Call:
        """The MiB that the process has had resident at most, after training steps."""
        self.training_step(given)
        unit = 2**20 if sys.platform == "darwin" else 2**10
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
        return Call(lambda: used, lambda used: {"mebibytes": used})

    def _made(self, problem: Any) -> tuple[Any, Any]:
        """The network and its input, the same in every process."""
        from benchmarks.compare.networks import models

        torch = self.torch
        torch.manual_seed(0)
        model = getattr(models, problem.maker)()
        for buffer in (b for name, b in model.named_buffers() if name.endswith("running_var")):
            buffer.uniform_(0.5, 1.5)
        x = torch.randn(problem.shape, generator=torch.Generator().manual_seed(1))
        if self.channels_last and x.dim() == 4:
            model = model.to(memory_format=torch.channels_last)
            x = x.contiguous(memory_format=torch.channels_last)
        return model, x
