"""The library that all others are compared with, called as its users call it."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.compare.memory import memory_data
from benchmarks.compare.peers import normalizing
from benchmarks.compare.protocol import Call, Given


class Adapter(normalizing.Nbnorm):
    def __init__(self, threads: int) -> None:
        import nbnorm

        self.nbnorm = nbnorm  # its threads are set by NUMBA_NUM_THREADS

    def batch_norm_inference(self, given: Given) -> Call:
        x, mean, var, gamma, beta = (given[k] for k in ("x", "mean", "var", "gamma", "beta"))
        keywords = {"axis": given.axis, "eps": given["eps"], "out": _like(x, given.reuse)}
        function = self.nbnorm.batch_norm_inference
        return Call(lambda: function(x, mean, var, gamma, beta, **keywords), lambda y: {"y": y})

    def batch_norm_forward(self, given: Given) -> Call:
        forward = self._forward(given, _like(given["x"], given.reuse))
        return Call(forward, lambda result: {"y": result[0]})

    def batch_norm_backward(self, given: Given) -> Call:
        _, context = self._forward(given)()
        dy, out = given["dy"], None
        if given.reuse:
            gamma = given["gamma"]
            out = self.nbnorm.BatchNormGradients(_like(dy), _like(gamma), _like(gamma), None)
        function = self.nbnorm.batch_norm_backward
        return Call(lambda: function(dy, context, out=out), _gradients)

    def batch_norm_forward_backward(self, given: Given) -> Call:
        forward, backward, dy = self._forward(given), self.nbnorm.batch_norm_backward, given["dy"]

        def run() -> Any:
            y, context = forward()
            return y, backward(dy, context)

        return Call(run, lambda result: {"y": result[0], **_gradients(result[1])})

    def dense_forward(self, given: Given) -> Call:
        x, weight = given["x"], given["weight"]
        function, out = self.nbnorm.dense_forward, _like(given["dy"], given.reuse)
        return Call(lambda: function(x, weight, out=out), lambda z: {"z": z})

    def dense_batch_norm_inference(self, given: Given) -> Call:
        return self._layer_inference(given, self.nbnorm.dense_batch_norm_inference)

    def dense_batch_norm_forward(self, given: Given) -> Call:
        forward = self._layer_forward(given, self.nbnorm.dense_batch_norm_forward)
        return Call(forward, lambda result: {"y": result[0]})

    def dense_batch_norm_forward_backward(self, given: Given) -> Call:
        forward = self._layer_forward(given, self.nbnorm.dense_batch_norm_forward)
        return _step(forward, self.nbnorm.dense_batch_norm_backward, given["dy"])

    def conv2d_batch_norm_inference(self, given: Given) -> Call:
        return self._layer_inference(given, self.nbnorm.conv2d_batch_norm_inference)

    def conv2d_batch_norm_forward(self, given: Given) -> Call:
        forward = self._layer_forward(given, self.nbnorm.conv2d_batch_norm_forward)
        return Call(forward, lambda result: {"y": result[0]})

    def conv2d_batch_norm_forward_backward(self, given: Given) -> Call:
        forward = self._layer_forward(given, self.nbnorm.conv2d_batch_norm_forward)
        return _step(forward, self.nbnorm.conv2d_batch_norm_backward, given["dy"])

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

    def _layer_inference(self, given: Given, function: Any) -> Call:
        """Called with batch norm's own parameters: it folds them itself, each time."""
        names = ("x", "weight", "mean", "var", "gamma", "beta")
        arrays = [given[name] for name in names]
        keywords = layer_keywords(given) | {"out": _like(given["dy"], given.reuse)}
        return Call(lambda: function(*arrays, **keywords), lambda y: {"y": y})

    def _layer_forward(self, given: Given, function: Any) -> Any:
        arrays = [given[name] for name in ("x", "weight", "gamma", "beta")]
        keywords = layer_keywords(given)
        return lambda: function(*arrays, **keywords)

    def _forward(self, given: Given, out: Any = None) -> Any:
        x, gamma, beta = given["x"], given["gamma"], given["beta"]
        keywords = {"axis": given.axis, "eps": given["eps"], "out": out}
        function = self.nbnorm.batch_norm_forward
        return lambda: function(x, gamma, beta, **keywords)


def convolution(given: Given) -> dict[str, Any]:
    """What a convolution is told beside its arrays; a dense layer: nothing."""
    names = ("stride", "padding", "dilation", "groups")
    return {name: given[name] for name in names if name in given.values}


def layer_keywords(given: Given) -> dict[str, Any]:
    """What a fused function is told beside its arrays."""
    axis = {"axis": given.axis} if given["weight"].ndim == 4 else {}
    return {"eps": given["eps"], "activation": "relu", **axis, **convolution(given)}


def _step(forward: Any, backward: Any, dy: Any) -> Call:
    def run() -> Any:
        y, context = forward()
        return y, backward(dy, context)

    names = ("dx", "dweight", "dgamma", "dbeta")
    return Call(run, lambda result: {"y": result[0], **{k: getattr(result[1], k) for k in names}})


def _like(array: Any, wanted: bool = True) -> Any:
    return np.empty_like(array) if wanted else None


def _gradients(gradients: Any) -> dict[str, Any]:
    return {name: getattr(gradients, name) for name in ("dx", "dgamma", "dbeta")}
