"""L1 and L2 penalties against the reference."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm import l1_penalty, l2_penalty, reference
from nbnorm.launch.machine import TILE_VALUES
from nbnorm.launch.scratch import Scratch
from tests.cases.batch_norm import LAYOUTS, poisoned, surrounded
from tests.cases.finite_differences import assert_gradient

PENALTIES = {
    "l1": (l1_penalty, reference.l1_penalty),
    "l2": (l2_penalty, reference.l2_penalty),
}
# A gradient is one product, whose weight is rounded too; a float64 sum of thousands of terms of
# one sign errs by 1e-16 a lane's chain of some hundreds.
ROUNDING = {"float32": 2e-7, "float64": 4e-16}
LOSS = 1e-13

each_penalty = pytest.mark.parametrize("name", PENALTIES)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [0, 1, 3, 63, 64, 65, 1000, TILE_VALUES + 1, 2 * TILE_VALUES + 77])
@each_penalty
def test_is_the_reference(name, size, dtype, rng, monkeypatch):
    ours, plain = PENALTIES[name]
    x = rng.standard_normal(size).astype(dtype)
    x[::7] = 0.0
    monkeypatch.setattr(Scratch, "take", lambda *key: np.full(key[2], np.nan))
    loss, gradient = ours(x, 0.3)
    wanted_loss, wanted = plain(x, 0.3)
    assert type(loss) is float
    assert loss == pytest.approx(wanted_loss, rel=LOSS)
    assert (gradient.shape, gradient.dtype) == (x.shape, x.dtype)
    np.testing.assert_allclose(gradient, wanted, rtol=ROUNDING[dtype])


@pytest.mark.parametrize("layout", LAYOUTS)
@each_penalty
def test_any_layout(name, layout, rng):
    ours, plain = PENALTIES[name]
    x = rng.standard_normal((3, 5, 2, 4))
    out = poisoned(x.shape, x.dtype, layout)
    loss, gradient = ours(LAYOUTS[layout](x), 2.0, out=out)
    assert gradient is out
    wanted_loss, wanted = plain(x, 2.0)
    assert loss == pytest.approx(wanted_loss, rel=LOSS)
    np.testing.assert_array_equal(out, wanted)


@pytest.mark.parametrize("offset", [0, 1, 13])
@each_penalty
def test_over_the_input_and_nothing_else(name, offset, rng):
    ours, plain = PENALTIES[name]
    x = rng.standard_normal(333)
    inside, buffer = surrounded(x, offset)
    _, gradient = ours(inside, 2.0, out=inside)
    assert gradient is inside
    np.testing.assert_array_equal(inside, plain(x, 2.0)[1])
    assert np.isnan(buffer).sum() == buffer.size - x.size


@each_penalty
def test_gradients_by_finite_differences(name, rng):
    x = rng.uniform(0.5, 2.0, (3, 4)) * rng.choice([-1.0, 1.0], (3, 4))
    assert_gradient(PENALTIES[name][0](x, 0.7)[1], lambda at: PENALTIES[name][0](at, 0.7)[0], x)


@each_penalty
def test_ends_of_the_range(name):
    ours, _ = PENALTIES[name]
    x = np.array([3e38, -3e38, 1e-30, 0.0, -0.0], np.float32)
    loss, gradient = ours(x, 0.5)
    assert loss == pytest.approx(3e38 if name == "l1" else 0.25 * 2 * 9e76, rel=1e-6)
    assert np.isfinite(gradient).all()
    assert not gradient[3:].any()
    loss, gradient = ours(np.array([np.nan, 1.0]), 0.5)
    assert np.isnan(loss)
    np.testing.assert_array_equal(gradient, [np.nan, 0.5])
