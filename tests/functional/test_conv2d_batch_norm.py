"""conv2d_batch_norm_* against the reference, their parts, finite differences and by hand."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from nbnorm import (
    Conv2dBatchNormGradients,
    batch_norm_backward,
    batch_norm_forward,
    conv2d_backward,
    conv2d_batch_norm_backward,
    conv2d_batch_norm_forward,
    conv2d_batch_norm_inference,
    conv2d_forward,
    fold_batch_norm,
    reference,
)
from tests.cases.finite_differences import assert_gradient
from tests.cases.product_batch_norm import (
    ONE_OF_EACH_TYPE,
    VARIANTS,
    Product,
    Variant,
    arrays_in,
    assert_within,
    draw,
    places,
    poisoned,
    scales,
    strided,
)

# The largest error over the scales, for standard-normal data.
BOUND = {
    ("auto", "float32"): 1e-4,
    ("auto", "float64"): 1e-12,
    ("direct", "float32"): 5e-6,
    ("direct", "float64"): 1e-12,
    ("winograd", "float32"): 1e-4,
    ("winograd", "float64"): 1e-12,
}
FIELDS = Conv2dBatchNormGradients._fields
IMAGES = {"x", "y", "dx", "dy", "residual", "dresidual"}


class Site(NamedTuple):
    """The sizes of a convolution, and how its window moves."""

    n: int
    c: int
    k: int
    image: tuple[int, int]
    window: tuple[int, int]
    options: dict[str, Any]

    def __str__(self) -> str:
        options = " ".join(f"{name}={value}" for name, value in self.options.items())
        sizes = ("x".join(map(str, pair)) for pair in (self.image, self.window))
        return f"{self.n}x{self.c} to {self.k}, {' by '.join(sizes)} {options}"

    @property
    def has_winograd(self) -> bool:
        return self.window == (3, 3) and not self.options.keys() - {"padding"}

    def product(self) -> Product:
        return Product(reference.conv2d_forward, reference.conv2d_backward, 1, self.options)

    def draw(self, rng, variant):
        """A batch, channels-first as the reference is."""
        weight_shape = (self.k, self.c // self.options.get("groups", 1), *self.window)
        return draw(rng, variant, self.product(), (self.n, self.c, *self.image), weight_shape)


SITES = [
    Site(2, 1, 1, (1, 1), (1, 1), {}),
    Site(3, 3, 5, (1, 1), (3, 3), {"padding": 1}),
    Site(2, 5, 3, (1, 7), (1, 3), {}),
    Site(2, 17, 1, (6, 1), (2, 1), {}),
    Site(2, 3, 17, (2, 3), (2, 2), {"padding": (1, 0)}),
    Site(2, 5, 5, (3, 2), (3, 3), {"padding": "same"}),
    Site(1, 17, 17, (7, 9), (3, 3), {"padding": 1}),
    Site(2, 1, 3, (13, 11), (3, 3), {}),
    Site(2, 3, 5, (9, 17), (3, 3), {"padding": 1, "stride": 2}),
    Site(2, 3, 5, (8, 17), (3, 3), {"padding": "same", "stride": 2}),
    Site(2, 5, 3, (8, 7), (3, 3), {"padding": ((0, 2), (1, 0))}),
    Site(2, 17, 5, (5, 6), (1, 1), {}),
    Site(2, 3, 1, (1, 1), (1, 1), {}),
    Site(2, 3, 17, (5, 6), (1, 1), {"padding": ((0, 1), (0, 0))}),
    Site(2, 5, 17, (7, 6), (1, 1), {"stride": (2, 3)}),
    Site(2, 3, 3, (8, 9), (4, 4), {"padding": 2}),
    Site(2, 3, 5, (9, 8), (5, 5), {"padding": "same"}),
    Site(1, 5, 3, (9, 10), (6, 6), {"padding": 1}),
    Site(2, 3, 5, (15, 14), (7, 7), {"padding": 3, "stride": 2}),
    Site(2, 3, 3, (9, 8), (2, 5), {"padding": (0, 2)}),
    Site(2, 3, 3, (8, 9), (7, 1), {"padding": "same"}),
    Site(2, 3, 5, (9, 8), (1, 6), {"padding": "same"}),
    Site(2, 3, 5, (11, 9), (2, 2), {"stride": (3, 5)}),
    Site(2, 3, 5, (3, 4), (2, 3), {"padding": (4, 5)}),
    Site(2, 3, 5, (3, 3), (1, 1), {"padding": 2, "stride": 3}),
    Site(2, 3, 5, (11, 9), (3, 3), {"padding": 2, "dilation": 2}),
    Site(2, 3, 5, (11, 13), (3, 2), {"padding": "same", "dilation": (2, 3)}),
    Site(2, 6, 9, (7, 6), (3, 3), {"padding": 1, "groups": 3}),
    Site(2, 34, 2, (5, 6), (3, 3), {"padding": 1, "groups": 2, "stride": 2}),
    Site(2, 5, 5, (9, 8), (3, 3), {"padding": 1, "groups": 5}),
    Site(2, 17, 34, (6, 7), (3, 3), {"padding": 1, "groups": 17, "stride": 2}),
    Site(2, 5, 5, (9, 8), (5, 3), {"padding": "same", "groups": 5, "dilation": (1, 2)}),
]
PLAIN = Site(2, 3, 5, (9, 10), (3, 3), {"padding": 1})
STRIDED = Site(3, 4, 6, (7, 8), (3, 2), {"padding": (1, 0), "stride": (2, 1), "groups": 2})


def laid_out(value, axis):
    """A channels-first array with its channels at `axis`, contiguous there."""
    return np.ascontiguousarray(np.moveaxis(value, 1, axis))


def in_layout(batch, axis):
    """A batch with the channels of its images at `axis`."""
    options = dict(batch.options)
    if "residual" in options:
        options["residual"] = laid_out(options["residual"], axis)
    return batch._replace(x=laid_out(batch.x, axis), dy=laid_out(batch.dy, axis), options=options)


def channels_first(results, axis):
    """Results as the reference has them."""
    return {
        name: np.moveaxis(value, axis, 1) if value is not None and name in IMAGES else value
        for name, value in results.items()
    }


def run(site, batch, axis=1, algorithm="auto"):
    """What the functions make of a channels-first batch, written over NaN."""
    x, weight, dy, options = batch = in_layout(batch, axis)
    y = poisoned(dy.shape, dy.dtype)
    out = places(batch, Conv2dBatchNormGradients)
    geometry = site.options | {"axis": axis, "algorithm": algorithm}
    returned, context = conv2d_batch_norm_forward(x, weight, **geometry, **options, out=y)
    gradients = conv2d_batch_norm_backward(dy, context, out=out)
    assert returned is y
    for given, got in zip(out, gradients, strict=True):
        assert got is given
    results = {"y": y, "mean": context.mean, "var": context.var, **gradients._asdict()}
    return channels_first(results, axis)


def allocated(site, batch, axis=1):
    """`run` without out=: what the functions return of their own."""
    x, weight, dy, options = in_layout(batch, axis)
    y, context = conv2d_batch_norm_forward(x, weight, **site.options, axis=axis, **options)
    gradients = conv2d_batch_norm_backward(dy, context)
    results = {"y": y, "mean": context.mean, "var": context.var, **gradients._asdict()}
    return channels_first(results, axis)


def expected(site, batch):
    """What the reference makes of a batch."""
    x, weight, dy, options = batch
    z = reference.conv2d_forward(x, weight, options.get("bias"), **site.options)
    mean, var = options.get("statistics") or reference.batch_statistics(z, ddof=options["ddof"])
    y = reference.conv2d_batch_norm_forward(x, weight, **site.options, **options)
    gradients = reference.conv2d_batch_norm_backward(dy, x, weight, **site.options, **options)
    return {"y": y, "mean": mean, "var": var, **gradients._asdict()}


def assert_is_the_reference(results, site, batch, algorithm="auto"):
    for name, result in results.items():
        if result is not None:
            assert result.dtype == (np.float64 if name in ("mean", "var") else batch.x.dtype), name
    bound = BOUND[algorithm, str(batch.x.dtype)]
    assert_within(results, expected(site, batch), scales(site.product(), batch), bound)


# --- against the reference ------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", sorted({algorithm for algorithm, _ in BOUND}))
@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("variant", ONE_OF_EACH_TYPE, ids=str)
@pytest.mark.parametrize("site", SITES, ids=str)
def test_equals_the_reference_at_every_site(rng, site, variant, axis, algorithm):
    if algorithm == "winograd" and not site.has_winograd:
        pytest.skip("windows are not 3x3, or have strides")
    batch = site.draw(rng, variant)
    assert_is_the_reference(run(site, batch, axis, algorithm), site, batch, algorithm)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("site", [PLAIN, STRIDED], ids=str)
def test_equals_the_reference_in_every_variant(rng, site, variant):
    batch = site.draw(rng, variant)
    assert_is_the_reference(run(site, batch), site, batch)
    assert_is_the_reference(allocated(site, batch), site, batch)


@pytest.mark.parametrize("axis", [1, -1])
def test_one_value_in_a_channel_will_do_for_given_statistics(rng, axis):
    site = Site(1, 3, 5, (3, 3), (3, 3), {})
    batch = site.draw(rng, VARIANTS[3])
    assert_is_the_reference(run(site, batch, axis), site, batch)


@pytest.mark.variant
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("site", [PLAIN, STRIDED], ids=str)
def test_backward_is_the_derivative_of_forward(rng, site, given):
    variant = Variant("float64", "silu", False, "given" if given else "of the batch", ddof=1)
    site = site._replace(n=1, image=(4, 5))
    x, weight, dy, options = site.draw(rng, variant)
    options["eps"] = 1.0  # little curvature, which finite differences ask for
    arguments = {"x": x, "weight": weight, **options, **site.options}
    _, context = conv2d_batch_norm_forward(**arguments)
    gradients = conv2d_batch_norm_backward(dy, context)

    def loss(name, value):
        return np.sum(dy * conv2d_batch_norm_forward(**arguments | {name: value})[0])

    for name in ("x", "weight", "gamma", "beta"):
        assert_gradient(
            getattr(gradients, f"d{name}"),
            lambda value, name=name: loss(name, value),
            arguments[name],
        )
    if given:
        assert_gradient(gradients.dbias, lambda bias: loss("bias", bias), options["bias"])
    else:
        np.testing.assert_allclose(gradients.dbias, 0, atol=1e-13)


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("variant", ONE_OF_EACH_TYPE, ids=str)
def test_equals_its_parts(rng, variant, axis):
    batch = PLAIN.draw(rng, variant)
    x, weight, dy, options = in_layout(batch, axis)
    geometry = PLAIN.options | {"axis": axis}
    bias = options.pop("bias", None)
    z = conv2d_forward(x, weight, bias, **geometry)
    y, context = batch_norm_forward(z, **options, axis=axis)
    of_norm = batch_norm_backward(dy, context)._asdict()
    of_conv = conv2d_backward(of_norm.pop("dx"), x, weight, **geometry)._asdict()
    if bias is None:
        of_conv["dbias"] = None
    parts = {"y": y, "mean": context.mean, "var": context.var, **of_conv, **of_norm}
    bound = 2 * BOUND["auto", variant.dtype]
    scale = scales(PLAIN.product(), batch)
    assert_within(run(PLAIN, batch, axis), channels_first(parts, axis), scale, bound)


# --- by hand --------------------------------------------------------------------------------


def test_by_hand():
    x = np.array([[[[1.0, 2.0, 4.0]]]])
    weight = np.array([[[[1.0, 1.0]]]])  # z = 3 6, and 8 11 with the bias
    y, context = conv2d_batch_norm_forward(
        x, weight, np.array([2.0]), np.array([1.0]), bias=np.array([5.0]), eps=1.75
    )
    np.testing.assert_array_equal(context.mean, [9.5])
    np.testing.assert_array_equal(context.var, [2.25])
    np.testing.assert_array_equal(context.inv_std, [0.5])
    np.testing.assert_array_equal(y, [[[[-0.5, 2.5]]]])
    assert context.count == 2

    gradients = conv2d_batch_norm_backward(np.array([[[[1.0, 5.0]]]]), context)
    np.testing.assert_array_equal(gradients.dbeta, [6.0])
    np.testing.assert_array_equal(gradients.dgamma, [3.0])  # -0.75 + 0.75 * 5
    # dz = 2 / 2 (dy - 6 / 2 - xh 3 / 2) = -0.875 0.875
    np.testing.assert_array_equal(gradients.dx, [[[[-0.875, 0.0, 0.875]]]])
    np.testing.assert_array_equal(gradients.dweight, [[[[0.875, 1.75]]]])
    np.testing.assert_array_equal(gradients.dbias, [0.0])
    assert gradients.dresidual is None


def test_a_window_of_one_pixel_is_a_dense_layer(rng):
    x, weight = rng.standard_normal((7, 4)), rng.standard_normal((5, 4))
    y = reference.dense_batch_norm_forward(x, weight)
    images, _ = conv2d_batch_norm_forward(x[:, :, None, None], weight[:, :, None, None])
    np.testing.assert_allclose(images[:, :, 0, 0], y, rtol=0, atol=1e-12)


def test_a_channel_that_does_not_vary_is_beta(rng):
    weight = rng.standard_normal((3, 2, 3, 3))
    weight[1] = 0
    beta = np.array([0.1, 0.3, 0.7])
    x = rng.standard_normal((2, 2, 6, 5))
    y, context = conv2d_batch_norm_forward(x, weight, beta=beta, eps=0.0)
    np.testing.assert_array_equal(y[:, 1], beta[1])
    gradients = conv2d_batch_norm_backward(y, context)
    np.testing.assert_array_equal(gradients.dweight[1], 0)
    assert np.isfinite(gradients.dx).all()


# --- inference ------------------------------------------------------------------------------


def given_of(rng, k, dtype):
    return rng.standard_normal(k).astype(dtype), rng.uniform(0.5, 2, k).astype(dtype)


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("site", [SITES[0], PLAIN, STRIDED, SITES[-1]], ids=str)
def test_inference_is_the_reference(rng, site, variant, axis):
    batch = site.draw(rng, variant._replace(statistics="given"))
    x, weight, dy, options = in_layout(batch, axis)
    mean, var = options.pop("statistics")
    del options["ddof"]
    out = poisoned(dy.shape, dy.dtype)
    given = (x, weight, mean, var)
    y = conv2d_batch_norm_inference(*given, **site.options, axis=axis, **options, out=out)
    assert y is out

    first = batch.options | site.options
    del first["ddof"], first["statistics"]
    right = reference.conv2d_batch_norm_inference(batch.x, weight, mean, var, **first)
    linear = first | {"activation": None}
    entering = reference.conv2d_batch_norm_inference(batch.x, weight, mean, var, **linear)
    bound = BOUND["auto", variant.dtype] * np.sqrt(np.mean(entering**2))
    np.testing.assert_allclose(np.moveaxis(y, axis, 1), right, rtol=0, atol=bound)
    y = conv2d_batch_norm_inference(*given, **site.options, axis=axis, **options)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, out)


@pytest.mark.variant
@pytest.mark.parametrize("activation", ["relu", None])
def test_inference_may_write_over_the_residual(rng, activation):
    x, weight = rng.standard_normal((2, 3, 7, 6)), rng.standard_normal((5, 3, 3, 3))
    given = given_of(rng, 5, np.float64)
    residual = rng.standard_normal((2, 5, 7, 6))
    options = {"residual": residual, "activation": activation, "padding": 1}
    y = conv2d_batch_norm_inference(x, weight, *given, **options)
    assert conv2d_batch_norm_inference(x, weight, *given, **options, out=residual) is residual
    np.testing.assert_array_equal(residual, y)


def test_inference_is_a_convolution_with_folded_weights(rng):
    x, weight = rng.standard_normal((2, 4, 7, 6)), rng.standard_normal((6, 2, 3, 3))
    given = given_of(rng, 6, np.float64)
    gamma, beta, bias = rng.standard_normal((3, 6))
    y = conv2d_batch_norm_inference(x, weight, *given, gamma, beta, bias=bias, groups=2)
    folded = fold_batch_norm(weight, bias, *given, gamma, beta)
    right = conv2d_forward(x, *folded, groups=2)
    np.testing.assert_allclose(y, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("axis", [1, -1])
def test_inference_of_an_empty_batch(axis, residual):
    x, weight = np.empty((0, 4, 5, 4)), np.ones((7, 4, 3, 3))
    shape = (0, 7, 3, 2) if axis == 1 else (0, 3, 3, 7)
    x = x if axis == 1 else x.reshape(0, 5, 5, 4)
    options = {"activation": "relu", "residual": np.empty(shape) if residual else None}
    y = conv2d_batch_norm_inference(x, weight, np.ones(7), np.ones(7), axis=axis, **options)
    assert y.shape == shape


def test_an_empty_batch_with_given_statistics_has_no_gradients():
    given = np.ones(7), np.ones(7)
    x, weight = np.empty((0, 4, 5, 5)), np.ones((7, 4, 3, 3))
    y, context = conv2d_batch_norm_forward(x, weight, np.ones(7), statistics=given, bias=np.ones(7))
    assert y.shape == (0, 7, 3, 3)
    gradients = conv2d_batch_norm_backward(y, context)
    assert gradients.dx.shape == x.shape
    for gradient in (gradients.dweight, gradients.dbias, gradients.dgamma):
        assert not gradient.any()


# --- memory ---------------------------------------------------------------------------------


@pytest.mark.parametrize("arrange", [np.asfortranarray, strided], ids=["Fortran", "strided"])
def test_any_strides(rng, arrange):
    batch = STRIDED.draw(rng, VARIANTS[0])
    x, weight, dy, options = batch
    plain = run(STRIDED, batch)
    options = options | STRIDED.options | {"residual": arrange(options["residual"])}
    y = arrange(poisoned(dy.shape, dy.dtype))
    turned = arrange(x), arrange(weight)
    returned, context = conv2d_batch_norm_forward(*turned, **options, out=y)
    assert returned is y
    out = places(batch, Conv2dBatchNormGradients)
    out = out._replace(
        dx=arrange(out.dx), dweight=arrange(out.dweight), dresidual=arrange(out.dresidual)
    )
    gradients = conv2d_batch_norm_backward(arrange(dy), context, out=out)
    for given, got in zip(out, gradients, strict=True):
        assert got is given
    results = {"y": y, "mean": context.mean, "var": context.var, **gradients._asdict()}
    assert_within(results, plain, scales(STRIDED.product(), batch), BOUND["auto", "float32"])

    given = given_of(rng, len(weight), np.float32)
    options = STRIDED.options | {"residual": options["residual"]}
    y = conv2d_batch_norm_inference(*turned, *given, **options, out=y)
    right = conv2d_batch_norm_inference(x, weight, *given, **options)
    bound = BOUND["auto", "float32"] * np.sqrt(np.mean(right**2))
    np.testing.assert_allclose(y, right, rtol=0, atol=bound)


def test_read_only_inputs(rng):
    batch = PLAIN.draw(rng, VARIANTS[0])
    expected = run(PLAIN, batch)
    for array in arrays_in(batch):
        array.flags.writeable = False
    for name, result in run(PLAIN, batch).items():
        np.testing.assert_array_equal(result, expected[name])


def test_a_context_serves_again_when_y_has_been_written_over(rng):
    x, weight, dy, options = PLAIN.draw(rng, VARIANTS[0])
    y, context = conv2d_batch_norm_forward(x, weight, **PLAIN.options, **options)
    first = conv2d_batch_norm_backward(dy, context)
    y[:] = np.nan
    for got, right in zip(conv2d_batch_norm_backward(dy, context), first, strict=True):
        np.testing.assert_array_equal(got, right)
    assert context.x is x
    assert context.weight is weight
    assert context.gamma is options["gamma"]
    assert np.shares_memory(context.residual, options["residual"])
    assert context.options.padding == PLAIN.options["padding"]


def test_gradients_have_the_types_of_their_parameters(rng):
    x, weight, dy, options = PLAIN.draw(rng, VARIANTS[0])
    wide = {name: options[name].astype(np.float64) for name in ("gamma", "beta", "bias")}
    y, context = conv2d_batch_norm_forward(x, weight, **PLAIN.options, **options | wide)
    assert y.dtype == np.float32
    gradients = conv2d_batch_norm_backward(dy, context)
    for name, gradient in gradients._asdict().items():
        wanted = np.float64 if name[1:] in wide else np.float32
        assert gradient.dtype == wanted, name


# --- needs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIELDS)
def test_needs_leaves_the_others_out(rng, name):
    x, weight, dy, options = PLAIN.draw(rng, VARIANTS[0])
    _, context = conv2d_batch_norm_forward(x, weight, **PLAIN.options, **options)
    every = conv2d_batch_norm_backward(dy, context)
    one = conv2d_batch_norm_backward(dy, context, needs=[name])
    assert [field for field in FIELDS if getattr(one, field) is not None] == [name]
    np.testing.assert_array_equal(getattr(one, name), getattr(every, name))


def test_no_needs_no_gradients(rng):
    x, weight, dy, options = PLAIN.draw(rng, VARIANTS[0])
    _, context = conv2d_batch_norm_forward(x, weight, **PLAIN.options, **options)
    assert conv2d_batch_norm_backward(dy, context, needs=()) == Conv2dBatchNormGradients()


def test_what_is_not_needed_is_not_checked(rng):
    x, weight, dy, options = PLAIN.draw(rng, VARIANTS[0])
    _, context = conv2d_batch_norm_forward(x, weight, **PLAIN.options, **options)
    out = Conv2dBatchNormGradients(dx=x, dgamma=np.empty(3))
    gradients = conv2d_batch_norm_backward(dy, context, needs={"dweight"}, out=out)
    assert gradients.dx is gradients.dgamma is None
