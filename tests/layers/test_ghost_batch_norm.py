"""Ghost batch norm is batch norm of each part."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm.layers import BatchNorm, Dense, GhostBatchNorm, Sequential

F8 = {"dtype": np.float64}


def assert_close(actual, expected):
    """But for the order in which some tens of numbers of about 1 are added."""
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("axis", [1, -1])
def test_each_part_is_a_batch(rng, axis, weighted):
    """Output, gradients and running statistics are those of batch norm, part after part."""
    shape = (6, 3, 4) if axis == 1 else (6, 4, 3)
    x, residual, dy = rng.normal(size=(3, *shape))
    weights = rng.uniform(0.5, 2, (6, 1, 1)) if weighted else None
    ghost = GhostBatchNorm(3, batch_groups=2, axis=axis, activation="silu", **F8)
    plain = BatchNorm(3, axis=axis, activation="silu", **F8)
    y = ghost(x, residual, sample_weight=weights)
    dx, dresidual = ghost.backward(dy)
    for half in (slice(0, 3), slice(3, 6)):
        part = None if weights is None else weights[half]
        assert_close(y[half], plain(x[half], residual[half], sample_weight=part))
        for ours, theirs in zip((dx, dresidual), plain.backward(dy[half]), strict=True):
            assert_close(ours[half], theirs)
    for name, value in plain.state_dict().items():
        assert_close(ghost.state_dict()[name], value)
    for name, value in plain.gradients().items():
        assert_close(ghost.gradients()[name], value)


def test_in_inference_and_folded_it_is_batch_norm(rng):
    net = Sequential(Dense(3, 4, rng=0, **F8), GhostBatchNorm(4, batch_groups=3, **F8))
    x = rng.normal(size=(9, 3))
    net(x)
    plain = BatchNorm(4, **F8)
    plain.load_state_dict(net[1].state_dict())
    expected = plain.eval()(net[0](x))
    assert_close(net.eval()(x), expected)
    assert_close(net.fold()(x[:4]), expected[:4])
    net.freeze()
    assert_close(net.train()(x[:2]), expected[:2])
    assert net.backward(x[:2] @ np.ones((3, 4))).shape == (2, 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda layer: layer(np.ones((5, 3))), ValueError, "x is .* divides into 2 equal parts"),
        (lambda layer: layer(np.ones((2, 3))), ValueError, "x is .* two values or more"),
        (
            lambda layer: layer(np.ones((4, 3)), sample_weight=np.array([[1.0], [1], [0], [0]])),
            ValueError,
            "sample_weight is .* above 0",
        ),
        (lambda layer: layer(np.ones((4, 3)), np.ones((3, 3))), ValueError, "residual is"),
        (lambda layer: GhostBatchNorm(3, batch_groups=0), ValueError, "batch_groups is 0"),
        (
            lambda layer: GhostBatchNorm(3, batch_groups=2, axis=0)(np.ones((3, 4))),
            ValueError,
            "axis is 0; expected axes other",
        ),
    ],
)
def test_refuses(call, error, message):
    layer = GhostBatchNorm(3, batch_groups=2, **F8)
    before = layer.state_dict()
    with pytest.raises(error, match=message):
        call(layer)
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
