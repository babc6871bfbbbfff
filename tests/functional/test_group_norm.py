"""Group and instance norm against the reference: plans, layouts, options, errors, bits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba.core import config

import nbnorm
from nbnorm import reference
from nbnorm.functional.batch_norm import BatchNormGradients
from tests.cases.batch_norm import LAYOUTS, digest, poisoned, surrounded

ROOT = Path(__file__).parents[2]

# Shape, axis, groups: planes, columns, planes in columns, with channels first and last.
SITES = [
    ((3, 12, 17, 5), 1, 4),
    ((4, 6, 5, 7), 1, 6),
    ((2, 18, 40, 40), 1, 2),
    ((3, 17, 40, 40), 1, 17),
    ((3, 12, 3), 1, 4),
    ((5, 24), 1, 3),
    ((3, 5, 5, 12), -1, 4),
    ((3, 5, 5, 12), -1, 12),
    ((2, 9, 7, 128), -1, 4),
    ((2, 9, 7, 128), -1, 128),
    ((2, 5, 6, 7), 2, 3),
    ((3, 1, 7), 1, 1),
]
# Rounding of the results themselves, and of the constants in their type.
BOUNDS = {"float32": 2e-6, "float64": 4e-15}

each_site = pytest.mark.parametrize(("shape", "axis", "groups"), SITES, ids=str)
each_type = pytest.mark.parametrize("dtype", BOUNDS)


def draw(shape, axis, dtype, seed=0):
    random = np.random.default_rng(seed)
    c = shape[axis]
    of_samples = random.uniform(-5, 5, (shape[0], *[1] * (len(shape) - 1)))
    given = {
        "x": random.standard_normal(shape) * 2 + of_samples,
        "gamma": random.uniform(0.5, 1.5, c) * random.choice([-1.0, 1.0], c),
        "beta": random.standard_normal(c),
        "residual": random.standard_normal(shape),
    }
    given["gamma"][c // 2] = 0.0  # its channel still has a part in the sums of its group
    arrays = {name: value.astype(dtype) for name, value in given.items()}
    return arrays, random.standard_normal(shape).astype(dtype)


def assert_close(found, wanted, dtype):
    assert found.dtype == dtype
    scale = max(1.0, np.sqrt(np.mean(wanted**2)))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=8 * BOUNDS[dtype] * scale)


@each_site
@each_type
@pytest.mark.parametrize("full", [True, False])
def test_each_plan_is_the_reference(shape, axis, groups, dtype, full):
    given, dy = draw(shape, axis, dtype)
    options = {"num_groups": groups, "axis": axis, "eps": 1e-3}
    if full:
        options["activation"] = "silu"
    else:
        given = {"x": given["x"]}
    y, context = nbnorm.group_norm_forward(**given, **options)
    assert_close(y, reference.group_norm_forward(**given, **options), dtype)
    found = nbnorm.group_norm_backward(dy, context)
    wanted = reference.group_norm_backward(dy, **given, **options)
    for name, gradient in wanted._asdict().items():
        if gradient is None:
            assert getattr(found, name) is None
        else:
            assert_close(getattr(found, name), gradient, dtype)


@each_type
@pytest.mark.parametrize("axis", [1, -1])
def test_a_mean_of_a_million_deviations_costs_no_digits(axis, dtype):
    shape = (2, 8, 30, 30) if axis == 1 else (2, 30, 30, 8)
    x = draw(shape, axis, dtype)[0]["x"]
    x += np.array([1e6, -1e6], dtype).reshape(2, 1, 1, 1)
    for groups in (1, 2, 8):
        y, context = nbnorm.group_norm_forward(x, num_groups=groups, axis=axis)
        # In float64 the mean itself would lose 1e-10.
        grouped = np.moveaxis(x, axis, 1).reshape(2, groups, -1).astype(np.longdouble)
        deviations = grouped - grouped.mean(axis=2, keepdims=True)
        wanted = deviations / np.sqrt((deviations**2).mean(axis=2, keepdims=True) + 1e-5)
        assert_close(np.moveaxis(y, axis, 1).reshape(2, groups, -1), wanted, dtype)
        np.testing.assert_allclose(context.mean, grouped.mean(axis=2), rtol=1e-15)


@pytest.mark.parametrize("name", ["group_norm", "instance_norm"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axis", [1, -1, 2])
def test_any_layout_gives_the_same_with_places_or_without(name, layout, axis):
    given, dy = draw((3, 4, 6, 4), axis, "float32")
    options = {"axis": axis, "activation": "relu"}
    if name == "group_norm":
        options["num_groups"] = 2
    forward, backward = (getattr(nbnorm, f"{name}_{d}") for d in ("forward", "backward"))
    y, context = forward(**given, **options)
    gradients = backward(dy, context)
    arrange = LAYOUTS[layout]
    out = poisoned(y.shape, y.dtype, layout)
    arranged = {k: arrange(v) if v.ndim == 4 else v for k, v in given.items()}
    same, context = forward(**arranged, **options, out=out)
    assert same is out
    assert_close(out, y, "float32")
    places = BatchNormGradients(
        *(poisoned(g.shape, g.dtype, layout if g.ndim == 4 else "C") for g in gradients)
    )
    found = backward(arrange(dy), context, out=places)
    for one, place, wanted in zip(found, places, gradients, strict=True):
        assert one is place
        assert_close(one, wanted, "float32")


@pytest.mark.parametrize("axis", [1, -1])
def test_nothing_around_an_output_is_written(axis):
    given, dy = draw((3, 7, 5, 7), axis, "float32")
    for offset in (0, 1):
        y, buffer = surrounded(np.zeros_like(dy), offset)
        _, context = nbnorm.instance_norm_forward(**given, axis=axis, out=y)
        assert np.isfinite(y).all()
        assert np.isnan(buffer).sum() == buffer.size - y.size
        dx, buffer = surrounded(np.zeros_like(dy), offset)
        nbnorm.instance_norm_backward(dy, context, out=BatchNormGradients(dx=dx))
        assert np.isnan(buffer).sum() == buffer.size - dx.size


@pytest.mark.parametrize("axis", [1, -1])
def test_a_sample_is_the_same_alone(axis):
    given, _ = draw((4, 6, 5, 6), axis, "float32")
    y, _ = nbnorm.group_norm_forward(**given, num_groups=2, axis=axis)
    given = {name: value[2:3] if value.ndim == 4 else value for name, value in given.items()}
    alone, _ = nbnorm.group_norm_forward(**given, num_groups=2, axis=axis)
    np.testing.assert_allclose(alone, y[2:3], rtol=0, atol=2e-6)


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("groups", [2, 4])
def test_deviations_that_are_denormal_have_gradients(axis, groups):
    given, dy = draw((2, 4, 6, 4), axis, "float32")
    given["x"] = (given["x"] * 2e-40).astype(np.float32)
    given["gamma"][...] = np.float32(1e-30)
    dy *= np.float32(1e-3)
    options = {"num_groups": groups, "axis": axis, "eps": 0.0}
    y, context = nbnorm.group_norm_forward(**given, **options)
    assert_close(y, reference.group_norm_forward(**given, **options), "float32")
    wanted = reference.group_norm_backward(dy, **given, **options)
    found = nbnorm.group_norm_backward(dy, context)
    for name, gradient in wanted._asdict().items():
        bound = 1e-5 * np.abs(gradient).max()
        np.testing.assert_allclose(getattr(found, name), gradient, rtol=0, atol=bound)


@pytest.mark.parametrize("axis", [1, -1])
def test_a_constant_group_is_beta_and_nan_stays_in_its_group(axis):
    x = np.random.default_rng(1).standard_normal((3, 4, 4, 4)).astype(np.float32)
    channels = np.moveaxis(x, axis, 1)
    channels[0, :2], channels[1, 0, 0, 0] = 0.1, np.nan
    beta = np.arange(4, dtype=np.float32)
    y, _ = nbnorm.group_norm_forward(x, None, beta, num_groups=2, axis=axis)
    found = np.moveaxis(y, axis, 1)
    np.testing.assert_array_equal(found[0, :2], np.broadcast_to(beta[:2, None, None], (2, 4, 4)))
    spoiled = np.isnan(found)
    assert spoiled[1, :2].all()
    assert spoiled.sum() == spoiled[1, :2].size


def test_no_samples_and_what_is_not_wanted():
    gamma = np.ones(4, np.float32)
    y, context = nbnorm.group_norm_forward(np.ones((0, 4, 3), np.float32), gamma, num_groups=2)
    assert y.shape == (0, 4, 3)
    dx, dgamma, *_ = nbnorm.group_norm_backward(y, context)
    assert dx.shape == y.shape
    np.testing.assert_array_equal(dgamma, np.zeros(4))
    given, dy = draw((2, 4, 3), 1, "float32")
    _, context = nbnorm.group_norm_forward(**given, num_groups=2)
    assert nbnorm.group_norm_backward(dy, context, needs=["dbeta"])[0::3] == (None, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_groups": 3}, "num_groups is 3; expected a divisor of the channels"),
        ({"num_groups": 2, "axis": 0}, "axis is 0; expected an int .* not the first"),
        ({"num_groups": 4, "x": np.ones((2, 4))}, "expected two values or more in each group"),
    ],
)
def test_errors(options, message):
    given = {"x": np.ones((2, 4, 3))} | options
    with pytest.raises(ValueError, match=f"^group_norm_forward: .*{message}"):
        nbnorm.group_norm_forward(**given)


def test_the_context_of_the_other_is_refused():
    _, context = nbnorm.instance_norm_forward(np.ones((2, 4, 3)))
    with pytest.raises(TypeError, match="expected the GroupNormContext of a group_norm_forward"):
        nbnorm.group_norm_backward(np.ones((2, 4, 3)), context)


# --- bits ------------------------------------------------------------------------------------

LARGE = [((8, 32, 40, 40), 1, 4), ((8, 32, 40, 40), 1, 32), ((4, 60, 60, 32), -1, 4),
         ((4, 60, 60, 32), -1, 32)]  # fmt: skip

DIGESTS = """
import sys
import numba
from tests.functional.test_group_norm import LARGE, digest_of
for count in map(int, sys.argv[1:]):
    numba.set_num_threads(count)
    for number, site in enumerate(LARGE):
        print(number, digest_of(*site))
"""


def digest_of(shape, axis, groups):
    given, dy = draw(shape, axis, "float32")
    y, context = nbnorm.group_norm_forward(**given, num_groups=groups, axis=axis)
    return digest({"y": y, **nbnorm.group_norm_backward(dy, context)._asdict()})


@pytest.mark.skipif(config.DISABLE_JIT, reason="there are threads in compiled code only")
def test_any_number_of_threads_gives_the_same_bits():
    printed = subprocess.run(
        [sys.executable, "-c", DIGESTS, "1", "2", "4"],
        cwd=ROOT, env=os.environ | {"NUMBA_NUM_THREADS": "4"}, check=True, capture_output=True,
        text=True,
    ).stdout.splitlines()  # fmt: skip
    assert len(printed) == 3 * len(LARGE)
    assert len(set(printed)) == len(LARGE)
