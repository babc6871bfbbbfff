"""The accuracy command's measures, on libraries whose errors are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks import accuracy, truth


def plain(x: Any, dy: Any, gamma: Any, beta: Any, eps: float, axis: int) -> dict[str, Any]:
    """Batch norm in long double, rounded once."""
    first = (truth.as_ncp(v, axis) for v in (x, dy))
    values = truth.training(*first, gamma, beta, eps, np.longdouble).values
    outputs = {name: value.astype(x.dtype) for name, value in values.items()}
    return outputs | {name: np.moveaxis(outputs[name], 1, axis) for name in ("y", "dx")}


def off(*arguments: Any) -> dict[str, Any]:
    """The same with y too large by a millionth."""
    outputs = plain(*arguments)
    return outputs | {"y": outputs["y"] * np.float32(1.00001)}


@pytest.mark.parametrize("battery", ["mean/std 0 to 1e6", "sorted values", "alternating signs"])
def test_a_result_rounded_once_is_within_the_bounds(battery: str) -> None:
    worst = accuracy.measure(accuracy.BATTERIES[battery](), "float32", {"plain": plain})["plain"]
    assert set(worst.error) == set(accuracy.QUANTITIES)
    assert max(worst.error.values()) < accuracy.BOUNDS["float32"]


def test_an_error_is_seen_and_the_trial_named() -> None:
    worst = accuracy.measure(accuracy.orders(), "float32", {"off": off})["off"]
    assert 1e-5 < worst.error["y"] < 1e-4
    assert "mean/std" in worst.trial["y"]


def test_a_result_that_is_not_finite_is_the_worst_of_all() -> None:
    worst = accuracy.Worst()
    worst.add({"y": float("nan")}, "first")
    worst.add({"y": 1.0}, "second")
    assert (worst.error["y"], worst.trial["y"]) == (float("inf"), "first")
    table = accuracy.table({"battery": {"float32": {"nbnorm": worst}}}, ["nbnorm"])
    assert "**not finite**" in table


def test_ulps_are_forgiven_each_value_by_itself() -> None:
    y = np.array([[[1.0, 1e6]]])
    exact = truth.Truth({"y": y}, {"y": np.ones((1, 1, 1))})
    near = {"y": np.float32(y + np.array([0, 0.1]))}  # within two ulps of 1e6
    assert truth.errors(near, exact)["y"] > 0.1
    assert truth.errors(near, exact, slack_ulps=4)["y"] == 0
    assert truth.errors({"y": np.float32(y + 0.1)}, exact, slack_ulps=4)["y"] > 0.09
