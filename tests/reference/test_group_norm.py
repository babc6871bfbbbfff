"""The specification of group and instance norm: finite differences, and cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm import reference
from tests.cases.finite_differences import assert_gradient


def test_a_group_worked_by_hand():
    x = [[[1.0, 3.0], [5.0, 7.0], [10.0, 10.0], [20.0, 20.0]]]
    # Means 4 and 15, variances 5 and 25.
    y = reference.group_norm_forward(
        x, gamma=[1.0, 2.0, 1.0, 3.0], beta=[0.0, 0.0, 1.0, 0.0], num_groups=2, eps=0.0
    )
    root = np.sqrt(5.0)
    expected = [[[-3 / root, -1 / root], [2 / root, 6 / root], [0.0, 0.0], [3.0, 3.0]]]
    np.testing.assert_allclose(y, expected, rtol=1e-15)


def test_samples_know_nothing_of_each_other(rng):
    x = rng.standard_normal((3, 4, 5)) * [[[1.0]], [[10.0]], [[100.0]]]
    whole = reference.group_norm_forward(x, num_groups=2)
    each = [reference.group_norm_forward(x[i : i + 1], num_groups=2) for i in range(3)]
    np.testing.assert_array_equal(whole, np.concatenate(each))


def test_instance_norm_is_group_norm_of_single_channels_and_batch_norm_of_one_sample(rng):
    x = rng.standard_normal((2, 3, 7))
    y = reference.instance_norm_forward(x)
    np.testing.assert_array_equal(y, reference.group_norm_forward(x, num_groups=3))
    np.testing.assert_allclose(y[1:], reference.batch_norm_forward(x[1:]), rtol=1e-13)


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("num_groups", [1, 2, 4])
@pytest.mark.parametrize("activation", [None, "silu"])
def test_gradients_are_those_of_finite_differences(axis, num_groups, activation, rng):
    shape = (2, 4, 8) if axis == 1 else (2, 8, 4)
    given = {
        "x": rng.standard_normal(shape), "gamma": rng.uniform(0.5, 1.5, 4),
        "beta": rng.standard_normal(4), "residual": rng.standard_normal(shape),
    }  # fmt: skip
    options = {"num_groups": num_groups, "axis": axis, "activation": activation}
    dy = rng.standard_normal(shape)
    found = reference.group_norm_backward(dy, **given, **options)
    for name, gradient in found._asdict().items():
        own = name.removeprefix("d")

        def loss(values, own=own):
            return np.sum(dy * reference.group_norm_forward(**given | {own: values}, **options))

        assert_gradient(gradient, loss, given[own])
