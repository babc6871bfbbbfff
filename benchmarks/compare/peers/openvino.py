"""OpenVINO: a model of one BatchNormInference node, or of a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.compare.protocol import FIRST, LAST, Call, Given, Shape, Unsupported


class Adapter:
    def __init__(self, threads: int) -> None:
        import openvino
        from openvino import opset8

        self.ov, self.opset, self.threads = openvino, opset8, threads
        self.core = openvino.Core()

    def batch_norm_inference(self, given: Given) -> Call:
        x = given["x"]
        if given.case.layout != FIRST:  # the node wants channels second: (rows, c) has them there
            x = x.reshape(-1, x.shape[-1])
        return self._call(given, x, x.shape, lambda data: self._batch_norm(given, data))

    def dense_batch_norm_inference(self, given: Given) -> Call:
        """Compiling the model makes one operation of the three nodes."""
        x, weight, opset = given["x"], given["weight"], self.opset

        def layer(data: Any) -> Any:
            z = opset.matmul(data, opset.constant(weight), False, True)
            return opset.relu(self._batch_norm(given, z))

        return self._call(given, x, (len(x), len(weight)), layer)

    def conv2d_batch_norm_inference(self, given: Given) -> Call:
        """Compiling the model makes one operation of the three nodes."""
        if given.case.layout == LAST:
            raise Unsupported("its convolution is channels-first")
        opset, groups, weight = self.opset, given["groups"], given["weight"]
        stride, padding, dilation = (
            [given[name]] * 2 for name in ("stride", "padding", "dilation")
        )
        convolution = opset.convolution
        if groups > 1:
            convolution = opset.group_convolution
            weight = weight.reshape(groups, -1, *weight.shape[1:])

        def layer(data: Any) -> Any:
            z = convolution(data, opset.constant(weight), stride, padding, padding, dilation)
            return opset.relu(self._batch_norm(given, z))

        return self._call(given, given["x"], given["dy"].shape, layer)

    def _batch_norm(self, given: Given, data: Any) -> Any:
        gamma, beta, mean, var = (given[k] for k in ("gamma", "beta", "mean", "var"))
        return self.opset.batch_norm_inference(data, gamma, beta, mean, var, given["eps"])

    def _call(
        self, given: Given, x: np.ndarray, y_shape: Shape, layer: Callable[[Any], Any]
    ) -> Call:
        """The call of a model from x to y, `layer` being its nodes."""
        request = self._request(given, x.shape, layer)
        request.set_input_tensor(self.ov.Tensor(x, shared_memory=True))

        def infer_into(y: np.ndarray) -> np.ndarray:
            request.set_output_tensor(self.ov.Tensor(y, shared_memory=True))
            request.infer()
            return y

        if not given.reuse:
            return Call(lambda: infer_into(np.empty(y_shape, np.float32)), lambda y: {"y": y})
        y = infer_into(np.empty(y_shape, np.float32))
        return Call(request.infer, lambda _: {"y": y})

    def _request(self, given: Given, x_shape: Shape, layer: Callable[[Any], Any]) -> Any:
        data = self.opset.parameter(x_shape, np.float32)
        model = self.ov.Model([layer(data)], [data], given.case.operation)
        options = {
            "INFERENCE_NUM_THREADS": self.threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",  # its default on this processor may be bfloat16
        }
        return self.core.compile_model(model, "CPU", options).create_infer_request()
