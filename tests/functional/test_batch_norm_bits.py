"""What may not change a single bit of batch norm: threads, places in memory, what memory held."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba.core import config

from nbnorm import BatchNormGradients, batch_norm_backward, batch_norm_forward, batch_norm_inference
from nbnorm.jit import threads
from nbnorm.launch.scratch import Scratch
from tests.cases.batch_norm import (
    ONE_OF_EACH_KIND,
    ONE_PARALLEL_OF_EACH_KIND,
    Plans,
    allocated,
    assert_same_bits,
    digest,
    draw,
    kind_of,
    surrounded,
)

ROOT = Path(__file__).parents[2]

compiled = pytest.mark.skipif(config.DISABLE_JIT, reason="there are threads in compiled code only")
of_each_kind = pytest.mark.parametrize(
    "case", ONE_OF_EACH_KIND.values(), ids=ONE_OF_EACH_KIND.keys()
)
statistics_of_both_kinds = pytest.mark.parametrize("statistics", ["of the batch", "given"])


# --- threads ----------------------------------------------------------------------------------

DIGESTS = """
import sys
import numba, numpy as np
from tests.cases.batch_norm import ONE_PARALLEL_OF_EACH_KIND, allocated, digest, draw
for count in map(int, sys.argv[1:]):
    numba.set_num_threads(count)
    for kind, case in ONE_PARALLEL_OF_EACH_KIND.items():
        for statistics in ("of the batch", "given"):
            batch = draw(case._replace(statistics=statistics), np.random.default_rng(7))
            print(count, kind, statistics, digest(allocated(batch)), sep=", ")
"""


@compiled
def test_any_number_of_threads_gives_the_same_bits():
    printed = subprocess.run(
        [sys.executable, "-c", DIGESTS, "1", "2", "4"],
        cwd=ROOT, env=os.environ | {"NUMBA_NUM_THREADS": "4"}, check=True, capture_output=True,
        text=True,
    ).stdout  # fmt: skip
    digests: dict[str, set[str]] = {}
    for line in printed.splitlines():
        _, kind, statistics, found = line.split(", ")
        digests.setdefault(f"{kind}, {statistics}", set()).add(found)
    assert len(digests) == 2 * len(ONE_PARALLEL_OF_EACH_KIND)
    assert len(printed.splitlines()) == 3 * len(digests)
    assert {case: len(found) for case, found in digests.items()} == dict.fromkeys(digests, 1)


@compiled
@statistics_of_both_kinds
@pytest.mark.parametrize("kind", ONE_PARALLEL_OF_EACH_KIND)
def test_serial_and_parallel_give_the_same_bits(kind, statistics, rng, monkeypatch):
    plans = Plans(monkeypatch)
    batch = draw(ONE_PARALLEL_OF_EACH_KIND[kind]._replace(statistics=statistics), rng)
    results = []
    for parallel in (True, False):
        monkeypatch.setattr(threads, "runs_parallel", lambda parallel=parallel: parallel)
        results.append(allocated(batch))
    assert_same_bits(*results)
    assert {kind_of(plan) for plan in plans.training} == {kind}
    assert all(plan.parallel and plan.tiles > 1 for plan in plans.training)


# --- memory -----------------------------------------------------------------------------------


def moved(batch, offset):
    """The batch with its arrays inside buffers of NaN, `offset` elements off a cache line."""
    options = dict(batch.options)
    options["residual"] = surrounded(options["residual"], offset)[0]
    return batch._replace(
        x=surrounded(batch.x, offset)[0], dy=surrounded(batch.dy, offset)[0], options=options
    )


def guarded_results(batch, offset, in_place):
    """`allocated`, all results inside buffers of NaN; and those buffers, the results left out.

    In place, dx is written over dy and, with given statistics, y over residual.
    """
    buffers = {}

    def place(name, like):
        inside, buffers[name] = surrounded(np.full_like(like, np.nan), offset)
        return inside

    x, dy, options = batch
    out = BatchNormGradients(
        dx=place("dx", x),
        dgamma=place("dgamma", options["gamma"]),
        dbeta=place("dbeta", options["beta"]),
        dresidual=place("dresidual", x),
    )
    y, context = batch_norm_forward(x, **options, out=place("y", x))
    if in_place:
        out.dx[...] = dy
        dy = out.dx
    gradients = batch_norm_backward(dy, context, out=out)
    results = {"y": y, **gradients._asdict()}
    for name, buffer in buffers.items():
        inside = np.frombuffer(buffer, buffer.dtype)
        first = (results[name].ctypes.data - buffer.ctypes.data) // buffer.itemsize
        buffers[name] = np.delete(inside, slice(first, first + results[name].size))
    return results, buffers


@pytest.mark.parametrize("streams", [False, True], ids=["", "streaming"])
@pytest.mark.parametrize("in_place", [False, True], ids=["", "in place"])
@pytest.mark.parametrize("offset", [0, 1, 7, 13])
@statistics_of_both_kinds
@of_each_kind
def test_only_results_are_written_and_the_surroundings_not_read(
    case, statistics, offset, in_place, streams, rng, monkeypatch
):
    batch = draw(case._replace(statistics=statistics), rng)
    wanted = allocated(batch)
    if streams:  # as arrays do that outgrow the last-level cache
        Plans(monkeypatch, streamed=True)
    results, surroundings = guarded_results(moved(batch, offset), offset, in_place)
    assert_same_bits(results, wanted)
    for name, values in surroundings.items():
        assert np.isnan(values).all(), name


@of_each_kind
def test_inputs_are_not_written(case, rng):
    batch = draw(case, rng)
    before = digest({"x": batch.x, "dy": batch.dy, "residual": batch.options["residual"]})
    for array in (batch.x, batch.dy, *batch.options.values()):
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    allocated(batch)
    after = digest({"x": batch.x, "dy": batch.dy, "residual": batch.options["residual"]})
    assert after == before
    assert not batch.x.flags.writeable


@statistics_of_both_kinds
@of_each_kind
def test_what_new_memory_holds_does_not_matter(case, statistics, rng, monkeypatch):
    batch = draw(case._replace(statistics=statistics), rng)
    wanted = allocated(batch)
    uninitialized = np.empty
    lent = []

    def empty(*arguments, **options):
        array = uninitialized(*arguments, **options)
        if array.dtype.kind == "f":
            array.fill(np.nan)
        return array

    def take(self, name, shape, dtype):
        lent.append(name)
        return empty(shape, dtype)

    monkeypatch.setattr(Scratch, "take", take)
    monkeypatch.setattr(np, "empty", empty)
    results = allocated(batch)
    monkeypatch.undo()
    assert_same_bits(results, wanted)
    assert lent


@of_each_kind
def test_the_memory_of_one_call_is_not_a_result_of_another(case, rng):
    batches = [draw(case._replace(statistics="given"), rng) for _ in range(2)]
    first, second = (
        batch_norm_inference(
            batch.x, *batch.options["statistics"], batch.options["gamma"], batch.options["beta"],
            axis=case.axis,
        )
        for batch in batches
    )  # fmt: skip
    assert not np.may_share_memory(first, second)
    results = [allocated(batch) for batch in batches]
    for name, value in results[0].items():
        assert not np.may_share_memory(value, results[1][name]), name
