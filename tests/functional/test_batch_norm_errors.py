"""Batches that batch norm refuses, and what it leaves unchecked.

What each argument may be is in tests/robustness.
"""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm import (
    BatchNormGradients,
    batch_norm_backward,
    batch_norm_forward,
    batch_norm_inference,
)


def numbers(shape=(4, 3, 5)):
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(1, 3, 1), (1, 3), (0, 3, 5), (4, 3, 0)])
def test_statistics_need_two_values_in_each_channel(shape):
    with pytest.raises(ValueError, match=r"^batch_norm_forward: x is .* expected two values"):
        batch_norm_forward(numbers(shape))


@pytest.mark.parametrize("function", [batch_norm_forward, batch_norm_inference])
@pytest.mark.parametrize("shape", [(), (7,)])
def test_x_has_two_axes_or_more(function, shape):
    given = () if function is batch_norm_forward else (numbers(3), abs(numbers(3)))
    with pytest.raises(ValueError, match=r"x is array of float32 .*; expected two axes or more"):
        function(np.ones(shape, np.float32), *given)


def test_what_is_not_needed_is_not_checked():
    _, context = batch_norm_forward(numbers(), numbers(3), numbers(3), residual=numbers() + 1)
    out = BatchNormGradients(dresidual=context.x, dgamma=numbers(7))
    gradients = batch_norm_backward(numbers(), context, needs=["dx", "dbeta"], out=out)
    assert gradients.dgamma is gradients.dresidual is None


@pytest.mark.parametrize("shape", [(4, 3, 5), (40, 3), (0, 3, 5), (8, 3, 200, 300)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_negative_variance_is_found_before_anything_is_written(shape, dtype):
    mean, var = numbers(3).astype(dtype), np.array([1.0, np.nan, -1e-9], dtype)
    x, out = numbers(shape), np.full(shape, 7.0, np.float32)
    with pytest.raises(ValueError, match=r"^batch_norm_inference: var is -.*; expected no neg"):
        batch_norm_inference(x, mean, var, out=out)
    with pytest.raises(ValueError, match=r"^batch_norm_forward: var is -.*; expected no neg"):
        batch_norm_forward(x, statistics=(mean, var), out=out)
    assert (out == 7.0).all()


def test_one_value_in_a_channel_will_do_for_given_statistics():
    x, mean, var = numbers((1, 3)), numbers(3), abs(numbers(3))
    y, context = batch_norm_forward(x, statistics=(mean, var))
    np.testing.assert_array_equal(y, batch_norm_inference(x, mean, var))
    assert context.count == 1
    assert np.isfinite(batch_norm_backward(x, context).dx).all()
