"""Activations as arguments: what is taken, what is refused, and each in a batch norm."""

from __future__ import annotations

import numpy as np
import pytest
from numba.core import config

from nbnorm import batch_norm_backward, batch_norm_forward, batch_norm_inference, reference
from nbnorm.functional.arguments import resolve_activation
from nbnorm.kernels.activations import ACTIVATIONS, ELU, LeakyReLU
from tests.cases.activations import ARGUMENTS


def test_a_name_stands_for_the_default_parameters():
    assert resolve_activation("f", None) is None
    for name, activation in ACTIVATIONS.items():
        assert resolve_activation("f", name) is activation
    assert ACTIVATIONS["leaky_relu"] == LeakyReLU(0.01)


@pytest.mark.parametrize("alpha", [2, 2.0, np.float32(2), np.int64(2)])
def test_a_parameter_is_any_finite_number(alpha):
    activation = resolve_activation("f", ("elu", alpha))
    assert type(activation) is ELU
    assert type(activation.alpha) is float
    assert activation.alpha == 2.0


@pytest.mark.parametrize("alpha", [np.nan, -np.inf, 10**400])
def test_a_parameter_that_is_not_finite_is_named(alpha):
    with pytest.raises(ValueError, match=r"f: activation is .*; expected a finite alpha"):
        resolve_activation("f", ("elu", alpha))


@pytest.mark.parametrize(
    ("activation", "error"),
    [
        ("gelo", ValueError),
        (("gelu", 0.1), TypeError),
        (("elu",), TypeError),
        (("elu", 1.0, 2.0), TypeError),
        (("elu", True), TypeError),
        (["elu", 1.0], TypeError),
        ((), TypeError),
    ],
)
def test_everything_else_is_answered_by_the_list(activation, error):
    with pytest.raises(error, match=r"f: activation is .*; expected None, ") as caught:
        resolve_activation("f", activation)
    expected = str(caught.value).partition("expected ")[2]
    assert all(f'"{name}"' in expected for name in ACTIVATIONS)
    assert '("elu", alpha)' in expected


# To compile one takes seconds: the kernels' tests do so in a kernel of their own.
@pytest.mark.parametrize(
    "activation", ARGUMENTS if config.DISABLE_JIT else ["gelu", ("elu", 0.2)], ids=str
)
def test_batch_norm_ends_with_it(rng, activation):
    x, dy, residual = 2.0 * rng.standard_normal((3, 5, 3, 4))
    options = {"eps": 0.1, "activation": activation, "residual": residual}
    tolerance = {"rtol": 1e-12, "atol": 1e-14}
    y, context = batch_norm_forward(x, **options)
    np.testing.assert_allclose(y, reference.batch_norm_forward(x, **options), **tolerance)
    expected = reference.batch_norm_backward(dy, x, **options)
    for result, wanted in zip(batch_norm_backward(dy, context), expected, strict=True):
        if wanted is not None and result is not None:
            np.testing.assert_allclose(result, wanted, **tolerance)
    statistics = x.mean((0, 2)), x.var((0, 2))
    y = batch_norm_inference(x, *statistics, **options)
    wanted = reference.batch_norm_inference(x, *statistics, **options)
    np.testing.assert_allclose(y, wanted, **tolerance)
