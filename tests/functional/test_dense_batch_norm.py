"""dense_batch_norm_* against the reference, their parts, finite differences and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm import (
    BatchNormGradients,
    DenseBatchNormGradients,
    batch_norm_backward,
    batch_norm_forward,
    dense_backward,
    dense_batch_norm_backward,
    dense_batch_norm_forward,
    dense_batch_norm_inference,
    dense_forward,
    fold_batch_norm,
    reference,
)
from tests.cases.dense_batch_norm import (
    BOUND,
    DENSE,
    allocated,
    assert_is_the_reference,
    draw_dense,
    run,
)
from tests.cases.finite_differences import assert_gradient
from tests.cases.product_batch_norm import (
    ONE_OF_EACH_TYPE,
    VARIANTS,
    Variant,
    arrays_in,
    assert_within,
    places,
    poisoned,
    scales,
    strided,
)

FIELDS = DenseBatchNormGradients._fields

# (n, c, k). Not 3 rows of 1001: with so few, a channel's rms can be many times its deviation, by
# which the rounding of z in float32 grows (NumPy's product is beyond the bound too).
SIZES = [
    *((n, c, k) for n in (3, 17) for c in (1, 3, 17) for k in (1, 3, 17)),
    (2, 3, 3), (1001, 3, 17), (1001, 17, 3), (17, 1001, 3), (17, 3, 1001), (17, 1001, 17),
]  # fmt: skip


# --- against the reference ------------------------------------------------------------------


@pytest.mark.parametrize("variant", ONE_OF_EACH_TYPE, ids=str)
@pytest.mark.parametrize(("n", "c", "k"), SIZES)
def test_equals_the_reference_in_every_size(rng, n, c, k, variant):
    batch = draw_dense(rng, variant, (n,), c, k)
    assert_is_the_reference(run(batch), batch)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("leading", [(19,), (3, 5), (2, 1, 4, 2)])
def test_equals_the_reference_in_every_variant(rng, leading, variant):
    batch = draw_dense(rng, variant, leading, 5, 7)
    assert_is_the_reference(run(batch), batch)
    assert_is_the_reference(allocated(batch), batch)


@pytest.mark.parametrize("leading", [(), (1,), (1, 1)])
def test_one_row_will_do_for_given_statistics(rng, leading):
    batch = draw_dense(rng, VARIANTS[3], leading, 5, 7)
    assert_is_the_reference(run(batch), batch)
    assert_is_the_reference(allocated(batch), batch)


@pytest.mark.variant
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("ddof", [0, 1])
def test_backward_is_the_derivative_of_forward(rng, ddof, given):
    variant = Variant("float64", "silu", False, "given" if given else "of the batch", ddof)
    x, weight, dy, options = draw_dense(rng, variant, (4, 3), 3, 4)
    options["eps"] = 1.0  # little curvature, which finite differences ask for
    _, context = dense_batch_norm_forward(x, weight, **options)
    gradients = dense_batch_norm_backward(dy, context)
    arguments = {"x": x, "weight": weight, **options}

    def loss(name, value):
        return np.sum(dy * dense_batch_norm_forward(**arguments | {name: value})[0])

    for name in ("x", "weight", "gamma", "beta"):
        assert_gradient(
            getattr(gradients, f"d{name}"),
            lambda value, name=name: loss(name, value),
            arguments[name],
        )
    if given:
        assert_gradient(gradients.dbias, lambda bias: loss("bias", bias), options["bias"])
    else:
        np.testing.assert_allclose(gradients.dbias, 0, atol=1e-14)


@pytest.mark.parametrize("variant", ONE_OF_EACH_TYPE, ids=str)
def test_equals_its_parts(rng, variant):
    batch = draw_dense(rng, variant, (33,), 9, 20)
    x, weight, dy, options = batch
    bias = options.pop("bias", None)
    z = dense_forward(x, weight, bias)
    y, context = batch_norm_forward(z, **options, axis=-1)
    of_norm = batch_norm_backward(dy, context)._asdict()
    of_dense = dense_backward(of_norm.pop("dx"), x, weight)._asdict()
    if bias is None:
        of_dense["dbias"] = None
    else:
        options["bias"] = bias
    parts = {"y": y, "mean": context.mean, "var": context.var, **of_dense, **of_norm}
    assert_within(run(batch), parts, scales(DENSE, batch), 2 * BOUND[variant.dtype])


# --- by hand --------------------------------------------------------------------------------


def test_by_hand():
    x, weight = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[7.0, 3.0]])  # z = 12 8
    y, context = dense_batch_norm_forward(
        x, weight, np.array([2.0]), np.array([1.0]), bias=np.array([5.0]), eps=0.0
    )
    np.testing.assert_array_equal(y, [[3.0], [-1.0]])
    np.testing.assert_array_equal(context.mean, [10.0])
    np.testing.assert_array_equal(context.var, [4.0])
    np.testing.assert_array_equal(context.inv_std, [0.5])
    assert context.count == 2

    gradients = dense_batch_norm_backward(np.array([[1.0], [5.0]]), context)
    np.testing.assert_array_equal(gradients.dgamma, [-4.0])
    np.testing.assert_array_equal(gradients.dbeta, [6.0])
    # Two rows are always -1 and 1 after batch norm: nothing moves them.
    for gradient in (gradients.dx, gradients.dweight, gradients.dbias):
        np.testing.assert_allclose(gradient, 0, atol=1e-14)


def test_by_hand_given_statistics():
    x, weight = np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])
    given = (np.array([5.0]), np.array([4.0]))
    y, context = dense_batch_norm_forward(x, weight, statistics=given, eps=0.0, bias=np.ones(1))
    np.testing.assert_array_equal(y, [[3.5]])
    gradients = dense_batch_norm_backward(np.array([[2.0]]), context)
    np.testing.assert_array_equal(gradients.dx, [[3.0, 4.0]])
    np.testing.assert_array_equal(gradients.dweight, [[1.0, 2.0]])
    np.testing.assert_array_equal(gradients.dbias, [1.0])
    assert gradients.dgamma is gradients.dbeta is gradients.dresidual is None


def test_a_feature_that_does_not_vary_is_beta():
    weight = np.array([[0.0, 0.0], [1.0, 0.0]])
    x = np.random.default_rng(0).standard_normal((7, 2))
    beta = np.array([0.3, 0.7])
    y, context = dense_batch_norm_forward(x, weight, beta=beta, eps=0.0)
    np.testing.assert_array_equal(y[:, 0], beta[0])
    gradients = dense_batch_norm_backward(x, context)
    np.testing.assert_array_equal(gradients.dweight[0], 0)
    assert np.isfinite(gradients.dx).all()


# --- inference ------------------------------------------------------------------------------


def given_of(rng, k, dtype):
    return rng.standard_normal(k).astype(dtype), rng.uniform(0.5, 2, k).astype(dtype)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("leading", [(1,), (17,), (3, 5), ()])
def test_inference_is_the_reference(rng, leading, variant):
    x, weight, dy, options = draw_dense(rng, variant._replace(statistics="given"), leading, 5, 7)
    mean, var = options.pop("statistics")
    del options["ddof"]
    right = reference.dense_batch_norm_inference(x, weight, mean, var, **options)
    out = poisoned(dy.shape, dy.dtype)
    y = dense_batch_norm_inference(x, weight, mean, var, **options, out=out)
    assert y is out
    linear = options | {"activation": None}
    entering = reference.dense_batch_norm_inference(x, weight, mean, var, **linear)
    bound = BOUND[variant.dtype] * np.sqrt(np.mean(entering**2))
    np.testing.assert_allclose(y, right, rtol=0, atol=bound)
    y = dense_batch_norm_inference(x, weight, mean, var, **options)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, out)


@pytest.mark.variant
@pytest.mark.parametrize("activation", ["relu", None])
def test_inference_may_write_over_the_residual(rng, activation):
    x, weight = rng.standard_normal((9, 5)), rng.standard_normal((7, 5))
    mean, var = given_of(rng, 7, np.float64)
    residual = rng.standard_normal((9, 7))
    options = {"residual": residual, "activation": activation}
    y = dense_batch_norm_inference(x, weight, mean, var, **options)
    assert dense_batch_norm_inference(x, weight, mean, var, **options, out=residual) is residual
    np.testing.assert_array_equal(residual, y)


def test_inference_is_dense_with_folded_weights(rng):
    x, weight = rng.standard_normal((9, 5)), rng.standard_normal((7, 5))
    mean, var = given_of(rng, 7, np.float64)
    gamma, beta, bias = rng.standard_normal((3, 7))
    y = dense_batch_norm_inference(x, weight, mean, var, gamma, beta, bias=bias)
    folded = fold_batch_norm(weight, bias, mean, var, gamma, beta)
    np.testing.assert_allclose(y, dense_forward(x, *folded), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("residual", [False, True])
def test_inference_of_an_empty_batch(residual):
    x, weight = np.empty((0, 2, 5)), np.ones((7, 5))
    options = {"activation": "relu", "residual": np.empty((0, 2, 7)) if residual else None}
    y = dense_batch_norm_inference(x, weight, np.ones(7), np.ones(7), **options)
    assert y.shape == (0, 2, 7)


def test_an_empty_batch_with_given_statistics_has_no_gradients():
    given = np.ones(7), np.ones(7)
    x, weight = np.empty((0, 5)), np.ones((7, 5))
    y, context = dense_batch_norm_forward(x, weight, np.ones(7), statistics=given, bias=np.ones(7))
    assert y.shape == (0, 7)
    gradients = dense_batch_norm_backward(y, context)
    assert gradients.dx.shape == (0, 5)
    for gradient in (gradients.dweight, gradients.dbias, gradients.dgamma):
        assert not gradient.any()


# --- memory ---------------------------------------------------------------------------------


@pytest.mark.parametrize("arrange", [np.asfortranarray, strided], ids=["Fortran", "strided"])
def test_any_strides(rng, arrange):
    batch = draw_dense(rng, VARIANTS[0], (6, 4), 5, 8)
    x, weight, dy, options = batch
    plain = run(batch)
    options = options | {"residual": arrange(options["residual"])}
    y = arrange(poisoned(dy.shape, dy.dtype))
    turned = arrange(x), arrange(weight)
    returned, context = dense_batch_norm_forward(*turned, **options, out=y)
    assert returned is y
    out = places(batch, DenseBatchNormGradients)
    out = out._replace(
        dx=arrange(out.dx), dweight=arrange(out.dweight), dresidual=arrange(out.dresidual)
    )
    gradients = dense_batch_norm_backward(arrange(dy), context, out=out)
    for given, got in zip(out, gradients, strict=True):
        assert got is given
    results = {"y": y, "mean": context.mean, "var": context.var, **gradients._asdict()}
    assert_within(results, plain, scales(DENSE, batch), BOUND["float32"])

    given = given_of(rng, 8, np.float32)
    y = dense_batch_norm_inference(*turned, *given, residual=options["residual"], out=y)
    right = dense_batch_norm_inference(x, weight, *given, residual=options["residual"])
    np.testing.assert_allclose(y, right, rtol=0, atol=1e-5)


def test_read_only_inputs(rng):
    batch = draw_dense(rng, VARIANTS[0], (6,), 5, 8)
    expected = run(batch)
    for array in arrays_in(batch):
        array.flags.writeable = False
    for name, result in run(batch).items():
        np.testing.assert_array_equal(result, expected[name])


def test_a_context_serves_again_when_y_has_been_written_over(rng):
    x, weight, dy, options = draw_dense(rng, VARIANTS[0], (6,), 5, 8)
    y, context = dense_batch_norm_forward(x, weight, **options)
    first = dense_batch_norm_backward(dy, context)
    y[:] = np.nan
    for got, right in zip(dense_batch_norm_backward(dy, context), first, strict=True):
        np.testing.assert_array_equal(got, right)
    assert context.x is x
    assert context.weight is weight
    assert context.gamma is options["gamma"]
    assert np.shares_memory(context.residual, options["residual"])


def test_gradients_have_the_types_of_their_parameters(rng):
    x, weight, dy, options = draw_dense(rng, VARIANTS[0], (6,), 5, 8)
    wide = {name: options[name].astype(np.float64) for name in ("gamma", "beta", "bias")}
    y, context = dense_batch_norm_forward(x, weight, **options | wide)
    assert y.dtype == np.float32
    gradients = dense_batch_norm_backward(dy, context)
    for name, gradient in gradients._asdict().items():
        wanted = np.float64 if name[1:] in wide else np.float32
        assert gradient.dtype == wanted, name


# --- needs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIELDS)
def test_needs_leaves_the_others_out(rng, name):
    x, weight, dy, options = draw_dense(rng, VARIANTS[0], (6,), 5, 8)
    _, context = dense_batch_norm_forward(x, weight, **options)
    every = dense_batch_norm_backward(dy, context)
    one = dense_batch_norm_backward(dy, context, needs=[name])
    assert [field for field in FIELDS if getattr(one, field) is not None] == [name]
    np.testing.assert_array_equal(getattr(one, name), getattr(every, name))


def test_no_needs_no_gradients(rng):
    x, weight, dy, options = draw_dense(rng, VARIANTS[0], (6,), 5, 8)
    _, context = dense_batch_norm_forward(x, weight, **options)
    assert dense_batch_norm_backward(dy, context, needs=()) == DenseBatchNormGradients()


def test_what_is_not_needed_is_not_checked(rng):
    x, weight, dy, options = draw_dense(rng, VARIANTS[0], (6,), 5, 8)
    _, context = dense_batch_norm_forward(x, weight, **options)
    out = DenseBatchNormGradients(dx=x, dgamma=np.empty(3))
    gradients = dense_batch_norm_backward(dy, context, needs={"dweight"}, out=out)
    assert gradients.dx is gradients.dgamma is None


# --- wrong arguments ------------------------------------------------------------------------

X, WEIGHT, VECTOR, RESIDUAL = np.ones((5, 3)), np.ones((4, 3)), np.ones(4), np.ones((5, 4))
ROOM = np.zeros((6, 4))
TWO_VALUES = "two values or more in each channel"


def read_only(shape):
    array = np.ones(shape)
    array.flags.writeable = False
    return array


SHARED = [
    ({"x": [[1.0]]}, TypeError, "x is .* expected a NumPy array"),
    ({"x": X.astype(int)}, TypeError, "x is .*int64.* expected .*float32 or float64"),
    ({"x": X[:, :2]}, ValueError, r"x is .*\(5, 2\); expected shape \(\.\.\., 3\)"),
    ({"x": np.ones(())}, ValueError, r"x is .*\(\); expected"),
    ({"weight": WEIGHT.astype(np.float32)}, TypeError, "weight is .*float32.* expected .*float64"),
    ({"weight": WEIGHT[0]}, ValueError, "weight is .* expected an array of 2 dimensions"),
    ({"gamma": VECTOR[:3]}, ValueError, r"gamma is .*\(3,\); expected shape \(4,\)"),
    ({"gamma": 1.0}, TypeError, "gamma is 1.0; expected a NumPy array"),
    ({"beta": VECTOR[:, None]}, ValueError, r"beta is .*\(4, 1\); expected shape \(4,\)"),
    ({"bias": VECTOR[:3]}, ValueError, r"bias is .*\(3,\); expected shape \(4,\)"),
    ({"bias": VECTOR.astype(int)}, TypeError, "bias is .*int64.* expected .*float32 or float64"),
    ({"eps": -1.0}, ValueError, "eps is -1.0; expected a finite number, 0 or more"),
    ({"eps": None}, TypeError, "eps is None; expected a finite number, 0 or more"),
    ({"activation": "softmax"}, ValueError, "activation is 'softmax'; expected None, \"relu\""),
    ({"activation": 1}, TypeError, 'activation is 1; expected None, "relu"'),
    ({"residual": X}, ValueError, r"residual is .*\(5, 3\); expected shape \(5, 4\)"),
    ({"residual": RESIDUAL.astype("f4")}, TypeError, "residual is .*float32.* expected .*float64"),
    ({"out": ROOM}, ValueError, r"out is .*\(6, 4\); expected shape \(5, 4\)"),
    ({"out": ROOM[:5].astype("f4")}, TypeError, "out is .*float32.* expected .*float64"),
    ({"out": read_only((5, 4))}, ValueError, "out is .* read-only"),
    ({"residual": ROOM[1:], "out": ROOM[:5]}, ValueError, "out is .* overlap"),
    ({"x": ROOM[:5, :3], "out": ROOM[:5]}, ValueError, "out is .* does not overlap x"),
    ({"weight": ROOM[:4, :3], "out": ROOM[:5]}, ValueError, "out is .* does not overlap weight"),
]
FORWARD = [
    *SHARED,
    ({"ddof": 2}, ValueError, "ddof is 2; expected 0 or 1"),
    ({"ddof": 0.0}, TypeError, "ddof is 0.0; expected 0 or 1"),
    ({"statistics": VECTOR}, TypeError, r"statistics is .*; expected a tuple \(mean, var\)"),
    ({"statistics": (VECTOR[:2], VECTOR)}, ValueError, r"mean is .*\(2,\); expected shape \(4,\)"),
    ({"statistics": (VECTOR, -VECTOR)}, ValueError, "var is -1.0; expected no negative variance"),
    ({"x": X[:1]}, ValueError, rf"x is .*\(1, 3\); expected {TWO_VALUES}"),
    ({"x": X[0]}, ValueError, rf"x is .*\(3,\); expected {TWO_VALUES}"),
    ({"x": X[:0]}, ValueError, rf"x is .*\(0, 3\); expected {TWO_VALUES}"),
    ({"residual": ROOM[:5], "out": ROOM[:5]}, ValueError, "out is .* does not overlap residual"),
    ({"gamma": ROOM[0], "out": ROOM[:5]}, ValueError, "out is .* does not overlap gamma"),
]
INFERENCE = [
    *SHARED,
    ({"mean": None}, TypeError, "mean is None; expected a NumPy array"),
    ({"mean": VECTOR[:3]}, ValueError, r"mean is .*\(3,\); expected shape \(4,\)"),
    ({"var": VECTOR[:3]}, ValueError, r"var is .*\(3,\); expected shape \(4,\)"),
    ({"var": -VECTOR}, ValueError, "var is -1.0; expected no negative variance"),
]


@pytest.mark.parametrize(("change", "error", "message"), FORWARD)
def test_forward_refuses(change, error, message):
    with pytest.raises(error, match=f"^dense_batch_norm_forward: {message}"):
        dense_batch_norm_forward(**{"x": X, "weight": WEIGHT} | change)
    assert not ROOM.any()


@pytest.mark.parametrize(("change", "error", "message"), INFERENCE)
def test_inference_refuses(change, error, message):
    arguments = {"x": X, "weight": WEIGHT, "mean": VECTOR, "var": VECTOR}
    with pytest.raises(error, match=f"^dense_batch_norm_inference: {message}"):
        dense_batch_norm_inference(**arguments | change)
    assert not ROOM.any()


def replaced(**arrays):
    return DenseBatchNormGradients(**arrays)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"context": None}, TypeError, "context is None; expected the DenseBatchNormContext of a"),
        ({"context": lambda c: c.normalization}, TypeError, "context is .* DenseBatchNormContext"),
        ({"context": tuple}, TypeError, "context is .* expected the DenseBatchNormContext"),
        ({"dy": RESIDUAL[:4]}, ValueError, r"dy is .*\(4, 4\); expected shape \(5, 4\)"),
        ({"dy": RESIDUAL.astype("f4")}, TypeError, "dy is .*float32.* expected .*float64"),
        ({"needs": "dx"}, TypeError, r"needs is 'dx'; expected names out of \('dx', 'dweight', "),
        ({"needs": ["dz"]}, ValueError, r"needs is \['dz'\]; expected names out of \('dx', "),
        ({"out": (None,) * 6}, TypeError, "out is .*; expected a DenseBatchNormGradients"),
        ({"out": BatchNormGradients()}, TypeError, "out is .*; expected a DenseBatchNormGrad"),
        ({"out": replaced(dx=ROOM)}, ValueError, r"out.dx is .* expected shape \(5, 3\)"),
        ({"out": replaced(dweight=read_only((4, 3)))}, ValueError, "out.dweight is .* read-only"),
        ({"out": replaced(dgamma=np.zeros(4, "f4"))}, TypeError, "out.dgamma is .* float64"),
        ({"out": replaced(dbias=ROOM)}, ValueError, r"out.dbias is .* expected shape \(4,\)"),
        ({"out": replaced(dresidual=X)}, ValueError, r"out.dresidual is .* shape \(5, 4\)"),
        (
            {"out": replaced(dx=ROOM[:5, :3], dbeta=ROOM[1])},
            ValueError,
            "out.dbeta is .* does not overlap out.dx",
        ),
        *(
            (
                {"out": lambda c, d=d, get=get: replaced(**{d: get(c)})},
                ValueError,
                f"out.{d} is .* does not overlap {overlapped}",
            )
            for d, get, overlapped in [
                ("dx", lambda c: c.x, "x"),
                ("dweight", lambda c: c.weight, "weight"),
                ("dbias", lambda c: c.bias, "bias"),
                ("dgamma", lambda c: c.gamma, "gamma"),
                ("dbeta", lambda c: c.beta, "beta"),
                ("dresidual", lambda c: c.residual, "residual"),
            ]
        ),
        (
            {"dy": ROOM[:5], "out": replaced(dresidual=ROOM[:5])},
            ValueError,
            "out.dresidual is .* does not overlap dy",
        ),
    ],
)
def test_backward_refuses(change, error, message):
    vectors = {name: np.arange(4.0) for name in ("gamma", "beta", "bias")}
    _, context = dense_batch_norm_forward(X.copy(), WEIGHT.copy(), **vectors, residual=RESIDUAL + 1)
    arguments = {"dy": RESIDUAL, "context": context}
    for name, value in change.items():
        arguments[name] = value(context) if callable(value) else value
    before = [array.tobytes() for array in arrays_in(tuple(context))]
    with pytest.raises(error, match=f"(?s)^dense_batch_norm_backward: {message}"):
        dense_batch_norm_backward(**arguments)
    assert not ROOM.any()
    assert [array.tobytes() for array in arrays_in(tuple(context))] == before
