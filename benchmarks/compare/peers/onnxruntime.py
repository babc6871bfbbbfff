"""ONNX Runtime: a model of one BatchNormalization node, for inference."""

from __future__ import annotations

import numpy as np

from benchmarks.compare.protocol import FIRST, Call, Given

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
        session = self._session(x, given)
        source = self.ort.OrtValue.ortvalue_from_numpy(x)
        if not given.reuse:
            return Call(
                lambda: session.run_with_ort_values(["y"], {"x": source}),
                lambda results: {"y": results[0].numpy()},
            )
        target = self.ort.OrtValue.ortvalue_from_numpy(np.empty_like(x))
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", source)
        binding.bind_ortvalue_output("y", target)
        return Call(lambda: session.run_with_iobinding(binding), lambda _: {"y": target.numpy()})

    def _session(self, x: np.ndarray, given: Given) -> object:
        helper = self.onnx.helper
        kind = self.onnx.TensorProto.FLOAT
        node = helper.make_node(
            "BatchNormalization", ["x", *PARAMETERS], ["y"], epsilon=given["eps"]
        )
        graph = helper.make_graph(
            [node],
            "batch_norm",
            [helper.make_tensor_value_info("x", kind, x.shape)],
            [helper.make_tensor_value_info("y", kind, x.shape)],
            [self.onnx.numpy_helper.from_array(given[name], name) for name in PARAMETERS],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
        options = self.ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        return self.ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
