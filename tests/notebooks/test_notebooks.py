"""Every notebook runs from top to bottom; what it prints may differ from run to run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
LARGEST_PICTURE = 100_000  # bytes: a clone takes all of them along
PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))


def code_cells(path: Path) -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def test_there_are_five() -> None:
    assert [path.name[:2] for path in PATHS] == ["01", "02", "03", "04", "05"]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_committed_outputs_are_whole_small_and_free_of_errors(path: Path) -> None:
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    pictures = [o["data"]["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) >= 3
    assert max(map(len, pictures)) < LARGEST_PICTURE * 4 / 3  # as base64
    assert str(Path.home()) not in path.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path) -> None:
    for package in ("nbclient", "ipykernel", "matplotlib", "sklearn", "tqdm"):
        pytest.importorskip(package, reason="it comes with the extra notebooks")
    if path.stem == "05_in_pytorch":
        pytest.importorskip("torch")
    before = path.read_bytes()
    run = subprocess.run(
        [sys.executable, NOTEBOOKS / "execute.py", path, "--output", tmp_path],
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr[-5000:]
    again = code_cells(tmp_path / path.name)
    assert [cell["source"] for cell in again] == [cell["source"] for cell in code_cells(path)]
    assert path.read_bytes() == before
