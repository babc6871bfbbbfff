"""nbnorm without fusing: its dense layer or convolution, then its batch norm, and back."""

from __future__ import annotations

from typing import Any

from benchmarks.compare.peers.nbnorm import convolution
from benchmarks.compare.protocol import Call, Given

PRODUCT_NEEDS = ("dx", "dweight")  # a bias before batch norm has no effect


class Adapter:
    def __init__(self, threads: int) -> None:
        import nbnorm

        self.nbnorm = nbnorm  # its threads are set by NUMBA_NUM_THREADS

    def dense_batch_norm_forward_backward(self, given: Given) -> Call:
        return self._step(given, self.nbnorm.dense_forward, self.nbnorm.dense_backward, {})

    def conv2d_batch_norm_forward_backward(self, given: Given) -> Call:
        keywords = convolution(given) | {"axis": given.axis}
        return self._step(given, self.nbnorm.conv2d_forward, self.nbnorm.conv2d_backward, keywords)

    def _step(self, given: Given, product: Any, back: Any, keywords: dict[str, Any]) -> Call:
        x, weight, dy, gamma, beta = (given[k] for k in ("x", "weight", "dy", "gamma", "beta"))
        norm = {"axis": given.axis, "eps": given["eps"], "activation": "relu"}
        forward, backward = self.nbnorm.batch_norm_forward, self.nbnorm.batch_norm_backward

        def run() -> Any:
            z = product(x, weight, **keywords)
            y, context = forward(z, gamma, beta, **norm)
            norm_gradients = backward(dy, context)
            dz = norm_gradients.dx
            return y, norm_gradients, back(dz, x, weight, needs=PRODUCT_NEEDS, **keywords)

        def read(results: Any) -> dict[str, Any]:
            y, of_norm, of_product = results
            return {
                "y": y, "dx": of_product.dx, "dweight": of_product.dweight,
                "dgamma": of_norm.dgamma, "dbeta": of_norm.dbeta,
            }  # fmt: skip

        return Call(run, read)
