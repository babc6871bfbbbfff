"""A run of several suites: where it was stopped it goes on, where something changed it begins."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from benchmarks.compare import __main__ as command
from benchmarks.compare import journal, runner, session
from benchmarks.compare.journal import Journal
from benchmarks.compare.protocol import FIRST, LAST, ROWS, Case
from benchmarks.compare.results import Record, Results, load
from benchmarks.compare.runner import Comparison
from benchmarks.compare.session import Options, Session
from benchmarks.compare.suites import batch_norm, dense_batch_norm
from benchmarks.compare.workers import PeerFailure, TimedOut
from tests.benchmarks.test_compare import results_of, stand_in

SHAPES = [(4, 3, 5, 5), (6, 2, 3, 3)]
DENSE = (33, 5, 7)


def part(*unit: str, seconds: float = 1.0) -> Results:
    record = Record("nbnorm", Case(batch_norm.FORWARD, SHAPES[0], FIRST), (seconds,), 0.0)
    about = {"unit": list(unit), "took": 2.0}
    return Results(unit[0], about, {"nbnorm": {"numpy": "2"}}, {}, [record])


# ---------------------------------------------------------------------------------- the journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "all.unfinished"


def test_finished_parts_are_found_again(path: Path) -> None:
    first = Journal(path, {"rounds": 3})
    kept = part("batch_norm", "4x3x5x5", FIRST)
    first.add(kept)
    again = Journal(path, {"rounds": 3})
    assert again.parts == {("batch_norm", "4x3x5x5", FIRST): kept}
    assert again.begun == first.begun
    again.finish()
    assert Journal(path, {"rounds": 3}).parts == {}


@pytest.mark.parametrize("change", ["options", "source", "version", "machine"])
def test_a_change_starts_anew(path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    Journal(path, {"rounds": 3}).add(part("batch_norm", "4x3x5x5", FIRST))
    if change == "source":
        monkeypatch.setattr(journal, "_digest", lambda: "other")
    elif change == "version":
        monkeypatch.setattr(journal.machine, "version", lambda _: "0.0")
    elif change == "machine":
        monkeypatch.setattr(journal.machine, "describe", lambda: {"processor": "another"})
    options = {"rounds": 4 if change == "options" else 3}
    assert Journal(path, options).parts == {}
    assert Journal(path, options).parts == {}  # the old parts are gone from the file, too


def test_a_line_cut_short_is_forgotten_and_not_appended_to(path: Path) -> None:
    first = Journal(path, {})
    first.add(part("batch_norm", "4x3x5x5", FIRST))
    first.add(part("batch_norm", "4x3x5x5", LAST))
    path.write_text(path.read_text()[:-20])
    again = Journal(path, {})
    assert list(again.parts) == [("batch_norm", "4x3x5x5", FIRST)]
    again.add(part("batch_norm", "4x3x5x5", LAST, seconds=3.0))
    assert len(Journal(path, {}).parts) == 2


def test_every_source_counts() -> None:
    assert journal._digest() == journal._digest()
    names = [path.name for path in journal.sources()]
    assert {"batch_norm.py", "workers.py", "truth.py", "simd.py"} <= set(names)


# ---------------------------------------------------------------------------------- the session


@pytest.fixture
def suites(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ModuleType]]:
    """Two suites of small shapes, measured on a library that needs nothing."""
    pytest.importorskip("tqdm", reason="it comes with the extra bench, not with test")
    monkeypatch.setattr(batch_norm, "SHAPES", SHAPES)
    monkeypatch.setattr(batch_norm, "OPERATIONS", {batch_norm.FORWARD: "training forward"})
    monkeypatch.setattr(dense_batch_norm, "SHAPES", [DENSE])
    monkeypatch.setattr(dense_batch_norm, "OPERATIONS", {dense_batch_norm.BOTH: "both"})
    monkeypatch.setattr(session, "_peers", lambda _: [stand_in("nbnorm", "right")])
    return [batch_norm, dense_batch_norm]


BRIEF = Options(threads=1, rounds=3, seconds=0.001)


def test_a_stopped_run_goes_on_where_it_was(
    suites: list[ModuleType], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, drawn = batch_norm.Problem, []

    def problem_of(shape: tuple[int, ...]) -> object:
        drawn.append(shape)
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return problem(shape)

    monkeypatch.setattr(batch_norm, "Problem", problem_of)
    first = Session(suites, BRIEF, path, {})
    with pytest.raises(KeyboardInterrupt):
        first.run()
    again = Session(suites, BRIEF, path, {})
    assert list(again.journal.parts) == [
        ("batch_norm", "4x3x5x5", FIRST),
        ("batch_norm", "4x3x5x5", LAST),
    ]
    before = list(again.runs[0].results.records)
    assert [record.case.shape for record in before] == SHAPES[:1]
    sections = again.run()
    assert drawn == [*SHAPES, SHAPES[1]]  # the first shape was not measured again
    found = sections["batch_norm"]
    assert [record.case.shape for record in found.records] == SHAPES
    assert found.records[0] in before
    assert set(found.about["took"]) == {f"{label} {layout}" for label in ("4x3x5x5", "6x2x3x3")
                                        for layout in (FIRST, LAST)}  # fmt: skip
    assert [record.case.layout for record in sections["dense_batch_norm"].records] == [ROWS]
    assert found.about["date"] == first.journal.begun
    assert not path.exists()


def test_it_takes_as_long_as_last_time(suites: list[ModuleType], path: Path) -> None:
    last = results_of({})
    last.about["took"] = {f"4x3x5x5 {FIRST}": 30.0, f"4x3x5x5 {LAST}": 10.0}
    run = Session(suites, BRIEF, path, {"batch_norm": last}).runs[0]
    assert run.expected["4x3x5x5", FIRST] == 30
    assert 0 < run.expected["6x2x3x3", FIRST] < 1  # a guess: three rounds of 1 ms
    assert run.done == pytest.approx(0)
    run.journal.add(part("batch_norm", "4x3x5x5", FIRST))
    assert Session(suites, BRIEF, path, {"batch_norm": last}).runs[0].done == pytest.approx(30)


def test_what_takes_long_to_compile_is_measured_on_the_quick_shapes(
    suites: list[ModuleType], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_norm, "SLOW_PEERS", ("jax",), raising=False)
    monkeypatch.setattr(batch_norm, "QUICK_SHAPES", SHAPES[1:])
    peers = [stand_in("nbnorm", "right"), stand_in("jax", "right")]
    monkeypatch.setattr(session, "_peers", lambda _: peers)
    found = Session(suites[:1], BRIEF, path, {}).run()["batch_norm"]
    timed = [(record.peer, record.case.shape) for record in found.records]
    assert timed == [("nbnorm", SHAPES[0]), ("nbnorm", SHAPES[1]), ("jax", SHAPES[1])]
    left_out = {(r.peer, r.case.shape) for r in found.refusals if r.kind == "left out"}
    assert left_out == {("jax", SHAPES[0])}
    thorough = dataclasses.replace(BRIEF, thorough=True)
    assert Session(suites[:1], thorough, path, {}).runs[0].comparison.slow_peers == set()


# ----------------------------------------------------------------------- what does not go well


class Broken:
    """A worker that times a call's seconds, or fails."""

    def __init__(self, key: str, answer: float | Exception) -> None:
        self.peer, self.answer, self.asked = stand_in(key, "right"), answer, 0
        self.process = SimpleNamespace(is_alive=lambda: not isinstance(answer, Exception))

    def ask(self, verb: str, *_: object) -> object:
        self.asked += verb == "measure"
        if isinstance(self.answer, Exception):
            raise self.answer
        return {} if verb == "prepare" else self.answer

    def close(self) -> None: ...


