"""Activations."""

from __future__ import annotations

import numpy as np
import pytest

from tests.interop.darknet import naive
from tests.interop.darknet.cases import CLOSE, image, parameters


@pytest.mark.parametrize("activation", naive.ACTIVATIONS)
def test_activations(run, rng, activation):
    x = 3 * image(rng, 2, 3, 4, 4)
    x[0] = np.linspace(-9, 9, 48, dtype=np.float32).reshape(3, 4, 4)
    x[1, 0, 0] = -4, -0.5, 0, 0.5  # where pieces meet
    x[1, 0, 1] = 2, 3, -2, 1
    y = run(x, "maxpool", f"shortcut from=0 activation={activation}")
    truth = naive.ACTIVATIONS[activation](2 * x.astype(np.float64))
    np.testing.assert_allclose(y, truth, **CLOSE)


def test_logistic_of_what_exp_cannot_hold(run):
    x = np.float32([[-1e4, -100, 0, 100, 1e4, np.nan]])
    y = run(x, "dropout", "shortcut from=0 activation=logistic")
    np.testing.assert_array_equal(y, np.float32([[0, 0, 0.5, 1, 1, np.nan]]))


@pytest.mark.parametrize("activation", naive.ACTIVATIONS)
@pytest.mark.parametrize("batch_normalize", [0, 1])
def test_activations_after_a_convolution(run, rng, activation, batch_normalize):
    x, weight = image(rng, 2, 3, 4, 4), image(rng, 2, 3, 1, 1)
    numbers = parameters(rng, 2)
    numbers[3] = 1
    z = naive.convolution(x, weight)
    if batch_normalize:
        z = naive.normalized(z, *numbers, "alexeyab")
        numbers = [numbers, weight]
    else:
        z += numbers[0][:, np.newaxis, np.newaxis]
        numbers = [numbers[0], weight]
    section = f"convolutional filters=2 batch_normalize={batch_normalize} activation={activation}"
    y = run(x, section, numbers=numbers, dialect="alexeyab")
    np.testing.assert_allclose(y, naive.ACTIVATIONS[activation](z), **CLOSE)


@pytest.mark.parametrize("activation", naive.ACTIVATIONS)
def test_activations_of_numbers_without_end(run, activation):
    x = np.float32([[np.inf, -np.inf, np.nan, 3e38, -3e38]])
    y = run(x, f"activation activation={activation}")
    assert np.isnan(y[0, 2])
    assert not np.isnan(y[0, 3:]).any()
