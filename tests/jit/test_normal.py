"""The normal distribution against mpmath, and the polynomials in it.

python -m tests.jit.test_normal        prints their coefficients
"""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from mpmath import mpf
from numba.core import config

from nbnorm.jit import normal, options
from nbnorm.jit.simd import lanes, load, store
from nbnorm.jit.target import has_fma
from tests.cases.normal import normal_distribution

# Units in the last place. Measured (float32, float64) with fma: phi 2.5, 2.6 and Phi 3.6, 3.6;
# without: 2.7, 2.7 and 4.1, 4.0.
ULPS = (3, 4) if has_fma() else (3, 4.5)
TERMS = {"float32": 10, "float64": 23}
ENDS = {"float32": 13.2, "float64": 37.6}  # where exp(-z^2 / 2) ends to be a normal number

both_types = pytest.mark.parametrize("dtype", TERMS)


def coefficients(dtype: str) -> list[float]:
    """Of the polynomial in t through as many of Chebyshev's nodes as it has terms."""
    terms, middle = TERMS[dtype], mpf(normal.MIDDLE)

    def excess(t):
        u = (1 + t) / 2
        a = middle * u / (1 - u)
        f = (1 + mpf(normal.SLOPE) * a) * mpmath.exp(a * a / 2) * mpmath.erfc(a / mpmath.sqrt(2))
        return (f - 1) / u

    with mpmath.workdps(50):
        last = 2 * ENDS[dtype] / (ENDS[dtype] + middle) - 1
        angles = [mpmath.pi * (2 * j + 1) / (2 * terms) for j in range(terms)]
        nodes = [(last - 1 + (last + 1) * mpmath.cos(angle)) / 2 for angle in angles]
        powers = mpmath.matrix([[node**power for power in range(terms)] for node in nodes])
        solution = mpmath.lu_solve(powers, mpmath.matrix([excess(node) for node in nodes]))
        return [float(coefficient) for coefficient in solution]


@both_types
def test_the_coefficients_are_those_of_the_formula(dtype):
    assert normal.COEFFICIENTS[dtype] == coefficients(dtype)


@options.worker
def distribution_of_all(density, distribution, z):
    for i in range(0, z.size, lanes(z)):
        phi, cumulated = normal.normal_distribution(load(z, i))
        store(density, i, phi)
        store(distribution, i, cumulated)


def run(z):
    padded = np.resize(z, -(-z.size // 64) * 64)
    density, distribution = np.empty_like(padded), np.empty_like(padded)
    distribution_of_all(density, distribution, padded)
    return density[: z.size], distribution[: z.size]


@pytest.mark.skipif(
    config.DISABLE_JIT or np.finfo(np.longdouble).nmant < 63,
    reason="nothing is compiled, or nothing is more precise than float64 here",
)
@both_types
def test_error(dtype, rng):
    end = ENDS[dtype] - 0.1
    near, far, right = (rng.uniform(*ends, 4000) for ends in ((-1, 1), (-end, 0), (0, end)))
    z = np.concatenate([near, 1e-3 * near, far, right]).astype(dtype)
    for result, wanted, allowed in zip(run(z), normal_distribution(z), ULPS, strict=True):
        unit = np.spacing(wanted.astype(dtype)).astype(np.longdouble)
        normal_number = wanted > np.finfo(dtype).tiny
        assert np.max((np.abs(result - wanted) / unit)[normal_number]) < allowed


@both_types
def test_far_out_and_at_0(dtype):
    z = np.array([-np.inf, -1e30, -40, 0, -0.0, 40, 1e30, np.inf, np.nan], dtype)
    density, distribution = run(z)
    peak = z.dtype.type(1 / np.sqrt(2 * np.pi))
    np.testing.assert_array_equal(density, [0, 0, 0, peak, peak, 0, 0, 0, np.nan])
    np.testing.assert_array_equal(distribution, [0, 0, 0, 0.5, 0.5, 1, 1, 1, np.nan])


if __name__ == "__main__":
    for dtype in TERMS:
        print(dtype, coefficients(dtype))  # noqa: T201
