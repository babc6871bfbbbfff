"""What tests of the reference draw and compare."""

from __future__ import annotations

import numpy as np

from tests.cases.activations import FEW

ACTIVATIONS = [*FEW, "leaky_relu"]
STATISTICS = ["batch, ddof 0", "batch, ddof 1", "given"]
# Between two float64 computations, over the largest value: each rounds to 1.1e-16, some ten times
# for an entry and once more for each of up to a few hundred terms of its sum.
ROUNDING = 1e-13


def kept_shape(shape, axis):
    kept = sorted(a % len(shape) for a in np.atleast_1d(axis))
    return tuple(shape[a] for a in kept)


def draw_batch_norm(rng, shape, axis, statistics):
    """Draw dy, the arguments that have gradients, and the other arguments."""
    channels = kept_shape(shape, axis)
    dy = rng.normal(size=shape)
    arguments = {
        "x": rng.normal(1.0, 2.0, size=shape),
        "gamma": rng.uniform(0.5, 1.5, size=channels) * rng.choice([-1, 1], size=channels),
        "beta": rng.normal(size=channels),
        "residual": rng.normal(size=shape),
    }
    options = {"axis": axis, "eps": 0.1}
    if statistics == "given":
        options["statistics"] = (rng.normal(size=channels), rng.uniform(1.0, 4.0, size=channels))
    else:
        options["ddof"] = int(statistics[-1])
    return dy, arguments, options


def loss_of(forward, dy, arguments, name, **options):
    """Return sum(dy * y) as a function of one argument; its gradient is the backward's."""
    return lambda value: float(np.sum(dy * forward(**{**arguments, name: value}, **options)))


def assert_same_but_for_rounding(actual, expected):
    expected = np.asarray(expected)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=ROUNDING * np.abs(expected).max())


def draw_conv2d(draw, window, geometry):
    groups = geometry.get("groups", 1)
    return {
        "x": draw(size=(2, 4, 6, 7)),
        "weight": draw(size=(2, 4 // groups, *window)),
        "bias": draw(size=2),
    }
