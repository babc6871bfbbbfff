"""torch.compile: PyTorch's functions, compiled anew for the shape and strides of each case."""

from __future__ import annotations

from typing import Any

from benchmarks.compare.peers import pytorch
from benchmarks.compare.protocol import Call, Given, Unsupported


class Adapter(pytorch.Adapter):
    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        # Compilations beyond a limit fall back to eager without a word; an error says so.
        self.torch._dynamo.config.fail_on_recompile_limit_hit = True
        self.function = self.torch.compile(self.function, dynamic=False)
        self.gradient = self.torch.compile(self.gradient, dynamic=False)

    def batch_norm_inference(self, given: Given) -> Call:
        self._start_afresh(given)
        return super().batch_norm_inference(given)

    def batch_norm_forward(self, given: Given) -> Call:
        self._start_afresh(given)
        return super().batch_norm_forward(given)

    def batch_norm_backward(self, given: Given) -> Call:
        self._start_afresh(given)
        return super().batch_norm_backward(given)

    def batch_norm_forward_backward(self, given: Given) -> Call:
        """Through autograd: what the two halves share is the compiler's to decide."""
        self._start_afresh(given)
        x, gamma, beta, dy = self.tensors(given, "x", "gamma", "beta", "dy")
        inputs = [tensor.requires_grad_() for tensor in (x, gamma, beta)]
        function, grad, eps = self.function, self.torch.autograd.grad, given["eps"]

        def run() -> Any:
            y = function(x, None, None, gamma, beta, True, pytorch.MOMENTUM, eps)
            return y, *grad(y, inputs, dy)

        return Call(run, lambda results: self.arrays(given, *results))

    def _start_afresh(self, given: Given) -> None:
        if given.reuse:
            raise Unsupported("compiled code allocates its results")
        self.torch._dynamo.reset()
