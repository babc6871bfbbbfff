"""Moments of Dask arrays and normalization by them, on every scheduler."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from nbnorm import Moments, batch_norm_forward, batch_norm_inference
from tests.conftest import import_optional_peer

pytestmark = pytest.mark.peer


@pytest.fixture(autouse=True)
def da():
    return import_optional_peer("dask.array")


CASES = [
    ((60, 5), 1, (7, 2)),
    ((6, 7, 8, 5), 1, (2, 3, 8, 2)),
    ((6, 8, 5, 7), -1, (4, 4, 4, 4)),
    ((9, 3, 4, 2), (1, 2), (2, 2, 3, 1)),
    ((60, 5), 0, (60, 1)),
]


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("shape", "axis", "chunks"), CASES)
def test_moments_and_normalize(rng, da, shape, axis, chunks, weighted, scheduler):
    if scheduler == "processes" and shape != CASES[1][0]:
        pytest.skip("one case is enough where every process starts anew")
    from nbnorm.interop.dask import moments, normalize

    x = rng.normal(5, 2, shape)
    axes = {a % x.ndim for a in np.atleast_1d(axis)}
    ones = [1 if a in axes else size for a, size in enumerate(shape)]
    weight = rng.uniform(0.5, 2, ones) if weighted else None
    expected = Moments.of(x, axis=axis, sample_weight=weight)
    chunked = da.from_array(x, chunks=chunks)
    lazy = moments(chunked, axis, weight, split_every=3)
    found = lazy.compute(scheduler=scheduler)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.count, expected.count, rtol=1e-12)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(found.var(), expected.var(), rtol=1e-12)

    gamma, beta = rng.normal(size=(2, *expected.shape))
    options = {"axis": axis, "eps": 1e-3, "activation": "relu"}
    mean, var = expected.mean, expected.var(1)
    whole = batch_norm_inference(x, mean, var, gamma, beta, **options)
    for given in (lazy, found):
        y = normalize(chunked, given, gamma, beta, ddof=1, **options)
        assert y.chunks == chunked.chunks
        assert y.dtype == x.dtype
        np.testing.assert_allclose(y.compute(scheduler=scheduler), whole, rtol=0, atol=1e-12)


def test_float32_stays_float32_and_the_bits_are_the_same_again(rng, da):
    from nbnorm.interop.dask import moments, normalize

    x = rng.normal(5, 2, (200, 6)).astype(np.float32)
    chunked = da.from_array(x, chunks=(13, 4))
    lazy = moments(chunked, split_every=2)
    first, second = (lazy.compute(scheduler=one).to_array() for one in ("synchronous", "threads"))
    np.testing.assert_array_equal(first, second)
    y = normalize(chunked, lazy).compute(scheduler="threads")
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, batch_norm_forward(x)[0], rtol=0, atol=2e-6)


def test_weights_may_be_a_dask_array(rng, da):
    from nbnorm.interop.dask import moments

    x, mask = rng.normal(size=(50, 3)), rng.random((50, 1)) < 0.5
    found = moments(da.from_array(x, chunks=9), 1, da.from_array(mask, chunks=17))
    np.testing.assert_allclose(found.compute().mean, x[mask[:, 0]].mean(axis=0), rtol=1e-12)


LARGER_THAN_MEMORY = """
import os, sys
import dask.array as da, numpy as np
from dask.distributed import Client, LocalCluster
from nbnorm.interop.dask import moments, normalize

