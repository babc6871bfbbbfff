"""The table of moments beside other libraries' mean and variance."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import moments
from benchmarks.suites import moments as suite


def test_a_read_is_of_every_value(rng):
    x = rng.standard_normal((3, suite.BLOCK - 1))
    found = np.empty(3)
    suite._read(x.reshape(-1), found)
    assert found.sum() == pytest.approx(x.sum())


@pytest.mark.parametrize("axis", [0, 1])
def test_all_sides_find_the_same(rng, axis):
    x = rng.standard_normal((30, 40, 5))
    found = moments.sides(x, axis)
    assert set(found) >= {moments.OWN, moments.READ, "NumPy"}
    expected = suite.numpys(x, axis)()
    for name, run in found.items():
        if name != moments.READ:
            for own, right in zip(run(), expected, strict=False):
                np.testing.assert_allclose(own, right, rtol=1e-10)


def test_of_dask_too(rng):
    pytest.importorskip("dask.array")
    x = rng.standard_normal((30, 40, 5))
    own, (mean, var) = (run() for run in moments.sides_of_dask(x, 1).values())
    np.testing.assert_allclose(own.mean, mean, rtol=1e-10)
    np.testing.assert_allclose(own.var(), var, rtol=1e-10)


def test_ratios_are_of_the_other_side_to_this_library():
    found = moments.taken(
        {moments.OWN: lambda: None, "slow": lambda: sum(range(10_000))}, seconds=0.01
    )
    assert found[moments.OWN] < 1e-3
    assert found["slow"] > 10


def test_the_table_ends_with_geometric_means():
    cases = {"one": {moments.OWN: 0.001, "other": 2.0}, "two": {moments.OWN: 0.01, "other": 8.0}}
    headings, rows = moments.rows_of(cases)
    assert headings == ["array", "nbnorm", "other"]
    assert rows[0] == ["one", "1 ms", "2.00"]
    assert rows[-1] == ["geometric mean", "", "4.00"]
