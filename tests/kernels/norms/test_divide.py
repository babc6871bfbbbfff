"""Division by norms: in every form of strips, tile by tile, in one run of the kernel and in two."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm import reference
from nbnorm.jit.simd import lane_count
from nbnorm.kernels import (
    L1,
    L2,
    NormTiling,
    NormWorkspace,
    Passes,
    add_parts,
    divide_by_norms,
    divide_by_norms_parallel,
)
from tests.kernels.views import DTYPES, integers_in

KINDS = {
    "l1": (L1(), reference.l1_normalize_forward, reference.l1_normalize_backward),
    "l2": (L2(), reference.l2_normalize_forward, reference.l2_normalize_backward),
}
EPS = 2.0
BOUND = {"float32": 2e-6, "float64": 1e-14}

each_kind = pytest.mark.parametrize("kind", KINDS)
each_type = pytest.mark.parametrize("dtype", DTYPES)
each_form = pytest.mark.parametrize("form", ["short", "one", "together", "apart"])


def form_of(form, lanes):
    """A shape of that form, its strips, those of a sample and their step: see divide.py."""
    return {
        "short": ((2 * lanes + 3, 5, 1), 3, 1, 0),
        "one": ((3, 7 * lanes + 3, 1), 3, 1, lanes),
        "together": ((3, 41, 3), 3, 1, lanes // 3 * 3),
        "apart": ((2, 21, 2 * lanes + 1), 6, 3, 2 * lanes + 1),
    }[form]


def room(size, dtype):
    """An array to write to, with NaN beyond its end."""
    return np.full(size + 3, np.nan, dtype)[:-3]


def given(kind, form, dtype, strips=1, slices=1):
    """How many tiles there are, and the arguments of a forward; scratch and results are NaN."""
    lanes = lane_count(np.dtype(dtype).itemsize)
    shape, every, sample_strips, step = form_of(form, lanes)
    tiles = -(-every // strips) * slices
    x = integers_in(shape, dtype).reshape(-1)
    scratch = [np.full((tiles, lanes), np.nan) for _ in range(2)]
    transposed = np.full(tiles * shape[1] * lanes, np.nan, dtype)
    return tiles, {
        "out": room(x.size, dtype),
        "norms": room(shape[0] * shape[2], np.float64),
        "dy": None,
        "x": x,
        "kind": KINDS[kind][0],
        "eps": EPS,
        "work": tuple(NormWorkspace(*scratch, transposed, None)),
        "passes": tuple(Passes(True, True, False)),
        "tiling": tuple(NormTiling(strips, slices, sample_strips, step)),
        "shape": shape,
    }


def backwards(arguments):
    """The arguments of the backward that belongs to a forward."""
    dy = integers_in(arguments["x"].shape, arguments["x"].dtype, seed=1)
    out = room(dy.size, dy.dtype)
    lanes, sums, transposed, _ = arguments["work"]
    work = (lanes, sums, transposed, np.full_like(transposed, np.nan))
    return arguments | {"dy": dy, "out": out, "work": work}


def run(tiles, arguments):
    for tile in reversed(range(tiles)):
        divide_by_norms(tile, tile + 1, **arguments)


def norms_of(kind, arguments):
    """The norms by NumPy: of integers, so exact in any order."""
    x = arguments["x"].astype(np.float64).reshape(arguments["shape"])
    if kind == "l1":
        return (np.abs(x).sum(axis=1) + EPS).reshape(-1)
    return np.sqrt((x * x).sum(axis=1) + EPS).reshape(-1)


def assert_is_the_reference(kind, arguments):
    _, forward, backward = KINDS[kind]
    shape, dtype = arguments["shape"], arguments["x"].dtype
    x = arguments["x"].astype(np.float64).reshape(shape)
    if arguments["dy"] is None:
        wanted = forward(x, axis=1, eps=EPS)
    else:
        wanted = backward(arguments["dy"].astype(np.float64).reshape(shape), x, axis=1, eps=EPS)
    bound = BOUND[str(dtype)] * np.abs(wanted).max()
    np.testing.assert_allclose(arguments["out"].reshape(shape), wanted, rtol=0, atol=bound)
    np.testing.assert_array_equal(arguments["norms"], norms_of(kind, arguments))


@each_type
@each_kind
@each_form
@pytest.mark.parametrize("strips", [1, 2, 100])
def test_is_the_reference_in_tiles_of_strips(strips, form, kind, dtype):
    tiles, arguments = given(kind, form, dtype, strips)
    run(tiles, arguments)
    assert_is_the_reference(kind, arguments)
    gradient = backwards(arguments)
    run(tiles, gradient)
    assert_is_the_reference(kind, gradient)
    for results in (arguments["out"], arguments["norms"], gradient["out"]):
        assert np.isnan(results.base[-3:]).all()


@each_type
@each_kind
@pytest.mark.parametrize("form", ["one", "together", "apart"])
@pytest.mark.parametrize("slices", [2, 3])
def test_slices_are_summed_first_and_written_then(slices, form, kind, dtype):
    tiles, forward = given(kind, form, dtype, slices=slices)
    for arguments in (forward, backwards(forward)):
        norms = arguments["norms"].copy()
        run(tiles, arguments | {"passes": tuple(Passes(True, False, False))})
        assert np.isnan(arguments["out"]).all()
        np.testing.assert_array_equal(arguments["norms"], norms)
        _, sums, _, _ = arguments["work"]
        add_parts(sums, slices)
        run(tiles, arguments | {"passes": tuple(Passes(False, True, False))})
        assert_is_the_reference(kind, arguments)


def test_the_driver_does_what_its_worker_does():
    tiles, arguments = given("l2", "apart", "float32")
    run(tiles, arguments)
    parallel = arguments | {"out": np.empty_like(arguments["out"])}
    divide_by_norms_parallel(tiles, **parallel)
    np.testing.assert_array_equal(parallel["out"], arguments["out"])
