"""The table of public functions is whole and true, and each of its readers reads all of it."""

from __future__ import annotations

import numpy as np
import pytest

import nbnorm
from nbnorm import layers, reference
from nbnorm.operations import BY_NAME, OPERATIONS
from tests.jit import calls

SIZES = {"n": 4, "c": 3, "p": (5, 2), "k": 6, "h": 5, "w": 7, "r": 3, "s": 2}

# Functions that compute nothing.
OTHER_FUNCTIONS = {"one_thread", "release_memory", "threading", "threads"}

# Layers that have no functions of their own.
OTHER_LAYERS = {
    "Activation", "Compensated", "Flatten", "GhostBatchNorm", "Layer", "SGD", "Sequential",
    "merge_running_statistics", "update_statistics",
}  # fmt: skip


@pytest.fixture(params=BY_NAME)
def operation(request):
    return BY_NAME[request.param]


def test_every_public_function_is_in_the_table_once():
    functions = [name for operation in OPERATIONS for name in operation.functions.values()]
    public = [name for name in nbnorm.__all__ if name.islower()]
    assert sorted([*functions, *OTHER_FUNCTIONS]) == public


def test_every_layer_is_in_the_table_or_has_no_functions():
    named = [operation.layer for operation in OPERATIONS if operation.layer]
    assert sorted([*named, *OTHER_LAYERS]) == sorted(layers.__all__)


def test_every_function_has_a_reference(operation):
    assert {*operation.functions.values()} <= {*reference.__all__}


def test_its_parts_are_operations(operation):
    assert {*operation.parts} <= {*BY_NAME}


def test_arrays_have_the_axes_that_the_table_says(operation, rng):
    given = operation.draw(rng, np.float32, SIZES)
    shapes = operation.shapes(SIZES)
    if not operation.directions:
        result = operation.call("", given)()
        if "y" in shapes:  # a penalty's gradient, after its value
            assert result[1].shape == shapes["y"]
        return
    y, context, gradients = operation.train(given)
    assert y.shape == shapes["y"]
    assert context is None or type(context).__name__ == operation.context
    if not operation.gradients:
        assert gradients.shape == shapes["x"]
        return
    assert type(gradients).__name__ == operation.gradients
    for name, gradient in gradients._asdict().items():
        assert gradient.shape == shapes[name.removeprefix("d")]
    if "inference" in operation.directions:
        assert operation.call("inference", given)().shape == shapes["y"]


@pytest.mark.parametrize("name", ["conv2d", "conv2d_batch_norm"])
@pytest.mark.parametrize(
    "options",
    [
        {"axis": -1, "padding": (2, 1)},
        {"padding": "same", "stride": 3},
        {"padding": ((0, 1), (2, 0)), "stride": 2},
        {"stride": (2, 1), "dilation": 2},
        {"groups": 3, "padding": 1, "stride": 3},
    ],
    ids=str,
)
def test_shapes_follow_options_of_a_convolution(name, options, rng):
    operation = BY_NAME[name]
    given = operation.draw(rng, np.float32, SIZES, **options)
    assert operation.train(given)[0].shape == operation.shapes(SIZES, **options)["y"]


def test_an_argument_that_no_function_takes_is_refused():
    given = {"x": np.ones((2, 3)), "weigth": np.ones((4, 3)), "stride": 1}
    with pytest.raises(TypeError, match=r"^dense takes no stride, weigth$"):
        BY_NAME["dense"].call("forward", given)


def test_threads_run_every_operation():
    assert {call.operation for call in calls.CALLS.values()} == {*BY_NAME}
    inferred = {call.operation for call in calls.CALLS.values() if call.inference}
    assert inferred == {o.name for o in OPERATIONS if "inference" in o.directions}
