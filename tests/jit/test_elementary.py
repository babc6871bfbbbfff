"""The vector functions against extended precision."""

from __future__ import annotations

import math
import platform

import numpy as np
import pytest
from numba.core import config

from nbnorm.jit import elementary, options
from nbnorm.jit.elementary import exp, expm1, log1p, upper_half
from nbnorm.jit.simd import lanes, load, store
from nbnorm.jit.target import has_fma
from nbnorm.jit.vectors import as_vector
from tests.jit.processes import python

# Units in the last place. Measured (float32, float64): with fma 0.884, 0.877; without 1.180, 1.163.
WITH_FMA = 0.9
WITHOUT_FMA = 1.2
# Of the others, without fma: expm1 1.5, 1.9; log1p 1.8, 1.9. With fma no more.
EXPM1 = LOG1P = 2.0

pytestmark = pytest.mark.skipif(
    config.DISABLE_JIT or np.finfo(np.longdouble).nmant < 63,
    reason="nothing is compiled, or nothing is more precise than float64 here",
)


@options.worker
def exponentials(out, x):
    for i in range(0, x.size - lanes(x) + 1, lanes(x)):
        store(out, i, exp(load(x, i)))


def exp_of(x: np.ndarray) -> np.ndarray:
    padded = np.zeros(-(-x.size // 64) * 64, x.dtype)
    padded[: x.size] = x
    out = np.empty_like(padded)
    exponentials(out, padded)
    return out[: x.size]


def arguments(dtype: str) -> np.ndarray:
    """All of the range, and above all where the reduced argument is largest or smallest."""
    form = elementary._FORMATS[8 * np.dtype(dtype).itemsize]
    rng = np.random.default_rng(3)
    steps = np.arange(math.ceil(form.smallest / math.log(2)), form.largest // math.log(2) + 1)
    around = np.concatenate([(steps + half) * math.log(2) for half in (-0.5, 0.0, 0.5)])
    near = around * (1 + rng.normal(0, 4 * np.finfo(dtype).eps, (200, around.size)))
    x = np.concatenate(
        [
            rng.uniform(form.smallest, form.largest, 400_000),
            rng.uniform(-1, 1, 400_000),
            near.reshape(-1),
            np.geomspace(1e-30, 1, 1000),
            -np.geomspace(1e-30, 1, 1000),
        ]
    )
    return x[(x > form.smallest) & (x < form.largest)].astype(dtype)


def largest_error(dtype: str) -> float:
    """In units in the last place of the true value."""
    x = arguments(dtype)
    exact = np.exp(x.astype(np.longdouble))
    unit = np.spacing(exact.astype(dtype)).astype(np.longdouble)
    return float(np.max(np.abs(exp_of(x) - exact) / unit))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_error(dtype):
    assert largest_error(dtype) < (WITH_FMA if has_fma() else WITHOUT_FMA)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names of x86 processors")
def test_error_without_fma():
    code = """
from tests.jit.test_elementary import largest_error
print(largest_error("float32"), largest_error("float64"))
"""
    output, _ = python("-c", code, NUMBA_CPU_NAME="x86-64", NUMBA_CPU_FEATURES="")
    assert max(map(float, output.split())) < WITHOUT_FMA


@options.worker
def others(less_1, logarithms, halves, x):
    for i in range(0, x.size - lanes(x) + 1, lanes(x)):
        v = load(x, i)
        store(less_1, i, expm1(v))
        store(logarithms, i, log1p(v))
        store(halves, i, upper_half(v))


def others_of(x: np.ndarray) -> list[np.ndarray]:
    padded = np.resize(x, -(-x.size // 64) * 64)
    results = [np.empty_like(padded) for _ in range(3)]
    others(*results, padded)
    return [result[: x.size] for result in results]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_expm1(dtype):
    x = np.concatenate([arguments(dtype), np.linspace(-1.5, 1.5, 100_001, dtype=dtype)])
    exact = np.expm1(x.astype(np.longdouble))
    unit = np.spacing(np.abs(exact).astype(dtype)).astype(np.longdouble)
    assert np.max(np.abs(others_of(x)[0] - exact) / unit) < EXPM1
    form = elementary._FORMATS[np.finfo(dtype).bits]
    special = [-math.inf, form.smallest - 1, 0.0, form.largest + 1, math.inf, math.nan]
    result = others_of(np.array(special, dtype))[0]
    np.testing.assert_array_equal(result, [-1.0, -1.0, 0.0, math.inf, math.inf, math.nan])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_log1p(dtype):
    x = np.concatenate([np.linspace(0, 1, 100_001), np.geomspace(1e-30, 1, 100_001)]).astype(dtype)
    exact = np.log1p(x.astype(np.longdouble))
    unit = np.spacing(exact.astype(dtype)).astype(np.longdouble)
    assert np.max(np.abs(others_of(x)[1] - exact) / unit) < LOG1P


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_square_of_an_upper_half_is_exact(dtype, rng):
    x = rng.uniform(-100, 100, 10_000).astype(dtype)
    half = others_of(x)[2]
    np.testing.assert_array_equal((half * half).astype(np.longdouble), np.square(half, dtype="g"))
    assert np.all(np.abs(x - half) <= 2 * np.sqrt(np.finfo(dtype).eps) * np.abs(x))
    np.testing.assert_array_equal(half, np.asarray(elementary._upper_half(as_vector(x))))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_beyond_the_range(dtype):
    """Infinity a little below the end of the range, 0 instead of subnormal numbers, NaN for NaN."""
    info = np.finfo(dtype)
    form = elementary._FORMATS[info.bits]
    over = [form.largest + 0.01, math.log(info.max) - 0.001, 1e4, info.max, math.inf]
    under = [
        form.smallest - 0.01,
        math.log(info.smallest_normal) - 0.001,
        -1e4,
        -info.max,
        -math.inf,
    ]
    with np.errstate(all="raise"):
        result = exp_of(np.array([*over, *under, math.nan, 0.0, -0.0], dtype))
    expected = [math.inf] * len(over) + [0.0] * len(under) + [math.nan, 1.0, 1.0]
    np.testing.assert_array_equal(result, np.array(expected, dtype))
    assert not np.signbit(result[:-3]).any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_range_ends_where_the_type_s_does(dtype):
    """Within half a power of two: what is given up is less than a factor of 2 on either side."""
    info = np.finfo(dtype)
    form = elementary._FORMATS[info.bits]
    assert math.log(info.max) - math.log(2) < form.largest < math.log(info.max)
    assert 0 < form.smallest - math.log(info.smallest_normal) < 0.1
    inside = np.array([form.largest, form.smallest], dtype) * (1 - info.eps)
    result = exp_of(inside)
    assert np.isfinite(result).all()
    assert (result >= info.smallest_normal).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_twin_agrees(dtype):
    special = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e30, -1e30]
    x = np.append(arguments(dtype)[::100], np.array(special, dtype))
    twin = np.asarray(elementary._exp(as_vector(x)))
    np.testing.assert_allclose(exp_of(x), twin, rtol=2 * np.finfo(dtype).eps, atol=0)
    twin = np.asarray(elementary._expm1(as_vector(x)))
    np.testing.assert_allclose(others_of(x)[0], twin, rtol=2 * np.finfo(dtype).eps, atol=0)
    info = np.finfo(dtype)
    edges = np.linspace(math.log(info.max) - 1, math.log(info.max) + 1, 1000).astype(dtype)
    for x in (edges, -edges):
        twin = np.asarray(elementary._exp(as_vector(x)))
        np.testing.assert_allclose(exp_of(x), twin, rtol=2 * info.eps, atol=0)
