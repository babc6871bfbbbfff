"""oneDNN, reached through PyTorch's to_mkldnn: tensors in the library's own opaque type."""

from __future__ import annotations

from typing import Any

from benchmarks.compare.peers import pytorch
from benchmarks.compare.protocol import Call, Given, Unsupported


class Adapter(pytorch.BatchNorm):
    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        if not self.torch.backends.mkldnn.is_available():
            raise ImportError("this build of PyTorch has no oneDNN")

    def batch_norm_inference(self, given: Given) -> Call:
        _refuse_reuse(given)
        return super().batch_norm_inference(given)

    def batch_norm_forward(self, given: Given) -> Call:
        _refuse_reuse(given)
        # The operator itself: F.batch_norm does not know these tensors in training.
        x, gamma, beta = self.tensors(given, "x", "gamma", "beta")
        native, arguments = self.native, (None, None, True, pytorch.MOMENTUM, given["eps"])
        return Call(lambda: native(x, gamma, beta, *arguments)[0], lambda y: self.arrays(given, y))

    def activation(self, tensor: Any, layout: str) -> Any:
        tensor = super().activation(tensor, layout)
        if tensor.ndim != 4:  # training is implemented for pictures alone; this is a view
            n, c, *positions = tensor.shape
            tensor = tensor.reshape(n, c, -1, positions[-1] if len(positions) > 1 else 1)
        return tensor.to_mkldnn()

    def arrays(self, given: Given, y: Any = None, *gradients: Any) -> dict[str, Any]:
        results = (v.to_dense() if v is not None and v.is_mkldnn else v for v in (y, *gradients))
        return super().arrays(given, *results)


def _refuse_reuse(given: Given) -> None:
    if given.reuse:
        raise Unsupported("to_mkldnn tensors have no out=")
