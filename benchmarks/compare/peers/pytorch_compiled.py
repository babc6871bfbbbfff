"""torch.compile: PyTorch's functions, compiled anew for the shape and strides of each case."""

from __future__ import annotations

from typing import Any

from benchmarks.compare.peers import normalizing, pytorch
from benchmarks.compare.protocol import Call, Given, Unsupported


class Adapter(normalizing.PyTorchCompiled, pytorch.Adapter):
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

    def dense_batch_norm_inference(self, given: Given) -> Call:
        """With folded weights that the compiler may lay out as it likes: it is told to freeze."""
        self._start_afresh(given)
        torch, product = self.torch, self.product(given)
        x, (weight, bias) = product.x, product.folded()

        class Folded(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight, self.bias = map(torch.nn.Parameter, (weight, bias))

            def forward(self, x: Any) -> Any:
                return torch.relu(product.forward(x, self.weight, self.bias))

        function = torch.compile(Folded().eval(), dynamic=False, options={"freezing": True})

        def run() -> Any:
            with torch.no_grad():
                return function(x)

        return Call(run, product.outputs)

    def dense_batch_norm_forward(self, given: Given) -> Call:
        self._start_afresh(given)
        product, function = self._layer(given)
        inputs = product.x, product.weight, product.gamma, product.beta
        return Call(lambda: function(*inputs), product.outputs)

    def dense_batch_norm_forward_backward(self, given: Given) -> Call:
        self._start_afresh(given)
        product, function = self._layer(given)
        inputs = [
            tensor.requires_grad_()
            for tensor in (product.x, product.weight, product.gamma, product.beta)
        ]
        dy, grad = product.dy, self.torch.autograd.grad

        def run() -> Any:
            y = function(*inputs)
            return y, *grad(y, inputs, dy)

        return Call(run, lambda results: product.outputs(*results))

    conv2d_batch_norm_inference = dense_batch_norm_inference
    conv2d_batch_norm_forward = dense_batch_norm_forward
    conv2d_batch_norm_forward_backward = dense_batch_norm_forward_backward

    def _layer(self, given: Given) -> Any:
        """The product, batch norm and ReLU of a case, compiled as one function."""
        product, relu = self.product(given), self.torch.relu
        batch_norm, eps = self.torch.nn.functional.batch_norm, given["eps"]

        def layer(x: Any, weight: Any, gamma: Any, beta: Any) -> Any:
            z = product.forward(x, weight)
            return relu(batch_norm(z, None, None, gamma, beta, True, pytorch.MOMENTUM, eps))

        return product, self.torch.compile(layer, dynamic=False)

    def _start_afresh(self, given: Given) -> None:
        if given.reuse:
            raise Unsupported("compiled code allocates its results")
        self.torch._dynamo.reset()