def main():
    path, limit = sys.argv[1], int(sys.argv[2])
    x = da.from_zarr(path)
    assert x.nbytes >= 10 * limit
    with LocalCluster(
        n_workers=2, threads_per_worker=1, memory_limit=0, dashboard_address=None
    ) as cluster, Client(cluster) as client:
        def restrict(limit=limit, path=path):
            import resource, threading
            import nbnorm, zarr
            nbnorm.Moments.of(np.ones((4, 3), np.float32))  # loads what there is to load
            zarr.open_array(path)[:1]
            threading.stack_size(256 << 10)  # of threads that zarr starts later
            pages = int(open("/proc/self/statm").read().split()[0])
            most = pages * resource.getpagesize() + limit
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        client.run(restrict)
        lazy = moments(x)
        found = lazy.compute()
        print(found.count, *found.mean, *found.var())
        y = normalize(x, lazy)
        print(float(abs(y.mean(axis=0)).max().compute()))

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
def test_an_array_ten_times_as_large_as_memory(da, tmp_path):
    """A zarr array on disk; each of two workers may take a tenth of its size beside itself."""
    zarr = import_optional_peer("zarr")
    import_optional_peer("distributed")
    rows, columns, chunk, limit = 1_000_000, 64, 10_000, 24 << 20
    path = tmp_path / "x.zarr"
    stored = zarr.create_array(
        str(path), shape=(rows, columns), chunks=(chunk, columns), dtype="float32"
    )
    random = np.random.default_rng(0)
    total, squares = np.zeros(columns), np.zeros(columns)
    for first in range(0, rows, chunk):
        block = random.standard_normal((chunk, columns), dtype=np.float32)
        stored[first : first + chunk] = block
        total += block.sum(axis=0, dtype=float)
        squares += np.square(block, dtype=float).sum(axis=0)
    script = tmp_path / "script.py"
    script.write_text(LARGER_THAN_MEMORY)
    environment = {**os.environ, "NUMBA_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    run = subprocess.run(
        [sys.executable, script, path, str(limit)], check=False, capture_output=True, text=True,
        timeout=500, env=environment,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    moments, center = (np.array(line.split(), float) for line in run.stdout.splitlines())
    mean = total / rows
    assert moments[0] == rows
    np.testing.assert_allclose(moments[1 : 1 + columns], mean, rtol=0, atol=1e-7)
    np.testing.assert_allclose(moments[1 + columns :], squares / rows - mean**2, rtol=1e-6)
    assert center[0] < 1e-6


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": np.ones((4, 3))}, TypeError, "moments: x is array.* expected a dask array"),
        ({"axis": 2}, ValueError, "moments: axis is 2"),
        ({"axis": (0, 1)}, ValueError, "moments: axis is"),
        ({"sample_weight": [1.0]}, TypeError, "moments: sample_weight is .* of NumPy or Dask"),
        ({"sample_weight": np.ones((4, 3))}, ValueError, r"sample_weight is .* \(4, 1\)"),
        ({"split_every": 1}, ValueError, "split_every is 1"),
    ],
)
def test_moments_refuses(da, change, error, message):
    from nbnorm.interop.dask import moments

    with pytest.raises(error, match=message):
        moments(**({"x": da.ones((4, 3))} | change))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"moments": 3}, TypeError, "normalize: moments is 3; expected Moments, or a Delayed"),
        ({"moments": Moments(2)}, ValueError, r"moments is .* Moments of shape \(3,\)"),
        ({"gamma": np.ones(2)}, ValueError, "gamma is"),
        ({"eps": -1}, ValueError, "eps is -1"),
        ({"ddof": 2}, ValueError, "ddof is 2"),
    ],
)
def test_normalize_refuses(da, change, error, message):
    from nbnorm.interop.dask import normalize

    good = {"x": da.ones((4, 3)), "moments": Moments.of(np.ones((4, 3)))}
    with pytest.raises(error, match=message):
        normalize(**(good | change))


def test_integers_and_unknown_sizes_are_refused(da):
    from nbnorm.interop.dask import moments

    with pytest.raises(TypeError, match=r"x is .* float32 or float64"):
        moments(da.ones((4, 3), dtype=int))
    x = da.ones((4, 3), chunks=2)
    with pytest.raises(ValueError, match=r"x is .* known sizes"):
        moments(x[x[:, 0] > 0])
