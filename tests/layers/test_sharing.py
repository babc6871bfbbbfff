"""One layer at several steps of a recurrence, and arrays that layers share."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm.layers import SGD, BatchNorm, Dense, DenseBatchNorm, Sequential
from tests.cases.finite_differences import assert_gradient

STEPS = 3
# eps of 1 keeps the fifth derivative of three steps small, by which finite differences err.
OPTIONS = {"eps": 1.0, "dtype": np.float64}
CELLS = {
    "BatchNorm": lambda: BatchNorm(3, activation="mish", **OPTIONS),
    "DenseBatchNorm": lambda: DenseBatchNorm(3, 3, activation="mish", rng=0, **OPTIONS),
    "Sequential": lambda: Sequential(
        Dense(3, 3, bias=False, dtype=np.float64, rng=0),
        BatchNorm(3, activation="silu", **OPTIONS),
    ),
}


def unroll(cell, x, state):
    """Feed inputs of every step into one cell: state = cell(state, residual=input)."""
    contexts = []
    for step in range(STEPS):
        state, context = cell.forward(state, x[step])
        contexts.append(context)
    return state, contexts


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_gradients_through_a_recurrence(rng, name, frozen):
    """Of the inputs, the first state and the shared parameters, against finite differences."""
    cell = CELLS[name]().freeze(frozen)
    for parameter in cell.parameters().values():
        parameter[...] = rng.uniform(0.3, 0.9, parameter.shape)
    x = rng.standard_normal((STEPS, 6, 3))
    start, dy = rng.standard_normal((2, 6, 3))
    _, contexts = unroll(cell, x, start)
    dx, dstate = np.empty_like(x), dy
    for step in reversed(range(STEPS)):
        dstate, dx[step] = cell.backward(dstate, contexts[step])

    state = CELLS[name]().state_dict() | cell.parameters()

    def loss(**changed):
        other = CELLS[name]().freeze(frozen)
        own = {key: value for key, value in changed.items() if key in state}
        other.load_state_dict(state | own)
        y, _ = unroll(other, changed.get("x", x), changed.get("start", start))
        return np.sum(dy * y)

    assert_gradient(dx, lambda value: loss(x=value), x)
    assert_gradient(dstate, lambda value: loss(start=value), start)
    for key, gradient in cell.gradients().items():
        assert_gradient(gradient, lambda value, key=key: loss(**{key: value}), state[key])


def test_every_step_counts_as_a_batch_of_the_running_statistics(rng):
    cell = BatchNorm(3, momentum=None, dtype=np.float64)
    x = rng.standard_normal((STEPS, 4, 3))
    means = []
    for step in range(STEPS):
        cell.forward(x[step])
        means.append(x[step].mean(axis=0))
    np.testing.assert_allclose(cell.running_mean, np.mean(means, axis=0), atol=1e-15)
    assert cell.num_batches_tracked == STEPS


def test_statistics_of_each_step_with_gamma_and_beta_shared(rng):
    """The way of Cooijmans et al. 2016: layers of their own, on the same two arrays."""
    steps = [BatchNorm(3, dtype=np.float64) for _ in range(STEPS)]
    for layer in steps[1:]:
        layer.gamma, layer.beta = steps[0].gamma, steps[0].beta
    x = rng.standard_normal((STEPS, 4, 3))
    dy = rng.standard_normal((STEPS, 4, 3))
    for layer, batch, gradient in zip(steps, x, dy, strict=True):
        layer(batch)
        layer.backward(gradient)
        np.testing.assert_allclose(layer.running_mean, 0.1 * batch.mean(axis=0), atol=1e-15)
    expected = 1 - 0.5 * sum(layer.gradients()["gamma"] for layer in steps)
    optimizer = SGD(steps, lr=0.5)
    optimizer.step()
    for layer in steps:
        np.testing.assert_allclose(layer.gamma, expected, rtol=1e-14)
        assert layer.gamma is steps[0].gamma
    optimizer.zero_grad()
    assert not any(layer.gradients()["gamma"].any() for layer in steps)


def test_one_array_under_two_names_has_one_velocity():
    first, second = (Dense(1, 1, bias=False, dtype=np.float64) for _ in range(2))
    second.weight = first.weight
    first.weight[...] = 1
    optimizer = SGD([first, Sequential(second, second)], lr=0.25, momentum=0.5)
    first.gradients()["weight"][...] = 2
    second.gradients()["weight"][...] = -1
    optimizer.step()  # v = 2 - 1
    np.testing.assert_allclose(first.weight, 0.75)
    second.trainable = False
    optimizer.step()  # v = 0.5 + 2
    np.testing.assert_allclose(first.weight, 0.125)
