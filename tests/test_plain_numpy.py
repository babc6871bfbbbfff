"""Everything about kernels once more without compiling: each intrinsic runs as its NumPy twin.

A twin raises IndexError where compiled code would read or write beyond an array, and nothing has
to be compiled, so that here the full product of all factors is affordable.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from numba.core import config

ROOT = Path(__file__).parents[1]


FOLDERS = {
    "src": (),
    "tests/functional": (pytest.mark.slow,),
    "tests/kernels": (),
    "tests/launch": (),
    "tests/robustness": (),
}


@pytest.mark.skipif(config.DISABLE_JIT, reason="that is what runs now")
@pytest.mark.parametrize(
    "folder",
    # Each may have a worker to itself.
    [
        pytest.param(name, marks=[*marks, pytest.mark.xdist_group(name)])
        for name, marks in FOLDERS.items()
    ],
)
def test_as_plain_numpy(folder):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-m", "not peer and not soak", folder]
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    run = subprocess.run(
        command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    assert " passed" in run.stdout
