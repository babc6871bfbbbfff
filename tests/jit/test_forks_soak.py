"""The long form of test_forks.py: many trials of each sequence, beside a busy process.

Run by `make soak`; `python -m tests.jit.fork_trials` prints the same as a table.
"""

from __future__ import annotations

import os

import pytest

from tests.jit.calls import BATCH_NORM
from tests.jit.fork_trials import EASY, HARD, LAYERS, PYTORCH, busy_neighbour, tried
from tests.jit.test_threads import (
    digest,  # noqa: F401  a fixture
    is_missing,
)

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="forks are needed"),
]

TRIALS = {**dict.fromkeys(HARD, 200), **dict.fromkeys(EASY, 20)}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    "sequence",
    [pytest.param(name, marks=pytest.mark.peer if name in PYTORCH else ()) for name in TRIALS],
)
def test_trials(sequence, layer, digest, request, tally):  # noqa: F811
    if is_missing(layer):
        pytest.skip(f"no {layer} here")
    if sequence in PYTORCH:
        request.getfixturevalue("torch")
    elif layer == "default":
        pytest.skip("the layer that is chosen is one of the others")
    digest(BATCH_NORM)  # compiled once, for all
    with busy_neighbour():
        outcome = tried(layer, sequence, TRIALS[sequence])
    assert (outcome.hangs, outcome.failures) == (0, 0), outcome
    tally("forks tried", outcome.trials)
