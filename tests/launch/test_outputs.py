"""Results arrive where they are wanted, and are copied only to where no kernel can write."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from nbnorm.launch.outputs import cast, destination
from tests.cases.batch_norm import LAYOUTS, misaligned, strided

SHAPE = (2, 3, 4, 5)
ORDERS = [None, *itertools.permutations(range(4))]
OUTS = {
    "C": LAYOUTS["C"],
    "Fortran": LAYOUTS["Fortran"],
    "strided": strided,
    "a part": lambda values: np.zeros((2, 9, 4, 5), values.dtype)[:, :3],
    "misaligned": misaligned,
}

each_order = pytest.mark.parametrize("order", ORDERS, ids=str)


def counted(shape, dtype=np.float32):
    return np.arange(math.prod(shape), dtype=dtype).reshape(shape)


def write(written, values, order):
    """As a kernel does that goes through the axes in an order."""
    written[...] = (values if order is None else values.transpose(order)).ravel()


@each_order
@pytest.mark.parametrize("name", OUTS)
def test_what_a_kernel_writes_arrives_in_out(name, order):
    values = counted(SHAPE)
    out = OUTS[name](np.zeros(SHAPE, np.float32))
    place = destination(out, SHAPE, np.float32, order)
    assert place.written.shape == (out.size,)
    assert place.written.flags.carray
    write(place.written, values, order)
    assert place.deliver() is out
    np.testing.assert_array_equal(out, values)


@each_order
def test_a_new_array_lies_in_memory_as_the_kernel_writes(order):
    values = counted(SHAPE)
    place = destination(None, SHAPE, np.float64, order)
    write(place.written, values, order)
    new = place.deliver()
    assert (new.shape, new.dtype) == (SHAPE, np.float64)
    assert np.shares_memory(place.written, new)
    np.testing.assert_array_equal(new, values)


@each_order
def test_nothing_is_copied_to_an_out_that_lies_as_the_kernel_writes(order):
    out = destination(None, SHAPE, np.float32, order).out
    assert destination(out, SHAPE, np.float32, order).copied_to is None


@pytest.mark.parametrize("name", ["strided", "a part", "misaligned"])
def test_an_out_that_no_kernel_can_write_to_stays_as_it_is_until_delivery(name):
    out = OUTS[name](np.zeros(SHAPE, np.float32))
    place = destination(out, SHAPE, np.float32)
    place.written[...] = 1.0
    np.testing.assert_array_equal(out, 0.0)
    np.testing.assert_array_equal(place.deliver(), 1.0)


@pytest.mark.parametrize("order", [None, (1, 0)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_large_new_array_begins_at_a_cache_line(dtype, order):
    assert destination(None, (64, 1025), dtype, order).written.ctypes.data % 64 == 0


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3)])
def test_empty_results(shape):
    assert destination(None, shape, np.float32).deliver().shape == shape
    out = np.empty(shape, np.float32)
    assert destination(out, shape, np.float32).deliver() is out


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(6,), (2, 3)])
def test_the_gradient_of_a_parameter_takes_its_type(shape, dtype):
    gradient = np.linspace(0.1, 0.6, 6).reshape(shape)
    new = cast(gradient, dtype, None)
    assert new.dtype == dtype
    np.testing.assert_array_equal(new, gradient.astype(dtype))
    assert not np.shares_memory(new, gradient)
    out = np.empty(shape, dtype)
    assert cast(gradient, dtype, out) is out
    np.testing.assert_array_equal(out, new)
