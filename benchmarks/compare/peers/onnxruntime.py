"""ONNX Runtime: a model of one BatchNormalization node, or of a layer, for inference."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.compare.protocol import FIRST, LAST, Call, Given, Shape, Unsupported

PARAMETERS = ("gamma", "beta", "mean", "var")  # in the order of the node's inputs


class Adapter:
    def __init__(self, threads: int) -> None:
        import onnx
        import onnxruntime

        self.onnx, self.ort, self.threads = onnx, onnxruntime, threads

    def batch_norm_inference(self, given: Given) -> Call:
        x = given["x"]
        if given.case.layout != FIRST:  # the node wants channels second: (rows, c) has them there
            x = x.reshape(-1, x.shape[-1])
        return self._call(given, x, x.shape, [self._batch_norm(given, "x", "y")], PARAMETERS)

    def dense_batch_norm_inference(self, given: Given) -> Call:
        """The runtime folds batch norm into a MatMul, not into a Gemm, and takes ReLU along."""
        k, _ = given["weight"].shape
        multiply = self.onnx.helper.make_node("MatMul", ["x", "weight"], ["z"])
        given = replace(given, values=given.values | {"weight": given["weight"].T.copy()})
        return self._layer(given, multiply, (len(given["x"]), k))

    def conv2d_batch_norm_inference(self, given: Given) -> Call:
        """The runtime folds batch norm into the weights, and takes ReLU along."""
        _refuse_last(given)
        stride, padding, dilation, groups = (
            given[name] for name in ("stride", "padding", "dilation", "groups")
        )
        convolve = self.onnx.helper.make_node(
            "Conv", ["x", "weight"], ["z"], strides=[stride] * 2, pads=[padding] * 4,
            dilations=[dilation] * 2, group=groups,
        )  # fmt: skip
        return self._layer(given, convolve, given["dy"].shape)

    def _layer(self, given: Given, product: Any, y_shape: Shape) -> Call:
        relu = self.onnx.helper.make_node("Relu", ["normalized"], ["y"])
        nodes = [product, self._batch_norm(given, "z", "normalized"), relu]
        return self._call(given, given["x"], y_shape, nodes, ("weight", *PARAMETERS))

    def _batch_norm(self, given: Given, source: str, target: str) -> Any:
        return self.onnx.helper.make_node(
            "BatchNormalization", [source, *PARAMETERS], [target], epsilon=given["eps"]
        )

    def _call(
        self,
        given: Given,
        x: np.ndarray,
        y_shape: Shape,
        nodes: list[Any],
        constants: Iterable[str],
    ) -> Call:
        """The call of a model from x to y."""
        session = self._session(given, x.shape, y_shape, nodes, constants)
        source = self.ort.OrtValue.ortvalue_from_numpy(x)
        if not given.reuse:
            return Call(
                lambda: session.run_with_ort_values(["y"], {"x": source}),
                lambda results: {"y": results[0].numpy()},
            )
        target = self.ort.OrtValue.ortvalue_from_numpy(np.empty(y_shape, np.float32))
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", source)
        binding.bind_ortvalue_output("y", target)
        return Call(lambda: session.run_with_iobinding(binding), lambda _: {"y": target.numpy()})

    def _session(
        self,
        given: Given,
        x_shape: Shape,
        y_shape: Shape,
        nodes: list[Any],
        constants: Iterable[str],
    ) -> Any:
        helper = self.onnx.helper
        kind = self.onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            nodes,
            given.case.operation,
            [helper.make_tensor_value_info("x", kind, x_shape)],
            [helper.make_tensor_value_info("y", kind, y_shape)],
            [self.onnx.numpy_helper.from_array(given[name], name) for name in constants],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
        options = self.ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        return self.ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )


def _refuse_last(given: Given) -> None:
    if given.case.layout == LAST:
        raise Unsupported("its convolution is channels-first")
