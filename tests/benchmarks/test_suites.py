"""The asv suites measure what they say they do."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.suites import (
    batch_norm,
    conv2d_batch_norm,
    dense_batch_norm,
    group_norm,
    memory,
    normalize,
    startup,
)
from benchmarks.suites.calls import Calls, Directions, calls_of, kernels_of, separate_calls_of
from benchmarks.suites.ratio import ratio
from nbnorm.jit import threads
from nbnorm.operations import OPERATIONS

SMALL = ("8x16x4x4", "channels-first")


@pytest.mark.parametrize("direction", Calls._fields)
@pytest.mark.parametrize("layout", batch_norm.LAYOUTS)
def test_kernels_without_their_function_do_its_work(layout, direction):
    data = batch_norm.data_of("8x16x4x4", layout)
    function, out = calls_of("batch_norm", data), data.out["y"]
    kernels = kernels_of(function)
    getattr(function, direction)()
    expected = out.copy()
    out.fill(np.nan)
    getattr(kernels, direction)()
    assert np.array_equal(out, expected)


def test_recording_kernels_leaves_nothing_behind():
    from nbnorm.launch import plans

    kernels_of(batch_norm.function_calls(*SMALL))
    assert plans.run is threads.run


def test_a_function_without_kernels_is_refused():
    def nothing() -> None:
        pass

    with pytest.raises(RuntimeError, match="no kernel"):
        kernels_of(Calls(nothing, nothing, nothing))


def test_setup_prepares_and_warms_up_once():
    prepared, called = [], []

    class Suite(Directions):
        def prepare(self, *parameters):
            prepared.append(parameters)
            return Calls(*(lambda name=name: called.append(name) for name in Calls._fields))

    suite = Suite()
    for _ in range(3):  # asv does so before every call
        suite.setup("small")
    assert prepared == [("small",)]
    assert called == [name for name in Calls._fields for _ in range(2)]
    assert suite.number > 1
    suite.setup("large")
    assert prepared == [("small",), ("large",)]
    suite.time_backward("large")
    assert called[-1] == "backward"


@pytest.mark.alone
def test_a_ratio_is_that_of_the_times():
    """Of a call and the same call three times."""
    x, y = np.ones((2, 1 << 14))

    def once() -> None:
        np.sin(x, out=y)

    def thrice() -> None:
        for _ in range(3):
            once()

    # A median of some hundred rounds: half of them may be disturbed.
    assert ratio(thrice, once, seconds=0.3) == pytest.approx(3, rel=0.2)


@pytest.mark.parametrize("shape", ["256x784x512", "32x100x10"])
def test_fused_and_separate_calls_agree(shape):
    data = dense_batch_norm.data_of(shape)
    found = {}
    for make in (calls_of, separate_calls_of):
        calls = make(dense_batch_norm.FUSED, data)
        calls.forward()
        calls.backward()
        found[make] = [array.copy() for array in data.out.values()]
    for fused, separate in zip(*found.values(), strict=True):
        # float32 sums of at most 784 terms, taken in another order
        np.testing.assert_allclose(fused, separate, rtol=1e-3, atol=1e-3)


def test_every_operation_that_learns_is_timed():
    products = {
        name
        for suite in (dense_batch_norm, conv2d_batch_norm)
        for name in (suite.ALONE, suite.FUSED)
    }
    norms = {f"{kind}_normalize" for kind in normalize.KINDS if kind != "per activation"}
    learning = {operation.name for operation in OPERATIONS if "backward" in operation.directions}
    assert {"batch_norm", *products, *group_norm.KINDS, *norms} == learning


@pytest.mark.slow
@pytest.mark.parametrize("operation", startup.OPERATIONS)
def test_first_steps_run(operation):
    startup.Load().setup(operation)


def test_an_import_is_measured_in_processes_of_its_own(monkeypatch):
    monkeypatch.setattr(startup, "PROCESSES", 2)
    assert startup.ImportRatio().track_nbnorm_beyond_numba() > 0


@pytest.mark.slow
def test_a_step_needs_less_memory_than_its_arrays_and_more_than_one():
    """x, dy and one array that serves for y and then dx: 74 MiB, and what one is made of."""
    name = "batch norm 32x64x56x56"
    suite = memory.TrainingStep()
    try:
        suite.setup(name)
    except NotImplementedError as reason:
        pytest.skip(str(reason))
    one = 32 * 64 * 56 * 56 * 4 / 2**20
    assert 3 * one <= suite.track_growth(name) <= 5 * one


@pytest.mark.slow
@pytest.mark.parametrize("network", memory.Inference.params[1])
def test_inference_of_16_layers_needs_two_activations(network):
    suite = memory.Inference()
    try:
        suite.setup(16, network)
    except NotImplementedError as reason:
        pytest.skip(str(reason))
    assert 1.9 <= suite.track_growth(16, network) <= 2 * 1.3
