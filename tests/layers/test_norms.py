"""L1Normalize, L2Normalize, L1Penalty and L2Penalty: the functions as layers."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm import reference
from nbnorm.layers import Dense, L1Normalize, L1Penalty, L2Normalize, L2Penalty, Sequential
from tests.cases.finite_differences import assert_gradient

NORMALIZING = {
    L1Normalize: (reference.l1_normalize_forward, reference.l1_normalize_backward),
    L2Normalize: (reference.l2_normalize_forward, reference.l2_normalize_backward),
}
PENALTIES = {L1Penalty: reference.l1_penalty, L2Penalty: reference.l2_penalty}
TOLERANCE = {"rtol": 1e-13, "atol": 1e-15}  # float64, sums of a few values


@pytest.mark.parametrize("axis", [1, -1, (1, 2), None, "sample"])
@pytest.mark.parametrize("kind", NORMALIZING)
def test_is_the_reference(kind, axis, rng):
    forward, backward = NORMALIZING[kind]
    x, dy = rng.standard_normal((2, 3, 4, 5))
    layer = kind(axis=axis, eps=0.01)
    np.testing.assert_allclose(layer(x), forward(x, axis=axis, eps=0.01), **TOLERANCE)
    np.testing.assert_allclose(
        layer.backward(dy), backward(dy, x, axis=axis, eps=0.01), **TOLERANCE
    )
    assert repr(layer) == f"{kind.__name__}(axis={axis!r}, eps=0.01)"


@pytest.mark.parametrize("kind", PENALTIES)
def test_a_penalty_passes_x_on_and_adds_its_gradient(kind, rng):
    x, dy = rng.standard_normal((2, 3, 4, 5))
    layer = kind(0.7)
    assert layer.loss == 0.0
    assert layer(x) is x
    loss, gradient = PENALTIES[kind](x, 0.7)
    assert layer.loss == pytest.approx(loss, rel=1e-13)
    given = dy.copy()
    np.testing.assert_allclose(layer.backward(dy), dy + gradient, **TOLERANCE)
    np.testing.assert_array_equal(dy, given)
    assert repr(layer) == f"{kind.__name__}(0.7)"


@pytest.mark.parametrize("kind", PENALTIES)
def test_the_gradient_is_that_of_the_loss_and_the_penalty(kind, rng):
    net = Sequential(Dense(4, 3, dtype=np.float64, rng=0), kind(0.2), L2Normalize())
    x, dy = rng.standard_normal((5, 4)), rng.standard_normal((5, 3))

    def loss(at):
        return float(np.sum(dy * net(at))) + net[1].loss

    net(x)
    assert_gradient(net.backward(dy), loss, x)


def test_the_penalty_of_a_context_is_its_own(rng):
    x, dy = rng.standard_normal((2, 3, 4))
    layer = L2Penalty(1.0)
    _, first = layer.forward(x)
    layer.forward(2 * x)
    np.testing.assert_array_equal(layer.backward(dy, first), dy + x)
    assert layer.loss == pytest.approx(4 * first.loss, rel=1e-13)
    with pytest.raises(ValueError, match="context is another layer's"):
        L1Penalty(1.0).backward(dy, first)


@pytest.mark.parametrize("kind", [L1Penalty, L2Penalty])
@pytest.mark.parametrize(("weight", "error"), [(-1, ValueError), ("1", TypeError)])
def test_refuses_what_is_no_weight(kind, weight, error):
    with pytest.raises(error, match=rf"{kind.__name__}: weight is .* expected a finite number"):
        kind(weight)


@pytest.mark.parametrize("kind", [L1Normalize, L2Normalize])
def test_refuses_what_is_no_eps(kind):
    with pytest.raises(ValueError, match=rf"{kind.__name__}: eps is -1; expected a finite number"):
        kind(eps=-1)
