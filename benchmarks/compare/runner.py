"""The run itself: every library prepared, checked, and timed in turn, case after case."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from types import ModuleType
from typing import Any

from benchmarks import machine
from benchmarks.compare.peers import Peer
from benchmarks.compare.protocol import Case, Given, Shape, Unsupported
from benchmarks.compare.results import Record, Refusal, Resident, Results
from benchmarks.compare.workers import NotInstalled, PeerFailure, Worker

# Other work on the machine spoils single turns. Where the middle half of a library's rounds lies
# further apart than this, relative to the median, further rounds are taken, up to so many times
# as many.
UNSTEADY, MORE_ROUNDS = 0.2, 2


class Comparison:
    """A suite and the libraries that it is measured on; `run` does it and gives the results."""

    def __init__(
        self, suite: ModuleType, peers: Iterable[Peer], *, threads: int, rounds: int, seconds: float
    ) -> None:
        self.suite, self.peers = suite, list(peers)
        self.threads, self.rounds, self.seconds = threads, rounds, seconds
        about = {
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "machine": machine.describe(),
            "load": machine.load(),  # what else kept the machine busy when the run began
            "threads": threads,
            "rounds": rounds,
            "seconds_a_turn": seconds,
            "tolerance": suite.TOLERANCE,
        }
        self.results = Results(suite.NAME, about)
        self.workers: list[Worker] = []

    def plan(
        self, shapes: Iterable[Shape], operations: Iterable[str]
    ) -> list[tuple[Shape, str, list[Case]]]:
        """Everything to measure, grouped by the arrays that it is measured on."""
        operations = list(operations)
        return [
            (shape, layout, cases)
            for shape in shapes
            for layout in self.suite.layouts(shape)
            if (cases := self.suite.cases(shape, layout, operations))
        ]

    def run(
        self,
        plan: list[tuple[Shape, str, list[Case]]],
        progress: Callable[[Case], Any] = lambda case: None,
    ) -> Results:
        """Measure the plan. `progress` is told of each case before it is begun."""
        try:
            self._start({case.operation for *_, cases in plan for case in cases})
            problem, drawn = None, None
            for shape, layout, cases in plan:
                if drawn != shape:
                    problem, drawn = self.suite.Problem(shape), shape
                values = problem.arranged(layout)
                for worker in list(self.workers):
                    self._ask(worker, cases[0], "load", values)
                for case in cases:
                    progress(case)
                    self._measure(case, problem)
        finally:
            for worker in self.workers:
                worker.close()
        return self.results

    def measure_memory(self, cases: Iterable[Case], keys: Iterable[str]) -> None:
        """Measure the suite's memory cases on some libraries, each in a process of its own."""
        peers = [peer for peer in self.peers if peer.key in keys]
        for case in cases:
            little, given = self.suite.memory_problem(case)
            first = None
            for peer in peers:
                try:
                    mebibytes, outputs = self._growth(peer, little, given)
                except Unsupported as reason:
                    self._refuse(peer, case, "unsupported", str(reason))
                except PeerFailure as reason:
                    self._refuse(peer, case, "failed", str(reason))
                else:
                    first = first or outputs
                    error = self.suite.memory_error(first, outputs)
                    if error <= self.suite.MEMORY_TOLERANCE:
                        self.results.memory.append(Resident(peer.key, case, mebibytes))
                    else:
                        reason = f"{error:.1e} away from {peers[0].label}"
                        self._refuse(peer, case, "disagrees", reason)

    def _growth(self, peer: Peer, little: Given, given: Given) -> Any:
        """The second of two processes: in the first, what compiles compiles, and keeps it."""
        for _ in range(2):
            worker = Worker(peer, self.threads)
            try:
                answer = worker.ask("grow", little, given)
            finally:
                worker.close()
        return answer

    def _start(self, operations: set[str]) -> None:
        for peer in self.peers:
            if not any(map(peer.does, operations)):
                continue
            try:
                worker = Worker(peer, self.threads)
            except NotInstalled as reason:
                self.results.missing[peer.key] = f"not installed: {reason}"
            except PeerFailure as reason:
                self.results.missing[peer.key] = f"does not start: {reason}"
            else:
                self.workers.append(worker)
                self.results.versions[peer.key] = worker.versions

    def _measure(self, case: Case, problem: Any) -> None:
        errors, times = {}, {}
        for worker in list(self.workers):
            error = self._check(worker, case, problem)
            if error is not None:
                errors[worker], times[worker] = error, []
        turn = 0
        while turn < self.rounds or (
            turn < MORE_ROUNDS * self.rounds and any(_unsteady(times[w]) for w in errors)
        ):
            for worker in _rotated(list(errors), turn):
                seconds = self._ask(worker, case, "measure", self.seconds)
                if seconds is None:
                    del errors[worker]
                else:
                    times[worker].append(seconds)
            turn += 1
        for worker, error in errors.items():
            self.results.records.append(Record(worker.peer.key, case, tuple(times[worker]), error))

    def _check(self, worker: Worker, case: Case, problem: Any) -> float | None:
        """Prepare a case; its error if it may be timed, else None and a refusal on record."""
        outputs = self._ask(worker, case, "prepare", case)
        if outputs is None:
            return None
        error = problem.error(case, outputs)
        if error <= self.suite.TOLERANCE:  # not so for NaN
            return float(error)
        self._refuse(
            worker.peer, case, "disagrees", f"largest error {error:.1e} of the outputs' scale"
        )
        return None

    def _ask(self, worker: Worker, case: Case, verb: str, *arguments: Any) -> Any:
        """The worker's answer; where it has none, None and a refusal on record."""
        try:
            return worker.ask(verb, *arguments)
        except Unsupported as reason:
            self._refuse(worker.peer, case, "unsupported", str(reason))
        except PeerFailure as reason:
            self._refuse(worker.peer, case, "failed", str(reason))
            if not worker.process.is_alive():
                self.workers.remove(worker)
                self.results.missing[worker.peer.key] = f"gone in {case.operation}: {reason}"
        return None

    def _refuse(self, peer: Peer, case: Case, kind: str, reason: str) -> None:
        self.results.refusals.append(Refusal(peer.key, case, kind, reason))


def _unsteady(rounds: list[float]) -> bool:
    """Whether the middle half of the rounds is not of one mind."""
    if len(rounds) < 3:
        return False
    low, middle, high = statistics.quantiles(rounds, n=4, method="inclusive")
    return high - low > UNSTEADY * middle


def _rotated(items: list[Any], by: int) -> list[Any]:
    """Another one begins each round, so that no library always follows the same other one."""
    by %= max(len(items), 1)
    return items[by:] + items[:by]
