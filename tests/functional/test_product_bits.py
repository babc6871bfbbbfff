"""What may not change a bit of dense layers and convolutions: threads, memory, other calls."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numba.core import config

from nbnorm.launch.scratch import Scratch
from tests.cases.batch_norm import assert_same_bits, channels_last_memory, surrounded
from tests.cases.product_batch_norm import poisoned, strided
from tests.cases.product_bits import CASES, CONV, drawn, results

ROOT = Path(__file__).parents[2]

# As plain NumPy, those of several slots would take minutes; tests/kernels has small ones.
pytestmark = pytest.mark.skipif(config.DISABLE_JIT, reason="large arrays, for compiled code only")

each_case = pytest.mark.parametrize("name", CASES)


# --- threads ----------------------------------------------------------------------------------

DIGESTS = """
import sys
import numba
from tests.cases.batch_norm import digest
from tests.cases.product_bits import CASES, drawn, results
for count in map(int, sys.argv[1:]):
    numba.set_num_threads(count)
    for name, case in CASES.items():
        for found, value in results(case, drawn(case)).items():
            print(count, f"{name}: {found}", digest({"value": value}), sep="; ")
"""


@pytest.mark.slow
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
    assert len(digests) > 10 * len(CASES)
    assert len(printed.splitlines()) == 3 * len(digests)
    assert [result for result, found in digests.items() if len(found) > 1] == []


def test_python_threads_at_once():
    """Each has scratch of its own."""
    names = ("dense", "direct, axis 1", "winograd, axis -1", "depthwise, axis 1")
    given = [(CASES[name], drawn(CASES[name], seed)) for seed in range(3) for name in names]
    wanted = [results(*one) for one in given]
    with ThreadPoolExecutor(4) as pool:
        for found, right in zip(pool.map(lambda one: results(*one), given), wanted, strict=True):
            assert_same_bits(found, right)


# --- memory -----------------------------------------------------------------------------------


@each_case
def test_what_new_memory_holds_does_not_matter(name, monkeypatch):
    arrays = drawn(CASES[name])
    wanted = results(CASES[name], arrays)
    uninitialized = np.empty

    def empty(*arguments, **options):
        array = uninitialized(*arguments, **options)
        if array.dtype.kind == "f":
            array.fill(np.nan)
        elif array.dtype == np.int64:
            array.fill(2**40)
        return array

    monkeypatch.setattr(Scratch, "take", lambda *key: empty(*key[2:]))
    monkeypatch.setattr(np, "empty", empty)
    found = results(CASES[name], arrays)
    monkeypatch.undo()
    assert_same_bits(found, wanted)


@each_case
def test_strides_and_neighbours_do_not_matter(name):
    case = CASES[name]
    x, weight, dy, residual, given = arrays = drawn(case)
    wanted = results(case, arrays)
    moved = [surrounded(array, 3)[0] for array in (x, weight, dy, residual)]
    assert_same_bits(results(case, type(arrays)(*moved, given)), wanted)
    gaps = [strided(array) for array in (x, weight, dy, residual)]
    assert_same_bits(results(case, type(arrays)(*gaps, given)), wanted)


@each_case
def test_out_has_the_same_bits_and_its_surroundings_are_not_written(name):
    case = CASES[name]
    functions, options = case.functions, case.options
    x, weight, dy, residual, given = arrays = drawn(case)
    wanted = results(case, arrays)
    after = {"activation": "relu", "residual": residual}
    buffers = []

    def place(like):
        inside, buffer = surrounded(np.full_like(like, np.nan), 5)
        buffers.append((inside, buffer))
        return inside

    found = {"z": functions.forward(x, weight, **options, out=place(dy))}
    kind = type(functions.backward(dy, x, weight, **options))
    out = kind(place(x), place(weight), place(weight.reshape(len(weight), -1)[:, 0]))
    found |= functions.backward(dy, x, weight, **options, out=out)._asdict()
    y, context = functions.fused_forward(x, weight, **after, **options, out=place(dy))
    found |= {"y": y, "mean": context.mean, "var": context.var}
    kind = type(functions.fused_backward(dy, context))
    out = kind(dx=place(x), dweight=place(weight), dresidual=place(dy))
    gradients = functions.fused_backward(dy, context, out=out)._asdict()
    found |= {f"fused {name}": g for name, g in gradients.items() if g is not None}
    if case.inferred:
        found["inference"] = functions.fused_inference(x, weight, *given, **options, out=place(dy))
    assert_same_bits(found, wanted)
    for inside, buffer in buffers:
        assert np.isnan(buffer).sum() == buffer.size - inside.size


@pytest.mark.parametrize("name", [name for name in CASES if name.endswith("axis 1")])
def test_channels_last_memory_stays_so(name):
    """A transposed view is worked on as it lies, and what is made of it lies the same."""
    case = CASES[name]
    arrays = drawn(case)
    by_pixel = case._replace(options=case.options | {"axis": -1})
    turned = [np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (arrays.x, arrays.dy)]
    residual = np.ascontiguousarray(np.moveaxis(arrays.residual, 1, -1))
    wanted = results(by_pixel, arrays._replace(x=turned[0], dy=turned[1], residual=residual))
    viewed = {key: channels_last_memory(getattr(arrays, key)) for key in ("x", "dy", "residual")}
    found = results(case, arrays._replace(**viewed))
    for result in {"z", "dx", "y", "fused dx", "inference"} & found.keys():
        assert found[result].transpose(0, 2, 3, 1).flags.c_contiguous, result
        found[result] = np.moveaxis(found[result], 1, -1)
    found["fused dresidual"] = np.moveaxis(found["fused dresidual"], 1, -1)
    assert_same_bits(found, wanted)


@pytest.mark.parametrize("axis", [1, -1])
def test_out_in_the_other_memory_order(axis):
    case = CASES[f"direct, axis {axis}"]
    arrays = drawn(case)
    wanted = CONV.forward(arrays.x, arrays.weight, **case.options)
    order, back = ((0, 2, 3, 1), (0, 3, 1, 2))[::axis]
    out = poisoned([wanted.shape[i] for i in order], wanted.dtype).transpose(back)
    assert not out.flags.c_contiguous
    assert CONV.forward(arrays.x, arrays.weight, **case.options, out=out) is out
    np.testing.assert_array_equal(out, wanted)
