"""The library that all others are compared with, called as its users call it."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.compare.memory import memory_data
from benchmarks.compare.peers import normalizing
from benchmarks.compare.protocol import Call, Given
from nbnorm.operations import BY_NAME, Operation


class Adapter(normalizing.Nbnorm):
    def __init__(self, threads: int) -> None:
        import nbnorm

        self.nbnorm = nbnorm  # its threads are set by NUMBA_NUM_THREADS

    def batch_norm_inference(self, given: Given) -> Call:
        return self._inference("batch_norm", given)

    def batch_norm_forward(self, given: Given) -> Call:
        return self._forward("batch_norm", given)

    def batch_norm_backward(self, given: Given) -> Call:
        operation, out = BY_NAME["batch_norm"], None
        _, context = operation.call("forward", _arguments(operation, given))()
        if given.reuse:
            dx, dgamma, dbeta = (_like(given[name]) for name in ("dy", "gamma", "gamma"))
            out = self.nbnorm.BatchNormGradients(dx, dgamma, dbeta, None)
        arguments = {"dy": given["dy"], "context": context, "out": out}
        return Call(operation.call("backward", arguments), _gradients)

    def batch_norm_forward_backward(self, given: Given) -> Call:
        return self._step("batch_norm", given)

    def dense_forward(self, given: Given) -> Call:
        operation = BY_NAME["dense"]
        out = _like(given["dy"], given.reuse)
        return Call(
            operation.call("forward", _arguments(operation, given), out=out), lambda z: {"z": z}
        )

    def dense_batch_norm_inference(self, given: Given) -> Call:
        return self._inference("dense_batch_norm", given)

    def dense_batch_norm_forward(self, given: Given) -> Call:
        return self._forward("dense_batch_norm", given)

    def dense_batch_norm_forward_backward(self, given: Given) -> Call:
        return self._step("dense_batch_norm", given)

    def conv2d_batch_norm_inference(self, given: Given) -> Call:
        return self._inference("conv2d_batch_norm", given)

    def conv2d_batch_norm_forward(self, given: Given) -> Call:
        return self._forward("conv2d_batch_norm", given)

    def conv2d_batch_norm_forward_backward(self, given: Given) -> Call:
        return self._step("conv2d_batch_norm", given)

    def conv2d_batch_norm_memory(self, given: Given) -> Call:
        """Its layers, in a row."""
        data, layers = memory_data(given), []
        for weight in data["weights"]:
            k, c, *window = weight.shape
            layer = self.nbnorm.Conv2dBatchNorm(
                c * given["groups"], k, tuple(window), bias=False, activation="relu",
                eps=given["eps"], axis=given.axis, **convolution(given),
            )  # fmt: skip
            layer.parameters()["weight"][...] = weight
            layers.append(layer)
        blocks, x, dy = self.nbnorm.Sequential(*layers), data["x"], data["dy"]

        def step() -> Any:
            blocks.zero_grad()
            return blocks(x), blocks.backward(dy)

        return Call(step, lambda results: dict(zip(("y", "dx"), results, strict=True)))

    def _inference(self, name: str, given: Given) -> Call:
        """Called with batch norm's own parameters: layers fold them themselves, each time."""
        operation, out = BY_NAME[name], _like(given["dy"], given.reuse)
        arguments = _arguments(operation, given)
        return Call(operation.call("inference", arguments, out=out), lambda y: {"y": y})

    def _forward(self, name: str, given: Given) -> Call:
        operation, out = BY_NAME[name], _like(given["dy"], given.reuse)
        arguments = _arguments(operation, given)
        return Call(operation.call("forward", arguments, out=out), lambda result: {"y": result[0]})

    def _step(self, name: str, given: Given) -> Call:
        operation, dy = BY_NAME[name], given["dy"]
        forward = operation.call("forward", _arguments(operation, given))
        backward = getattr(self.nbnorm, operation.function("backward"))

        def run() -> Any:
            y, context = forward()
            return y, backward(dy, context)

        return Call(run, lambda result: {"y": result[0], **_gradients(result[1])})


def _arguments(operation: Operation, given: Given) -> dict[str, Any]:
    """What the functions of an operation take of a case; behind a product there is a ReLU."""
    arguments = given.values | {"axis": given.axis}
    if operation.parts:
        arguments["activation"] = "relu"
    return {name: arguments[name] for name in arguments.keys() & operation.arguments}


def convolution(given: Given) -> dict[str, Any]:
    """What a convolution is told beside its arrays; a dense layer: nothing."""
    names = ("stride", "padding", "dilation", "groups")
    return {name: given[name] for name in names if name in given.values}


def _like(array: Any, wanted: bool = True) -> Any:
    return np.empty_like(array) if wanted else None


def _gradients(gradients: Any) -> dict[str, Any]:
    """Those that there are: cases have neither biases nor residuals."""
    return {name: value for name, value in gradients._asdict().items() if value is not None}
