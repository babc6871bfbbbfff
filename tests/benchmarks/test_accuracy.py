"""The accuracy command's measures, on libraries whose errors are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from benchmarks.accuracy import __main__ as accuracy
from benchmarks.accuracy import batteries, pages, truth
from benchmarks.accuracy.operations import OPERATIONS
from benchmarks.accuracy.products import Conv2d, Dense


def plain(operation: str, given: dict[str, Any], axis: int) -> dict[str, Any]:
    """Everything in long double, rounded once."""
    wide = np.longdouble
    x, dy, beta = given["x"], given["dy"], given["beta"]
    product = product_of(operation, given, axis)
    z = x if product is None else product.forward(first(x, axis).astype(wide), given["weight"])
    if "batch norm" not in operation:
        values = product.backward(first(dy, axis).astype(wide), first(x, axis), given["weight"])
        values |= {"y": z + beta.reshape(1, -1, *[1] * (z.ndim - 2))}
        values |= {"dbias": truth.as_ncp(dy, axis).astype(wide).sum(axis=(0, 2))}
    else:
        rows = truth.as_ncp(z, axis) if product is None else truth.as_ncp(z)
        norm = given["gamma"], beta, given["eps"]
        values = truth.training(rows, truth.as_ncp(dy, axis), *norm, wide).values
        if product is not None:
            dz = values["dx"].reshape(z.shape)
            values |= product.backward(dz, first(x, axis), given["weight"])
        if "mean" in given:
            given_statistics = rows, given["mean"], given["var"]
            values["inference"] = truth.inference(*given_statistics, *norm, wide).values["y"]
    outputs = {name: value.astype(x.dtype) for name, value in values.items()}
    shapes = {"dx": first(x, axis).shape, "y": first(dy, axis).shape}
    shapes["inference"] = shapes["y"]
    return outputs | {
        name: np.moveaxis(outputs[name].reshape(shape), 1, axis)
        for name, shape in shapes.items()
        if name in outputs
    }


def first(array: Any, axis: int) -> Any:
    return np.moveaxis(array, axis, 1)


def product_of(operation: str, given: dict[str, Any], axis: int) -> Any:
    if "weight" not in given:
        return None
    k, c, *_ = given["weight"].shape
    n, _, *positions = first(given["x"], axis).shape
    return Conv2d(n, c, positions[0], k, 3) if positions else Dense(n, c, k)


def off(*arguments: Any) -> dict[str, Any]:
    """The same with y too large by a hundred-thousandth."""
    outputs = plain(*arguments)
    return outputs | {"y": outputs["y"] * np.float32(1.00001)}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
@pytest.mark.parametrize("battery", ["mean/std 0 to 1e8", "sorted values"])
def test_a_result_rounded_once_is_as_good_as_can_be(battery: str, operation: Any) -> None:
    trials = batteries.BATTERIES[battery]()
    few = [trial for trial, _ in zip(trials, range(2), strict=False)]
    worst = accuracy.measure(operation, few, "float32", {"plain": plain})["plain"]
    results = {"y", "dx"} | ({"dweight"} if operation.product else {"dgamma", "dbeta", "inference"})
    assert results <= set(worst.error)
    # Half a unit in the last place of the largest of some thousand values, a few times their rms.
    assert max(worst.error.values()) < 6e-7


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_an_error_is_seen_and_the_trial_named(operation: Any) -> None:
    trial = next(iter(batteries.signs()))
    worst = accuracy.measure(operation, [trial], "float32", {"off": off})["off"]
    assert 5e-6 < worst.error["y"] < 1e-4
    assert "noise" in worst.trial["y"]


def test_a_result_that_is_not_finite_is_the_worst_of_all() -> None:
    worst = accuracy.Worst()
    worst.add({"y": float("nan")}, "first")
    worst.add({"y": 1.0}, "second")
    assert (worst.error["y"], worst.trial["y"]) == (float("inf"), "first")


def document(**errors: float) -> dict[str, Any]:
    by_library = {name: {"error": {"y": error}, "trial": {}} for name, error in errors.items()}
    made = {"date": "today", "machine": {"processor": "one"}, "versions": {"numpy": "2"}}
    return {"batch norm": {**made, "worst": {"battery": {"float32": by_library}}}}


def test_the_page_marks_who_is_worse_by_a_bit() -> None:
    text = pages.whole(document(nbnorm=1e-6, PyTorch=3e-6, JAX=math.inf, TensorFlow=1.9e-6))
    assert "battery | float32 | y      | 1.0e-06 | **3.0e-06** | **not finite** | 1.9e-06" in text


def test_what_is_within_four_roundings_is_no_worse() -> None:
    assert "**" not in pages.short(document(nbnorm=4e-7, PyTorch=1e-8))


def test_ulps_are_forgiven_each_value_by_itself() -> None:
    y = np.array([[[1.0, 1e6]]])
    exact = truth.Truth({"y": y}, {"y": np.ones((1, 1, 1))})
    near = {"y": np.float32(y + np.array([0, 0.1]))}  # within two ulps of 1e6
    assert truth.errors(near, exact)["y"] > 0.1
    assert truth.errors(near, exact, slack_ulps=4)["y"] == 0
    assert truth.errors({"y": np.float32(y + 0.1)}, exact, slack_ulps=4)["y"] > 0.09
