"""OpenVINO: a model of one BatchNormInference node."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.compare.protocol import FIRST, Call, Given


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
        request = self._request(x, given)
        request.set_input_tensor(self.ov.Tensor(x, shared_memory=True))

        def infer_into(y: np.ndarray) -> np.ndarray:
            request.set_output_tensor(self.ov.Tensor(y, shared_memory=True))
            request.infer()
            return y

        if not given.reuse:
            return Call(lambda: infer_into(np.empty_like(x)), lambda y: {"y": y})
        y = infer_into(np.empty_like(x))
        return Call(request.infer, lambda _: {"y": y})

    def _request(self, x: np.ndarray, given: Given) -> Any:
        gamma, beta, mean, var = (given[k] for k in ("gamma", "beta", "mean", "var"))
        data = self.opset.parameter(x.shape, np.float32)
        node = self.opset.batch_norm_inference(data, gamma, beta, mean, var, given["eps"])
        model = self.ov.Model([node], [data], "batch_norm")
        options = {
            "INFERENCE_NUM_THREADS": self.threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",  # its default on this processor may be bfloat16
        }
        return self.core.compile_model(model, "CPU", options).create_infer_request()
