"""Every way to run a network: prepared, compared, and timed in turn."""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.compare.networks.problems import Problem
from benchmarks.compare.networks.ways import WAYS
from benchmarks.compare.protocol import Case
from benchmarks.compare.workers import PeerFailure, Worker

OPERATIONS = ("training_step", "inference", "peak")
# float32; three steps, each of which starts from where rounding has led the one before.
TOLERANCES = {"losses": 2e-3, "y": 1e-3}


@dataclass
class Measured:
    """One network in one operation."""

    network: str
    operation: str
    busy: bool = False  # whether another process kept one core busy
    rounds: dict[str, list[float]] = field(default_factory=dict)  # by way: seconds, or MiB
    refused: dict[str, str] = field(default_factory=dict)

    def value(self, way: str) -> float | None:
        """The median of a way's rounds."""
        found = self.rounds.get(way)
        return statistics.median(found) if found else None


def measure(
    name: str,
    problem: Problem,
    operation: str,
    ways: Sequence[str],
    *,
    threads: int,
    rounds: int,
    seconds: float,
    busy: bool,
) -> Measured:
    found = Measured(name, operation, busy)
    workers: dict[str, Worker] = {}
    case = Case(operation, problem.shape, "")
    expected: dict[str, Any] | None = None
    try:
        for way in ways:
            try:
                workers[way] = worker = Worker(WAYS[way], threads)
                worker.ask("load", {"problem": problem})
                outputs = worker.ask("prepare", case)
            except PeerFailure as reason:
                found.refused[way] = str(reason)
                continue
            expected = expected or outputs
            error = _error(expected, outputs)
            if error:
                found.refused[way] = error
            elif operation == "peak":
                found.rounds[way] = [outputs["mebibytes"]]
        if operation != "peak":
            with _busy_process(busy):
                for _ in range(rounds):
                    for way in workers.keys() - found.refused.keys():
                        seconds_a_call = workers[way].ask("measure", seconds)
                        found.rounds.setdefault(way, []).append(seconds_a_call)
    finally:
        for worker in workers.values():
            worker.close()
    return found


def _error(expected: dict[str, Any], outputs: dict[str, Any]) -> str:
    """How far outputs are from the first way's; empty where they are near enough."""
    for name in expected.keys() & TOLERANCES.keys():
        one, other = (np.asarray(values[name], np.float64) for values in (expected, outputs))
        error = float(abs(one - other).max() / abs(one).max())
        if not error <= TOLERANCES[name]:
            return f"{name} {error:.1e} away from PyTorch's"
    return ""


@contextmanager
def _busy_process(wanted: bool) -> Iterator[None]:
    """Another process beside, which keeps one core busy."""
    if not wanted:
        yield
        return
    process = multiprocessing.get_context("spawn").Process(target=_spin, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _spin() -> None:
    while True:
        pass
