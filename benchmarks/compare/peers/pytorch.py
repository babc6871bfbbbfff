"""PyTorch, eager: the functions and operators themselves, without autograd around them."""

from __future__ import annotations

from typing import Any

from benchmarks.compare.memory import memory_data
from benchmarks.compare.peers import normalizing
from benchmarks.compare.protocol import FIRST, LAST, ROWS, Call, Given, Unsupported

MOMENTUM = 0.1  # the operators ask for it; without running statistics it is not used
ALL_GRADIENTS = [True, True, True]


class BatchNorm:
    """Batch norm alone."""

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


class Adapter(BatchNorm, normalizing.PyTorch):
    """Batch norm, and the products before it. The methods know which one by `_product`."""

    def dense_batch_norm_inference(self, given: Given) -> Call:
        """With the weights that torch.nn.utils.fusion folds, and ReLU in place."""
        product, relu = self.product(given), self.torch.relu_
        x, weight, bias = product.x, *product.folded()
        if given.reuse:
            multiply = product.into(x, weight, bias)
            return Call(lambda: relu(multiply()), product.outputs)
        return Call(lambda: relu(product.forward(x, weight, bias)), product.outputs)

    def dense_batch_norm_forward(self, given: Given) -> Call:
        forward, _, product = self._step(given)
        return Call(lambda: forward()[1], product.outputs)

    def dense_batch_norm_forward_backward(self, given: Given) -> Call:
        forward, backward, product = self._step(given)

        def run() -> Any:
            z, y, *saved = forward()
            return y, *backward(z, y, *saved)

        return Call(run, lambda results: product.outputs(*results))

    conv2d_batch_norm_inference = dense_batch_norm_inference
    conv2d_batch_norm_forward = dense_batch_norm_forward
    conv2d_batch_norm_forward_backward = dense_batch_norm_forward_backward

    def conv2d_batch_norm_memory(self, given: Given) -> Call:
        """Its layers and autograd, ReLU in place."""
        nn, data = self.torch.nn, memory_data(given)
        options = {name: given[name] for name in ("stride", "padding", "dilation", "groups")}
        layers = []
        for weight in map(self.torch.from_numpy, data["weights"]):
            k, c, *window = weight.shape
            conv = nn.Conv2d(c * given["groups"], k, window, bias=False, **options)
            conv.weight = nn.Parameter(weight)
            layers += [conv, nn.BatchNorm2d(k, given["eps"]), nn.ReLU(inplace=True)]
        blocks = nn.Sequential(*layers)
        if given.case.layout == LAST:
            blocks = blocks.to(memory_format=self.torch.channels_last)
        x, dy = (
            self.activation(self.torch.from_numpy(data[name]), given.case.layout)
            for name in ("x", "dy")
        )
        x.requires_grad_()

        def step() -> Any:
            blocks.zero_grad()
            x.grad = None
            y = blocks(x)
            y.backward(dy)
            return y

        def array(tensor: Any) -> Any:
            last = given.case.layout == LAST
            return (tensor.detach().movedim(1, -1) if last else tensor.detach()).numpy()

        return Call(step, lambda y: {"y": array(y), "dx": array(x.grad)})

    def product(self, given: Given) -> Dense | Conv2d:
        """The dense layer or the convolution of a case, with its arrays."""
        return (Dense if given["weight"].ndim == 2 else Conv2d)(self, given)

    def _step(self, given: Given) -> Any:
        """The operators of a training step; forward() gives z, y and all that backward() takes."""
        product = self.product(given)
        x, weight, dy, gamma, beta = (
            product.x, product.weight, product.dy, product.gamma, product.beta
        )  # fmt: skip
        relu, threshold = self.torch.relu_, self.torch.ops.aten.threshold_backward
        native, gradient, eps = self.native, self.gradient, given["eps"]

        def forward() -> Any:
            z = product.forward(x, weight)
            y, mean, inv_std = native(z, gamma, beta, None, None, True, MOMENTUM, eps)
            return z, relu(y), mean, inv_std

        def backward(z: Any, y: Any, mean: Any, inv_std: Any) -> Any:
            dz, dgamma, dbeta = gradient(
                threshold(dy, y, 0), z, gamma, None, None, mean, inv_std, True, eps, ALL_GRADIENTS
            )
            return *product.backward(dz, x, weight), dgamma, dbeta

        return forward, backward, product


