"""The run itself: every library prepared, checked, and timed in turn, case after case."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from types import ModuleType
from typing import Any

from benchmarks.compare.peers import Peer
from benchmarks.compare.protocol import Case, Given, Shape, Unsupported, label
from benchmarks.compare.results import Record, Refusal, Resident, Results
from benchmarks.compare.timing import SLOW
from benchmarks.compare.workers import NotInstalled, PeerFailure, TimedOut, Worker
from benchmarks.tools import machine

# Other work on the machine spoils single turns. Where the middle half of a library's rounds lies
# further apart than this, relative to the median, further rounds are taken, up to so many times
# as many.
UNSTEADY, MORE_ROUNDS = 0.2, 2
# Whose call takes longer than `SLOW` and so many times as long as the fastest library's has one
# turn only: XLA has convolutions of 12 seconds, and no further turn would change the picture.
HOPELESS = 10
# A process that ends is started again for the next arrays, so many times.
LIVES = 3

Group = tuple[Shape, str, list[Case]]  # the cases of one pair of arrays: a shape in a layout


class Comparison:
    """A suite and the libraries that it is measured on; `run` does it and gives the results."""

    def __init__(
        self,
        suite: ModuleType,
        peers: Iterable[Peer],
        *,
        threads: int,
        rounds: int,
        seconds: float,
        slow_peers: Iterable[str] = (),
    ) -> None:
        """`slow_peers`: those that are measured on the suite's quick shapes only."""
        self.suite, self.peers = suite, list(peers)
        self.threads, self.rounds, self.seconds = threads, rounds, seconds
        self.slow_peers = frozenset(slow_peers)
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
        self.fallen: list[Peer] = []  # whose process has ended, to be started again
        self.falls: Counter[str] = Counter()

    def plan(self, shapes: Iterable[Shape], operations: Iterable[str]) -> list[Group]:
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
        plan: list[Group],
        progress: Callable[[Case], Any] = lambda case: None,
        finished: Callable[[Results], Any] = lambda part: None,
    ) -> Results:
        """Measure the plan.

        `progress` is told of each case before it is begun; `finished` gets what was found on each
        pair of arrays, as soon as all of it is there.
        """
        try:
            operations = {case.operation for *_, cases in plan for case in cases}
            for peer in self.peers:
                if any(map(peer.does, operations)):
                    self._start(peer)
            problem, drawn = None, None
            for shape, layout, cases in plan:
                part = _Part(self.results, label(shape), layout)
                if drawn != shape:
                    problem, drawn = self.suite.Problem(shape), shape
                self._revive()
                values = problem.arranged(layout)
                for worker in list(self.workers):
                    if not self._leaves_out(worker.peer, shape):
                        self._ask(worker, cases[0], "load", values)
                for case in cases:
                    progress(case)
                    self._measure(case, problem)
                finished(part.results())
        finally:
            for worker in self.workers:
                worker.close()
        return self.results

    def measure_memory(self, cases: Iterable[Case], keys: Iterable[str]) -> Results:
        """Measure the suite's memory cases on some libraries, each in a process of its own."""
        part = _Part(self.results, "memory", "")
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
        return part.results()

    def _growth(self, peer: Peer, little: Given, given: Given) -> Any:
        """The second of two processes: in the first, what compiles compiles, and keeps it."""
        for _ in range(2):
            worker = Worker(peer, self.threads)
            try:
                answer = worker.ask("grow", little, given)
                self.results.versions[peer.key] = worker.versions
            finally:
                worker.close()
        return answer

    def _start(self, peer: Peer) -> None:
        try:
            worker = Worker(peer, self.threads)
        except NotInstalled as reason:
            self.results.missing[peer.key] = f"not installed: {reason}"
        except PeerFailure as reason:
            self.results.missing[peer.key] = f"does not start: {reason}"
        else:
            self.workers.append(worker)
            self.results.versions[peer.key] = worker.versions

    def _revive(self) -> None:
        """Start those whose process has ended, in the order that they had."""
        fallen, self.fallen = self.fallen, []
        for peer in fallen:
            self._start(peer)
        self.workers.sort(key=lambda worker: self.peers.index(worker.peer))

    def _leaves_out(self, peer: Peer, shape: Shape) -> bool:
        return peer.key in self.slow_peers and shape not in self.suite.QUICK_SHAPES

    def _measure(self, case: Case, problem: Any) -> None:
        errors, times = {}, {}
        for worker in list(self.workers):
            if self._leaves_out(worker.peer, case.shape):
                if worker.peer.does(case.operation):
                    self._refuse(worker.peer, case, "left out", "slow to compile; see --thorough")
                continue
            error = self._check(worker, case, problem)
            if error is not None:
                errors[worker], times[worker] = error, []
        turn, taking_part = 0, list(errors)
        while turn < self.rounds or (
            turn < MORE_ROUNDS * self.rounds and any(_unsteady(times[w]) for w in taking_part)
        ):
            for worker in _rotated(taking_part, turn):
                seconds = self._ask(worker, case, "measure", self.seconds)
                if seconds is None:
                    del errors[worker]
                else:
                    times[worker].append(seconds)
            taking_part = _hopeful({worker: times[worker] for worker in errors})
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
                self._fell(worker, isinstance(reason, TimedOut))
        return None

    def _fell(self, worker: Worker, for_good: bool) -> None:
        worker.close()
        self.workers.remove(worker)
        key = worker.peer.key
        self.falls[key] += 1
        if for_good or self.falls[key] == LIVES:
            self.results.missing[key] = "given up: " + (
                "it did not answer" if for_good else f"its process ended {LIVES} times"
            )
        else:
            self.fallen.append(worker.peer)

    def _refuse(self, peer: Peer, case: Case, kind: str, reason: str) -> None:
        self.results.refusals.append(Refusal(peer.key, case, kind, reason))


class _Part:
    """What results have gained since this was made, and how long it took."""

    def __init__(self, whole: Results, *unit: str) -> None:
        self.whole, self.unit, self.begun = whole, (whole.suite, *unit), time.monotonic()
        self.before = [len(rows) for rows in (whole.records, whole.refusals, whole.memory)]

    def results(self) -> Results:
        whole = self.whole
        everything = (whole.records, whole.refusals, whole.memory)
        gained = [rows[i:] for rows, i in zip(everything, self.before, strict=True)]
        about = {"unit": list(self.unit), "took": round(time.monotonic() - self.begun, 2)}
        return Results(whole.suite, about, dict(whole.versions), dict(whole.missing), *gained)


def _hopeful(times: dict[Worker, list[float]]) -> list[Worker]:
    """Who takes part in the next turn."""
    fastest = min((rounds[-1] for rounds in times.values()), default=0.0)
    return [
        worker for worker, rounds in times.items() if rounds[-1] <= max(SLOW, HOPELESS * fastest)
    ]


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