def comparison_of(*workers: Broken) -> Comparison:
    comparison = Comparison(
        batch_norm, [worker.peer for worker in workers], threads=1, rounds=3, seconds=0.001
    )
    comparison.workers = list(workers)
    return comparison


RIGHT = SimpleNamespace(error=lambda *_: 0.0)
CASE = Case(batch_norm.FORWARD, SHAPES[0], FIRST)


def test_a_hopelessly_slow_library_has_one_turn() -> None:
    quick, hopeless, slow = Broken("nbnorm", 0.2), Broken("jax", 2.1), Broken("pytorch", 1.9)
    comparison = comparison_of(quick, hopeless, slow)
    comparison._measure(CASE, RIGHT)
    assert [worker.asked for worker in (quick, hopeless, slow)] == [3, 1, 3]
    assert [record.peer for record in comparison.results.records] == ["nbnorm", "jax", "pytorch"]
    assert comparison.results.ratio("jax", CASE) == pytest.approx(10.5)


def test_a_process_that_ends_is_started_again_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = Broken("jax", PeerFailure("its process ended with code 3"))
    comparison = comparison_of(ended)
    monkeypatch.setattr(runner, "Worker", lambda *_: ended)
    ended.versions = {}
    for _ in range(4):
        comparison._revive()
        comparison._measure(CASE, RIGHT)
    assert len(comparison.results.refusals) == runner.LIVES
    assert comparison.results.missing["jax"] == "given up: its process ended 3 times"


def test_a_process_that_does_not_answer_is_given_up_and_the_others_go_on() -> None:
    silent, right = Broken("jax", TimedOut("no answer within 300 s")), Broken("nbnorm", 0.1)
    comparison = comparison_of(silent, right)
    comparison._measure(CASE, RIGHT)
    comparison._revive()
    assert comparison.workers == [right]
    assert comparison.results.missing["jax"] == "given up: it did not answer"
    assert [record.peer for record in comparison.results.records] == ["nbnorm"]


# ---------------------------------------------------------------------------------- the command


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions measure nothing and find one record for each suite."""

    def run(self: Session) -> dict[str, Results]:
        found = {}
        for suite in self.suites:
            results = results_of({("nbnorm", CASE): 0.01, ("pytorch", CASE): 0.02})
            results.suite = suite.NAME
            found[suite.NAME] = results
        self.journal.finish()
        return found

    monkeypatch.setattr(Session, "run", run)


@pytest.mark.usefixtures("measured")
def test_a_suite_takes_the_place_of_its_part(tmp_path: Path) -> None:
    assert command.main(["conv2d_batch_norm", "--output", str(tmp_path)]) == 0
    assert command.main(["batch_norm", "--output", str(tmp_path)]) == 0
    assert list(load(tmp_path / "comparison.json")) == ["batch_norm", "conv2d_batch_norm"]
    assert command.main(["all", "--output", str(tmp_path)]) == 0
    assert list(load(tmp_path / "comparison.json")) == list(command.SUITES)
    before = (tmp_path / "comparison.json").read_bytes()
    assert command.main(["all", "--quick", "--output", str(tmp_path)]) == 0
    assert (tmp_path / "comparison.json").read_bytes() == before
    assert list(load(tmp_path / "partial.json")) == list(command.SUITES)


def test_ctrl_c_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(self: Session) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "run", stopped)
    assert command.main(["all", "--output", str(tmp_path)]) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
    head = json.loads((tmp_path / "all.unfinished").read_text().splitlines()[0])
    assert head["circumstances"]["options"]["suites"] == list(command.SUITES)
