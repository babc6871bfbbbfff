"""The library that all others are compared with, called as its users call it."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.compare.protocol import Call, Given


class Adapter:
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

    def _forward(self, given: Given, out: Any = None) -> Any:
        x, gamma, beta = given["x"], given["gamma"], given["beta"]
        keywords = {"axis": given.axis, "eps": given["eps"], "out": out}
        function = self.nbnorm.batch_norm_forward
        return lambda: function(x, gamma, beta, **keywords)


def _like(array: Any, wanted: bool = True) -> Any:
    return np.empty_like(array) if wanted else None


def _gradients(gradients: Any) -> dict[str, Any]:
    return {name: getattr(gradients, name) for name in ("dx", "dgamma", "dbeta")}
