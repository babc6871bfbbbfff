"""The main example, in its quick form."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "train_digits.py"


@pytest.fixture(autouse=True)
def _requirements():
    for package in ("matplotlib", "sklearn", "tqdm"):
        pytest.importorskip(package)


@pytest.mark.slow
def test_quick_run_learns_and_draws(tmp_path):
    picture = tmp_path / "new" / "digits.png"
    run = subprocess.run(
        [sys.executable, SCRIPT, "--quick", "--output", picture],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    # Four epochs from one seed read about 97 % with batch norm, 90 % without.
    with_batch_norm = re.search(r"With batch norm the network reads ([\d.]+) %", run.stdout)
    assert float(with_batch_norm[1]) >= 95
    assert "epochs to 95 %" in run.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_run_that_diverges_is_a_result(batch_norm):
    spec = importlib.util.spec_from_file_location("train_digits", SCRIPT)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    with example.tqdm(disable=True) as progress:
        run = example.train(example.load(), 1e30, batch_norm, 0, epochs=2, progress=progress)
    assert run.diverged
    assert len(run.accuracies) == 2
    assert max(run.accuracies) < 20
    results = {(1e30, True): [run], (1e30, False): [run]}
    assert "never" in example.table(results)
    assert "The loss of 1 of 1 runs stopped being finite." in example.findings(results)