class Dense:
    """A dense layer's arrays and operators."""

    def __init__(self, adapter: Adapter, given: Given) -> None:
        self.torch, self.given = adapter.torch, given
        self.x, self.weight, self.dy, self.gamma, self.beta = (
            self.torch.from_numpy(given[name]).clone()
            for name in ("x", "weight", "dy", "gamma", "beta")
        )

    def forward(self, x: Any, weight: Any, bias: Any = None) -> Any:
        return self.torch.nn.functional.linear(x, weight, bias)

    def backward(self, dz: Any, x: Any, weight: Any) -> tuple[Any, Any]:
        return dz.mm(weight), dz.t().mm(x)

    def into(self, x: Any, weight: Any, bias: Any) -> Any:
        """The product as a call that writes to one array."""
        y, transposed, addmm = x.new_empty(len(x), len(weight)), weight.t(), self.torch.addmm
        return lambda: addmm(bias, x, transposed, out=y)

    def folded(self) -> list[Any]:
        """PyTorch's own folding of batch norm into weight and bias."""
        return self._fold(self.torch.nn.utils.fusion.fuse_linear_bn_weights)

    def outputs(self, y: Any, *gradients: Any) -> dict[str, Any]:
        """Results as NumPy arrays."""
        names = ("y", "dx", "dweight", "dgamma", "dbeta")
        results = zip(names, (y, *gradients), strict=False)
        return {name: self.array(name, result.detach()) for name, result in results}

    def array(self, name: str, result: Any) -> Any:
        return result.contiguous().numpy()

    def _fold(self, fuse: Any) -> list[Any]:
        mean, var = (self.torch.from_numpy(self.given[name]) for name in ("mean", "var"))
        folded = fuse(self.weight, None, mean, var, self.given["eps"], self.gamma, self.beta)
        return [parameter.detach() for parameter in folded]


class Conv2d(Dense):
    """A convolution's arrays and operators, all in the memory format of the case."""

    def __init__(self, adapter: Adapter, given: Given) -> None:
        super().__init__(adapter, given)
        self.options = [given[name] for name in ("stride", "padding", "dilation", "groups")]
        self.format = self.torch.contiguous_format
        if given.case.layout == LAST:
            self.format = self.torch.channels_last
            self.x, self.dy = (adapter.activation(v, LAST) for v in (self.x, self.dy))
            self.weight = self.weight.to(memory_format=self.format)

    def forward(self, x: Any, weight: Any, bias: Any = None) -> Any:
        return self.torch.conv2d(x, weight, bias, *self.options)

    def backward(self, dz: Any, x: Any, weight: Any) -> tuple[Any, Any]:
        stride, padding, dilation, groups = self.options
        dx, dweight, _ = self.torch.ops.aten.convolution_backward(
            dz, x, weight, None, [stride] * 2, [padding] * 2, [dilation] * 2,
            False, [0, 0], groups, [True, True, False],
        )  # fmt: skip
        return dx, dweight

    def into(self, x: Any, weight: Any, bias: Any) -> Any:
        raise Unsupported("its convolution has no out=")

    def folded(self) -> list[Any]:
        weight, bias = self._fold(self.torch.nn.utils.fusion.fuse_conv_bn_weights)
        return [weight.contiguous(memory_format=self.format), bias]

    def array(self, name: str, result: Any) -> Any:
        if name in ("y", "dx") and self.given.case.layout == LAST:
            result = result.movedim(1, -1)
        return super().array(name, result)
