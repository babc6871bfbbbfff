"""Dense layers on checked arguments: products of rows, and where they go."""

from __future__ import annotations

from collections.abc import Collection

from nbnorm.kernels.gemm.epilogue import Epilogue
from nbnorm.launch.gemm import as_rows, matrix, multiply, shift_by
from nbnorm.launch.outputs import Gradients, cast, destination
from nbnorm.launch.statistics import channel_sums
from nbnorm.typing import Array


def forward(x: Array, weight: Array, bias: Array | None, out: Array | None) -> Array:
    """``y = x weight^T + bias``."""
    k = len(weight)
    y = destination(out, (*x.shape[:-1], k), x.dtype)
    epilogue = Epilogue(constants=shift_by(bias, k, x.dtype))
    multiply(y.written, as_rows(x), matrix(weight).transposed, epilogue)
    return y.deliver()


def differentiate(
    dy: Array, x: Array, weight: Array, wanted: Collection[str], out: Gradients
) -> Gradients:
    """``dx = dy weight``, ``dweight = dy^T x`` and dbias, those that are `wanted`."""
    rows = as_rows(dy)
    dx = dweight = dbias = None
    if "dx" in wanted:
        place = destination(out[0], x.shape, x.dtype)
        multiply(place.written, rows, matrix(weight))
        dx = place.deliver()
    if "dweight" in wanted:
        place = destination(out[1], weight.shape, weight.dtype)
        multiply(place.written, rows.transposed, as_rows(x))
        dweight = place.deliver()
    if "dbias" in wanted:
        dbias = cast(channel_sums(dy), x.dtype, out[2])
    return dx, dweight, dbias
