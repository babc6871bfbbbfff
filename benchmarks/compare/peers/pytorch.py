"""PyTorch, eager: the functions and operators themselves, without autograd around them."""

from __future__ import annotations

from typing import Any

from benchmarks.compare.protocol import FIRST, LAST, ROWS, Call, Given, Unsupported

MOMENTUM = 0.1  # the operators ask for it; without running statistics it is not used
ALL_GRADIENTS = [True, True, True]


class Adapter:
    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch = torch
        self.function = torch.nn.functional.batch_norm
        self.native = torch.native_batch_norm  # what F.batch_norm comes to; it also takes out=
        self.gradient = torch.ops.aten.native_batch_norm_backward

    def batch_norm_inference(self, given: Given) -> Call:
        x, mean, var, gamma, beta = self.tensors(given, "x", "mean", "var", "gamma", "beta")
        function, native, eps = self.function, self.native, given["eps"]
        if given.reuse:
            out = self.torch.empty_like(x), self.torch.empty(0), self.torch.empty(0)
            arguments = x, gamma, beta, mean, var, False, MOMENTUM, eps
            return Call(lambda: native(*arguments, out=out)[0], lambda y: self.arrays(given, y))
        return Call(
            lambda: function(x, mean, var, gamma, beta, False, MOMENTUM, eps),
            lambda y: self.arrays(given, y),
        )

    def batch_norm_forward(self, given: Given) -> Call:
        x, gamma, beta = self.tensors(given, "x", "gamma", "beta")
        function, native, eps = self.function, self.native, given["eps"]
        if given.reuse:
            out = self.torch.empty_like(x), *(self.torch.empty_like(gamma) for _ in range(2))
            arguments = x, gamma, beta, None, None, True, MOMENTUM, eps
            return Call(lambda: native(*arguments, out=out)[0], lambda y: self.arrays(given, y))
        return Call(
            lambda: function(x, None, None, gamma, beta, True, MOMENTUM, eps),
            lambda y: self.arrays(given, y),
        )

    def batch_norm_backward(self, given: Given) -> Call:
        forward, backward = self._training(given)
        _, *saved = forward()
        return Call(lambda: backward(*saved), lambda results: self.arrays(given, None, *results))

    def batch_norm_forward_backward(self, given: Given) -> Call:
        forward, backward = self._training(given)

        def run() -> Any:
            y, *saved = forward()
            return y, *backward(*saved)

        return Call(run, lambda results: self.arrays(given, *results))

    def _training(self, given: Given) -> Any:
        """The two operators of a training step; forward() gives y, and what backward() takes."""
        if given.reuse:
            raise Unsupported("its backward has no out=")
        x, dy, gamma, beta = self.tensors(given, "x", "dy", "gamma", "beta")
        native, gradient, eps = self.native, self.gradient, given["eps"]

        def forward() -> Any:
            return native(x, gamma, beta, None, None, True, MOMENTUM, eps)

        def backward(mean: Any, inv_std: Any) -> Any:
            return gradient(dy, x, gamma, None, None, mean, inv_std, True, eps, ALL_GRADIENTS)

        return forward, backward

    def tensors(self, given: Given, *names: str) -> list[Any]:
        """Tensors in PyTorch's own memory, x and dy as `activation` has them."""
        tensors = {name: self.torch.from_numpy(given[name]).clone() for name in names}
        for name in tensors.keys() & {"x", "dy"}:
            tensors[name] = self.activation(tensors[name], given.case.layout)
        return list(tensors.values())

    def activation(self, tensor: Any, layout: str) -> Any:
        """The same memory with the channels second."""
        if layout == ROWS or (layout == LAST and tensor.ndim == 3):
            # Rows become one channels-last picture of n by 1 pixels, at no cost. As they stand,
            # (4096, 1024) takes PyTorch's backward 10 ms instead of 1, and its channels-last
            # kernels do not know (n, l, c) at all: 21 ms instead of 1 for (32, 1000, 128).
            return tensor.reshape(-1, tensor.shape[-1]).t()[None, :, :, None]
        return tensor.movedim(-1, 1) if layout == LAST else tensor

    def arrays(self, given: Given, y: Any = None, *gradients: Any) -> dict[str, Any]:
        """Results as NumPy arrays, the activations in the shape that the input had."""
        results = dict(zip(("y", "dx", "dgamma", "dbeta"), (y, *gradients), strict=False))
        for name in results.keys() & {"y", "dx"}:
            if results[name] is not None:
                first = given.case.layout == FIRST
                results[name] = results[name] if first else results[name].movedim(1, -1)
                results[name] = results[name].reshape(given["x"].shape)
        return {k: v.detach().contiguous().numpy() for k, v in results.items() if v is not None}
