"""batch_norm_forward, _inference and _backward: their results, whatever the arguments.

Compiled, a combination of types costs a second or more, so the full product of all factors runs as
plain NumPy (tests/test_plain_numpy.py runs this file once more, with NUMBA_DISABLE_JIT=1), and a
set with every pair of factors runs compiled, on shapes that reach every kind of kernel.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from numba.core import config

from nbnorm import (
    BatchNormGradients,
    batch_norm_backward,
    batch_norm_forward,
    batch_norm_inference,
    reference,
)
from nbnorm.jit import threads
from tests.cases import strategies
from tests.cases.batch_norm import (
    ACTIVATIONS,
    BOUND,
    DTYPES,
    EPS,
    FREE,
    KINDS,
    LAYOUTS,
    ONE_OF_EACH_KIND,
    Case,
    Plans,
    allocated,
    assert_same_bits,
    assert_within_bounds,
    draw,
    entering,
    expected,
    full_product,
    kept_shape,
    kind_of,
    pairs,
    reduced_axes,
    run,
    scales,
    sited_cases,
)
from tests.cases.finite_differences import STEP, assert_gradient

AXES = [1, -1, 0, (1, 2, 3), (1, 3), (0, 2)]
PRODUCT = [
    case
    for case in full_product((4, 3, 5, 2), AXES)
    if config.DISABLE_JIT or not (case.activation or case.residual)
]
of_each_kind = pytest.mark.parametrize(
    "case", ONE_OF_EACH_KIND.values(), ids=ONE_OF_EACH_KIND.keys()
)
GRADIENTS = BatchNormGradients._fields


# --- against the reference --------------------------------------------------------------------


@pytest.mark.parametrize("case", PRODUCT, ids=str)
def test_is_the_reference(case, rng):
    batch = draw(case, rng)
    results = run(batch, case.layout)
    assert_within_bounds(results, batch)
    if case.statistics == "given":
        options = {k: v for k, v in batch.options.items() if k not in ("statistics", "ddof")}
        y = batch_norm_inference(batch.x, *batch.options["statistics"], **options)
        assert_same_bits({"y": y}, {"y": results["y"]})


SITED = [] if config.DISABLE_JIT else sited_cases()


@pytest.mark.parametrize(("site", "case"), SITED, ids=str)
def test_is_the_reference_whichever_kernels_serve_it(site, case, rng, monkeypatch):
    monkeypatch.setattr(threads, "runs_parallel", lambda: site.parallel)
    plans = Plans(monkeypatch)
    batch = draw(case, rng)
    assert_within_bounds(run(batch, case.layout), batch)
    assert {kind_of(plan) for plan in plans.training} == {site.kind}
    assert {kind_of(plan).split()[1] for plan in plans.elementwise} <= {site.kind.split()[1]}
    if site.parallel:
        assert all(plan.parallel and plan.tiles > 1 for plan in plans.training)


def test_the_combinations_are_every_pair_of_values():
    factors = {"kind": KINDS, "activation": ACTIVATIONS, "dtype": DTYPES, "residual": [True, False],
               "parallel": [True, False], **FREE}  # fmt: skip
    wanted = {
        ((one, value), (other, another))
        for (one, values), (other, others) in itertools.combinations(factors.items(), 2)
        for value, another in itertools.product(values, others)
    }
    assert wanted == set().union(*(pairs(site, case) for site, case in sited_cases()))


@pytest.mark.variant
@given(strategies.batches())
def test_is_the_reference_on_any_shape_and_strides(batch):
    assert_within_bounds(allocated(batch), batch)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("other", DTYPES)
def test_parameters_and_statistics_may_be_of_either_type(dtype, other, rng):
    batch = draw(Case((6, 3, 4), dtype=dtype, statistics="given"), rng)
    for name in ("gamma", "beta"):
        batch.options[name] = batch.options[name].astype(other)
    batch.options["statistics"] = tuple(v.astype(other) for v in batch.options["statistics"])
    results = allocated(batch)
    for name in ("dgamma", "dbeta"):
        assert results[name].dtype == other
        results[name] = results[name].astype(dtype)
    assert_within_bounds(results, batch, max(BOUND[dtype], BOUND[other]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("axis", AXES)
def test_a_context_holds_the_statistics(axis, ddof, dtype, rng):
    x = 3.0 + rng.standard_normal((4, 3, 5, 2)).astype(dtype)
    _, context = batch_norm_forward(x, axis=axis, ddof=ddof, eps=EPS)
    mean, var = reference.batch_statistics(x, axis=axis, ddof=ddof)
    bound = BOUND[dtype]
    np.testing.assert_allclose(context.mean, mean, rtol=bound)
    np.testing.assert_allclose(context.var, var, rtol=bound)
    np.testing.assert_allclose(context.inv_std, reference.inverse_std(var, EPS), rtol=bound)
    for statistic in (context.mean, context.var, context.inv_std):
        assert (statistic.shape, statistic.dtype) == (kept_shape(x.shape, axis), np.float64)
    assert context.count == x.size // mean.size
    with pytest.raises(AttributeError):
        context.count = 1


def test_numbers_of_numpy_are_numbers(rng):
    x = rng.standard_normal((5, 3, 2))
    y, _ = batch_norm_forward(x, axis=np.int64(2), eps=np.float32(0.25), ddof=np.int32(1))
    same, _ = batch_norm_forward(x, axis=2, eps=0.25, ddof=1)
    assert_same_bits({"y": y}, {"y": same})
    activated = [
        batch_norm_forward(x, activation=("leaky_relu", slope))[0] for slope in (1, np.float64(1.0))
    ]
    assert_same_bits({"y": activated[0]}, {"y": activated[1]})


def test_a_leaky_relus_slope_is_a_hundredth_unless_given(rng):
    x = rng.standard_normal((5, 3))
    y, _ = batch_norm_forward(x, activation="leaky_relu")
    same, _ = batch_norm_forward(x, activation=("leaky_relu", 0.01))
    assert_same_bits({"y": y}, {"y": same})
    np.testing.assert_allclose(y, reference.batch_norm_forward(x, activation="leaky_relu"))


# --- against its parts and its derivative -------------------------------------------------------


@pytest.mark.variant
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fused_is_separate(activation, rng):
    batch = draw(Case((40, 3), dtype="float64", activation=activation, residual=True), rng)
    fused = allocated(batch)

    options = {**batch.options, "activation": None, "residual": None}
    plain, context = batch_norm_forward(batch.x, **options)
    z = plain + batch.options["residual"]
    dz = batch.dy * reference.activate_derivative(z, activation)
    gradients = batch_norm_backward(dz, context)

    separate = {"y": reference.activate(z, activation), **gradients._asdict(), "dresidual": dz}
    scale = scales(batch)
    for name, value in separate.items():
        assert (np.abs(fused[name] - value) <= BOUND["float64"] * scale[name]).all(), name


@pytest.mark.variant
@pytest.mark.parametrize("statistics", ["of the batch", "given"])
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("shape", "axis"), [((7, 3), -1), ((3, 2, 3), 1), ((4, 2, 2), (1, 2))], ids=str
)
def test_backward_is_the_derivative_of_forward(shape, axis, activation, ddof, statistics, rng):
    case = Case(shape, axis, "C", "float64", ddof, activation, True, statistics)
    nearest = 0.0
    while nearest < 40 * STEP:  # a difference across the kink of a ReLU measures neither side
        batch = draw(case, rng)
        nearest = np.abs(entering(batch.x, batch.options)).min()
    arguments = {"x": batch.x, **batch.options}
    _, context = batch_norm_forward(**arguments)
    gradients = batch_norm_backward(batch.dy, context)
    for name in ("x", "gamma", "beta", "residual"):

        def loss(value, name=name):
            y, _ = batch_norm_forward(**{**arguments, name: value})
            return float(np.sum(batch.dy * y))

        assert_gradient(getattr(gradients, f"d{name}"), loss, arguments[name])


@pytest.mark.parametrize("dtype", DTYPES)
def test_given_statistics_are_constants(dtype, rng):
    batch = draw(Case((6, 3, 4), dtype=dtype, statistics="given"), rng)
    _, context = batch_norm_forward(batch.x, **batch.options)
    mean, var = (value.reshape(3, 1) for value in batch.options["statistics"])
    np.testing.assert_array_equal(context.mean, mean[:, 0])
    np.testing.assert_array_equal(context.var, var[:, 0])

    # The gradient through the statistics of the batch would be another: it sums to 0.
    dx = batch_norm_backward(batch.dy, context).dx
    scale = batch.options["gamma"].reshape(3, 1) / np.sqrt(np.float64(var) + EPS)
    np.testing.assert_allclose(dx, scale * batch.dy, rtol=BOUND[dtype])


# --- out= and needs= ------------------------------------------------------------------------


WRITABLE_LAYOUTS = [name for name in LAYOUTS if name != "read-only"]


@pytest.mark.parametrize("out_layout", WRITABLE_LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_out_of_any_layout_gets_the_same_bits(layout, out_layout, rng):
    batch = draw(Case((4, 3, 5, 2), layout=layout, activation="relu", residual=True), rng)
    assert_same_bits(run(batch, out_layout), allocated(batch))


@pytest.mark.parametrize("layout", WRITABLE_LAYOUTS)
@pytest.mark.parametrize("name", ["x", "residual"])
@of_each_kind
def test_inference_may_write_over_its_input(case, name, layout, rng):
    batch = draw(case._replace(layout=layout, statistics="given"), rng)
    options = {k: v for k, v in batch.options.items() if k not in ("statistics", "ddof")}
    arguments = {"x": batch.x, **options}
    mean, var = batch.options["statistics"]
    y = batch_norm_inference(**arguments, mean=mean, var=var)
    over = arguments[name]
    assert batch_norm_inference(**arguments, mean=mean, var=var, out=over) is over
    assert_same_bits({"y": over}, {"y": y})


@pytest.mark.parametrize("layout", WRITABLE_LAYOUTS)
@pytest.mark.parametrize("statistics", FREE["statistics"])
@pytest.mark.parametrize("name", ["dx", "dresidual"])
@of_each_kind
def test_backward_may_write_over_dy(case, name, statistics, layout, rng):
    batch = draw(case._replace(layout=layout, statistics=statistics), rng)
    _, context = batch_norm_forward(batch.x, **batch.options)
    before = batch_norm_backward(batch.dy, context)
    after = batch_norm_backward(batch.dy, context, out=BatchNormGradients(**{name: batch.dy}))
    assert getattr(after, name) is batch.dy
    assert_same_bits(after._asdict(), before._asdict())


@pytest.mark.parametrize("statistics", FREE["statistics"])
@of_each_kind
def test_needs_changes_no_bit_of_what_is_needed(case, statistics, rng):
    batch = draw(case._replace(statistics=statistics), rng)
    _, context = batch_norm_forward(batch.x, **batch.options)
    every = batch_norm_backward(batch.dy, context)._asdict()
    assert_same_bits(batch_norm_backward(batch.dy, context, needs=GRADIENTS)._asdict(), every)
    for count in range(len(GRADIENTS)):
        for needs in itertools.combinations(GRADIENTS, count):
            wanted = {k: v if k in needs else None for k, v in every.items()}
            some = batch_norm_backward(batch.dy, context, needs=iter(needs))
            assert_same_bits(some._asdict(), wanted)


def test_out_that_is_not_needed_is_left_alone(rng):
    batch = draw(Case((6, 3, 4), activation="relu", residual=True), rng)
    _, context = batch_norm_forward(batch.x, **batch.options)
    out = BatchNormGradients(*(np.full(3, np.nan) for _ in GRADIENTS))  # not even of the shape
    gradients = batch_norm_backward(batch.dy, context, needs=(), out=out)
    assert gradients == (None, None, None, None)
    assert all(np.isnan(array).all() for array in out)


def test_a_gradient_that_does_not_apply_is_none(rng):
    x, dy = rng.standard_normal((2, 6, 3))
    _, context = batch_norm_forward(x)
    gradients = batch_norm_backward(dy, context, needs=GRADIENTS)
    assert gradients.dx.shape == x.shape
    assert gradients[1:] == (None, None, None)


@of_each_kind
def test_a_context_can_be_used_again(case, rng):
    first, second = draw(case, rng), draw(case, rng)
    y, context = batch_norm_forward(first.x, **first.options)
    kept = context.statistics.copy()
    before = batch_norm_backward(first.dy, context)._asdict()

    y[...] = np.nan  # y is not kept, so its buffer may be used for another
    allocated(second)  # nor is any memory that calls of the same shapes share
    assert_same_bits(batch_norm_backward(first.dy, context)._asdict(), before)
    assert_same_bits({"statistics": context.statistics}, {"statistics": kept})

    other = {"y": None, **batch_norm_backward(second.dy, context)._asdict()}
    expected_of = first._replace(dy=second.dy)
    assert_same_bits(other, {**allocated(expected_of), "y": None})


# --- hard values ------------------------------------------------------------------------------


def without(results, channel, axis):
    """The results of all channels but one."""
    return {
        name: np.delete(value, channel, 0 if value.ndim == 1 else axis)
        for name, value in results.items()
    }


# As plain NumPy, arithmetic on these warns; compiled, nothing must.
quiet_as_plain_numpy = np.errstate(all="ignore" if config.DISABLE_JIT else "warn")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["x", "dy", "residual", "gamma", "beta"])
@pytest.mark.parametrize("statistics", FREE["statistics"])
@of_each_kind
@quiet_as_plain_numpy
def test_what_is_not_finite_stays_in_its_channel(case, statistics, name, bad, rng):
    batch = draw(case._replace(statistics=statistics), rng)
    clean = allocated(batch)
    channel = batch.options["beta"].size // 2
    arrays = {"x": batch.x, "dy": batch.dy, **batch.options}
    if name in ("gamma", "beta"):
        arrays[name][channel] = bad
    else:
        z = np.moveaxis(entering(batch.x, batch.options), case.axis, 0)[channel]
        np.moveaxis(arrays[name], case.axis, 0)[channel].flat[z.argmax()] = bad  # in no dead ReLU
    results = allocated(batch)
    assert_same_bits(*(without(found, channel, case.axis) for found in (results, clean)))

    # Infinite times the rounding of the mean is no number, and so is infinite times 0.
    if name not in ("gamma", "beta") or np.isnan(bad):
        for key, value in expected(batch).items():
            np.testing.assert_array_equal(np.isfinite(results[key]), np.isfinite(value), key)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@quiet_as_plain_numpy
def test_inference_spoils_one_value_at_most(bad, activation, rng):
    x = rng.standard_normal((6, 3))
    mean, var = np.zeros(3), np.ones(3)
    clean = batch_norm_inference(x, mean, var, eps=0.0, activation=activation)
    x[2, 1] = bad
    y = batch_norm_inference(x, mean, var, eps=0.0, activation=activation)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(y[2, 1], reference.activate(x[2, 1], activation))
    y[2, 1] = clean[2, 1]
    assert_same_bits({"y": y}, {"y": clean})


@pytest.mark.parametrize("eps", [0.0, EPS])
@of_each_kind
def test_a_channel_that_does_not_vary_passes_no_gradient_without_eps(case, eps, rng):
    batch = draw(case._replace(activation=None, residual=False), rng)
    batch.x[...] = np.float32(0.1)
    batch.options["eps"] = eps
    results = allocated(batch)
    beta = np.expand_dims(batch.options["beta"], reduced_axes(batch.x.ndim, case.axis))
    np.testing.assert_array_equal(results["y"], np.broadcast_to(beta, batch.x.shape))
    np.testing.assert_array_equal(results["dgamma"], 0.0)
    if eps == 0.0:
        np.testing.assert_array_equal(results["dx"], 0.0)


# --- nothing to normalize ---------------------------------------------------------------------


EMPTY = [
    ((0, 3), 1), ((0, 3, 4), 1), ((0, 4, 3), -1), ((0, 2, 3, 4), (1, 2, 3)), ((2, 3, 0), 1),
    ((4, 0), 1), ((4, 0, 3), 1), ((4, 0, 100), 1), ((4, 5, 0), -1), ((4, 0, 2, 3), (1, 3)),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "axis"), EMPTY, ids=str)
@pytest.mark.parametrize("with_out", [False, True])
def test_inference_of_nothing_is_nothing(shape, axis, with_out):
    x = np.empty(shape, np.float32)
    mean = np.zeros(kept_shape(shape, axis))
    out = np.empty_like(x) if with_out else None
    y = batch_norm_inference(x, mean, mean + 1.0, axis=axis, activation="relu", residual=x, out=out)
    assert (y.shape, y.dtype) == (shape, np.float32)
    assert out is None or y is out


@pytest.mark.parametrize(("shape", "axis"), EMPTY, ids=str)
def test_gradients_of_nothing_are_zero(shape, axis):
    x = np.empty(shape, np.float32)
    mean = np.zeros(kept_shape(shape, axis), np.float32)
    y, context = batch_norm_forward(
        x, mean, mean, statistics=(mean, mean + 4), axis=axis, eps=0.0, residual=x
    )
    np.testing.assert_array_equal(context.inv_std, mean + 0.5)
    gradients = batch_norm_backward(y, context)
    assert gradients.dx.shape == gradients.dresidual.shape == shape
    for gradient in (gradients.dgamma, gradients.dbeta):
        np.testing.assert_array_equal(gradient, mean)


@pytest.mark.parametrize("shape", [(4, 0), (4, 0, 3), (4, 0, 100)], ids=str)
def test_no_channels_have_no_statistics_to_take(shape):
    y, context = batch_norm_forward(np.empty(shape))
    assert y.shape == shape
    assert context.mean.shape == (0,)
    assert batch_norm_backward(y, context).dx.shape == shape
