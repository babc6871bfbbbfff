"""What may not change a bit of L1 and L2 normalization and penalties: the number of threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from numba.core import config

from nbnorm import l1_penalty, l2_penalty
from nbnorm.jit import threads
from nbnorm.launch.norms import norm_plan
from tests.cases.batch_norm import assert_same_bits
from tests.cases.norms import FUNCTIONS, draw, results

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    config.DISABLE_JIT, reason="there are threads in compiled code only"
)

# (n, c, s), large enough for several threads: one of each kind, whole and in slices.
SHAPES = {
    "short": (50_003, 7, 1),
    "one": (400, 601, 1),
    "one, in slices": (2, 100_003, 1),
    "together": (900, 60, 9),
    "together, in slices": (2, 30_000, 9),
    "apart": (5, 60, 1000),
    "apart, in slices": (1, 3001, 70),
}


def of_shape(shape):
    x, dy = draw(shape, "float32")
    found = {f"{order} {k}": v for order in FUNCTIONS for k, v in results(order, x, dy).items()}
    for name, penalty in (("l1", l1_penalty), ("l2", l2_penalty)):
        loss, gradient = penalty(x, 0.3)
        found |= {f"{name} loss": x.dtype.type(0) + loss, f"{name} gradient": gradient}
    return found


DIGESTS = """
import sys
import numba
from tests.cases.batch_norm import digest
from tests.functional.test_norm_bits import SHAPES, of_shape
for count in map(int, sys.argv[1:]):
    numba.set_num_threads(count)
    for kind, shape in SHAPES.items():
        for name, value in of_shape(shape).items():
            print(count, f"{kind}: {name}", digest({"value": value}), sep="; ")
"""


def test_the_shapes_are_of_their_kinds():
    for kind, shape in SHAPES.items():
        plan = norm_plan(shape, 4, 2)
        assert plan.parallel
        assert plan.tiles > 4
        assert (plan.tiling.slices > 1) == kind.endswith("slices")
        assert (plan.tiling.step == 0) == (kind == "short")


def test_any_number_of_threads_gives_the_same_bits():
    printed = subprocess.run(
        [sys.executable, "-c", DIGESTS, "1", "2", "4"],
        cwd=ROOT, env=os.environ | {"NUMBA_NUM_THREADS": "4"}, check=True, capture_output=True,
        text=True,
    ).stdout  # fmt: skip
    digests: dict[str, set[str]] = {}
    for line in printed.splitlines():
        _, result, found = line.split("; ")
        digests.setdefault(result, set()).add(found)
    assert len(digests) == 10 * len(SHAPES)
    assert len(printed.splitlines()) == 3 * len(digests)
    assert [result for result, found in digests.items() if len(found) > 1] == []


@pytest.mark.parametrize("kind", SHAPES)
def test_serial_and_parallel_give_the_same_bits(kind, monkeypatch):
    found = []
    for parallel in (True, False):
        monkeypatch.setattr(threads, "runs_parallel", lambda parallel=parallel: parallel)
        found.append(of_shape(SHAPES[kind]))
    assert_same_bits(*found)
