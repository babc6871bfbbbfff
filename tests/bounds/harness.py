"""Runs `tests.bounds.run` in a process of its own and reads what became of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import nbnorm

REPOSITORY = Path(__file__).parents[2]


class Report(NamedTuple):
    """What a run told: figures at its end, results bit by bit, what it came to."""

    figures: dict[str, float]
    digests: dict[int, str]
    functions: set[str]
    kernels: set[str]


def run(place: str, *arguments: str, seconds: float = 600) -> Report:
    """The report of a run; an AssertionError that names the call which went wrong."""
    searched = [str(Path(nbnorm.__file__).parents[1]), str(REPOSITORY)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(searched), "NUMBA_NUM_THREADS": "2",
        "PYTHONFAULTHANDLER": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.bounds.run", place, *arguments]
    process = subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        out, err = process.communicate(timeout=seconds)
        ending = f"ended with {process.returncode}"
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        ending = f"hung for {seconds} s"
    told = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    last: dict[str, Any] = told[-1] if told else {}
    if "figures" in last and process.returncode == 0:
        digests = {fact["case"]: fact["digest"] for fact in told if "digest" in fact}
        return Report(last["figures"], digests, set(last["functions"]), set(last["kernels"]))
    made: dict[str, Any] = next((fact for fact in reversed(told) if "call" in fact), {})
    again = [*command[2:], "--only", str(made.get("case"))]
    raise AssertionError(
        f"arrays at the {place} of pages: {ending} in the call\n"
        f"  {made.get('call')}\n"
        f"on {made.get('where')}; again: python -m {' '.join(again)}\n"
        f"{last.get('error', err)}"
    )
