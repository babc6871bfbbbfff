"""Tiles dealt out to threads: each is done once, from Python and from compiled code."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from numba import njit

from nbnorm.jit import threads
from nbnorm.jit.options import inlined, worker
from nbnorm.jit.parallel import parallel


class Pair(NamedTuple):
    first: float
    second: float


@inlined
def add(done, tile, pair, offsets):
    done[tile] += pair.first + 10 * pair.second
    if offsets is not None:
        done[tile] += offsets[tile]


@worker
def count(lo, hi, done, pair, offsets, scale):
    """Adds to each tile's own place."""
    for tile in range(lo, hi):
        add(done, tile, pair, offsets)
        done[tile] *= scale


count_parallel = parallel(count)

each_count = pytest.mark.parametrize("tiles", [0, 1, 2, 7, 1000])


@each_count
def test_every_tile_is_done_once(tiles):
    done = np.zeros(tiles)
    threads.run(count, tiles, True, done, Pair(1.0, 2.0), None, 2.0)
    assert (done == 42.0).all()


@each_count
def test_an_optional_array_and_the_parallel_form(tiles):
    done, offsets = np.zeros(tiles), np.arange(tiles)
    count_parallel(tiles, done, Pair(1.0, 2.0), offsets, 1)
    assert np.array_equal(done, 21.0 + offsets)


@each_count
def test_compiled_code_calls_the_parallel_form(tiles):
    @njit
    def twice(done, offsets):
        count_parallel(done.size, done, Pair(1.0, 0.0), None, 1.0)
        count_parallel(done.size, done, Pair(0.0, 1.0), offsets, 1.0)

    done, offsets = np.zeros(tiles), np.arange(tiles)
    twice(done, offsets)
    assert np.array_equal(done, 11.0 + offsets)


def test_a_piece_can_be_called_from_python():
    done = np.zeros(3)
    add(done, 1, Pair(1.0, 1.0), None)
    assert done.tolist() == [0.0, 11.0, 0.0]


def test_the_parallel_form_has_the_kernel_s_name():
    assert count_parallel.__name__ == "count_parallel"
    assert count_parallel.__module__ == __name__
