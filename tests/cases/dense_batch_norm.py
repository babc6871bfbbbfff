"""Dense + batch norm as its tests run it, and how exact it has to be."""

from __future__ import annotations

import numpy as np

from nbnorm import (
    DenseBatchNormGradients,
    dense_batch_norm_backward,
    dense_batch_norm_forward,
    reference,
)
from tests.cases.product_batch_norm import Product, assert_within, draw, places, poisoned, scales

DENSE = Product(reference.dense_forward, reference.dense_backward, -1, {})
BOUND = {"float32": 5e-6, "float64": 1e-12}


def draw_dense(rng, variant, leading, c, k):
    return draw(rng, variant, DENSE, (*leading, c), (k, c))


def run(batch):
    """What the functions make of a batch, written over NaN."""
    x, weight, dy, options = batch
    y = poisoned(dy.shape, dy.dtype)
    out = places(batch, DenseBatchNormGradients)
    returned, context = dense_batch_norm_forward(x, weight, **options, out=y)
    gradients = dense_batch_norm_backward(dy, context, out=out)
    assert returned is y
    for given, got in zip(out, gradients, strict=True):
        assert got is given
    return {"y": y, "mean": context.mean, "var": context.var, **gradients._asdict()}


def allocated(batch):
    """`run` without out=: what the functions return of their own."""
    x, weight, dy, options = batch
    y, context = dense_batch_norm_forward(x, weight, **options)
    gradients = dense_batch_norm_backward(dy, context)
    return {"y": y, "mean": context.mean, "var": context.var, **gradients._asdict()}


def expected(batch):
    """What the reference makes of a batch."""
    x, weight, dy, options = batch
    z = reference.dense_forward(x, weight, options.get("bias"))
    mean, var = options.get("statistics") or reference.batch_statistics(
        z, axis=-1, ddof=options["ddof"]
    )
    y = reference.dense_batch_norm_forward(x, weight, **options)
    gradients = reference.dense_batch_norm_backward(dy, x, weight, **options)
    return {"y": y, "mean": mean, "var": var, **gradients._asdict()}


def assert_is_the_reference(results, batch):
    for name, result in results.items():
        if result is not None:
            assert result.dtype == (np.float64 if name in ("mean", "var") else batch.x.dtype), name
    bound = BOUND[str(batch.x.dtype)]
    assert_within(results, expected(batch), scales(DENSE, batch), bound)
