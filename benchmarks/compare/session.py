"""One command's run: suite after suite, begun anew or gone on with, with one progress bar."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.compare.journal import Journal
from benchmarks.compare.peers import PEERS, SUBJECT, Peer
from benchmarks.compare.protocol import Case, Shape, label
from benchmarks.compare.results import Results, Sections
from benchmarks.compare.runner import Comparison, Group
from benchmarks.tools import isa

RIVALS = [key for key, peer in PEERS.items() if peer.counted and key != SUBJECT]
QUICK_ROUNDS, QUICK_SECONDS = 3, 0.02
THOROUGH_ROUNDS, THOROUGH_SECONDS = 9, 0.1
BAR = "{percentage:3.0f}%|{bar:24}| {elapsed}, {remaining} to go, {desc}"


@dataclass(frozen=True)
class Options:
    """What a run measures, and how long; what is None is the suite's to say."""

    threads: int = 2
    quick: bool = False
    thorough: bool = False
    rounds: int | None = None
    seconds: float | None = None
    shapes: tuple[Shape, ...] | None = None
    operations: tuple[str, ...] | None = None
    peers: tuple[str, ...] | None = None

    @property
    def partial(self) -> bool:
        """Whether this is less than all of a suite."""
        return bool(self.quick or self.shapes or self.operations or self.peers)


class Session:
    """The suites of one command; `run` measures what is not finished yet."""

    def __init__(
        self, suites: Iterable[ModuleType], options: Options, journal_path: Path, last: Sections
    ) -> None:
        """`last`: what earlier runs found, for how long they took."""
        self.options = options
        self.suites = list(suites)
        told = {"suites": [suite.NAME for suite in self.suites], **asdict(options)}
        self.journal = Journal(journal_path, told)
        self.runs = [
            _Run(suite, options, self.journal, last.get(suite.NAME)) for suite in self.suites
        ]

    def run(self) -> Sections:
        """Measure, and give the results by suite. The journal goes when all is done."""
        from tqdm import tqdm

        expected = sum(sum(run.expected.values()) for run in self.runs)
        done = sum(run.done for run in self.runs)
        with tqdm(
            total=expected, initial=done, bar_format=BAR, smoothing=0.1, file=sys.stderr
        ) as bar:

            def progress(text: str, seconds: float) -> None:
                bar.set_description_str(text, refresh=False)
                bar.update(seconds)

            sections = {run.suite.NAME: run.measure(progress) for run in self.runs}
        self.journal.finish()
        return sections


class _Run:
    """One suite within a session."""

    def __init__(
        self, suite: ModuleType, options: Options, journal: Journal, last: Results | None
    ) -> None:
        self.suite, self.journal = suite, journal
        slow = () if options.thorough or options.partial else getattr(suite, "SLOW_PEERS", ())
        self.comparison = Comparison(
            suite, _peers(options), threads=options.threads, slow_peers=slow,
            rounds=options.rounds or _one_of(options, THOROUGH_ROUNDS, QUICK_ROUNDS, suite.ROUNDS),
            seconds=options.seconds
            or _one_of(options, THOROUGH_SECONDS, QUICK_SECONDS, suite.SECONDS),
        )  # fmt: skip
        self.results = self.comparison.results
        self.results.about["date"] = journal.begun
        shapes = options.shapes or (suite.QUICK_SHAPES if options.quick else suite.SHAPES)
        operations = options.operations or tuple(suite.OPERATIONS)
        self.plan = self.comparison.plan(shapes, operations)
        self.memory = getattr(suite, "MEMORY", None) in operations
        self.expected = self._expected(last)
        self.unfinished: list[Group] = []
        for group in self.plan:
            part = journal.parts.get(_unit(suite, group))
            if part is None:
                self.unfinished.append(group)
            else:
                self.results.add(part)
        if part := journal.parts.get((suite.NAME, "memory", "")):
            self.results.add(part)
            self.memory = False

    @property
    def done(self) -> float:
        """The seconds that the finished part was expected to take."""
        todo = sum(self.expected[label(shape), layout] for shape, layout, _ in self.unfinished)
        return sum(self.expected.values()) - todo

    def measure(self, progress: Callable[[str, float], Any]) -> Results:
        n_cases = {(shape, layout): len(cases) for shape, layout, cases in self.plan}
        before = 0.0  # what the case before this one stands for: it is over when this one begins

        def begun(case: Case) -> None:
            nonlocal before
            shape, layout = case.shape, case.layout
            progress(f"{case.operation} {label(shape)} {layout}", before)
            before = self.expected[label(shape), layout] / n_cases[shape, layout]

        def finished(part: Results) -> None:
            self.journal.add(part)
            self.results.took(part)

        self.comparison.run(self.unfinished, begun, finished)
        progress(self.suite.NAME, before)
        if self.memory:
            progress(f"{self.suite.MEMORY}", 0)
            cases, peers = self.suite.memory_cases(), self.suite.MEMORY_PEERS
            finished(self.comparison.measure_memory(cases, peers))
        return self.results

    def _expected(self, last: Results | None) -> dict[tuple[str, str], float]:
        """The seconds that each pair of arrays will take: as last time, else a rough guess."""
        took = last.about.get("took", {}) if last else {}
        turns = len(self.comparison.peers) * self.comparison.rounds * self.comparison.seconds
        return {
            (label(shape), layout): took.get(f"{label(shape)} {layout}", 2 * turns * len(cases))
            for shape, layout, cases in self.plan
        }


def _peers(options: Options) -> list[Peer]:
    left_out = set(RIVALS).difference(options.peers or RIVALS)
    if isa.held():
        left_out |= isa.NOT_HELD
    return [peer for key, peer in PEERS.items() if key not in left_out]


def _one_of(options: Options, thorough: Any, quick: Any, usual: Any) -> Any:
    return thorough if options.thorough else quick if options.quick else usual


def _unit(suite: ModuleType, group: Group) -> tuple[str, str, str]:
    shape, layout, _ = group
    return suite.NAME, label(shape), layout
