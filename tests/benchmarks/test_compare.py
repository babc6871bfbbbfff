"""The comparison's logic: what is refused, what is counted, and what the tables say."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy import truth
from benchmarks.compare import __main__ as command
from benchmarks.compare import picture, tables, timing
from benchmarks.compare.peers import PEERS, Peer
from benchmarks.compare.protocol import FIRST, LAST, ROWS, Case
from benchmarks.compare.results import Record, Refusal, Results, load, save
from benchmarks.compare.runner import Comparison
from benchmarks.compare.suites import batch_norm
from benchmarks.compare.targets import Target, Verdict, judge
from benchmarks.compare.timing import median_of_calls
from benchmarks.compare.workers import CAN_STOP, Worker

SMALL = (4, 3, 5, 5)
LARGE = (32, 64, 112, 112)
CASES = {
    ("nbnorm", Case(batch_norm.FORWARD, LARGE, FIRST)): 0.01,
    ("pytorch", Case(batch_norm.FORWARD, LARGE, FIRST)): 0.07,
}


def stand_in(key: str, behaviour: str) -> Peer:
    environment = {"STAND_IN": behaviour}
    return Peer(key, key, (), environment, module="tests.benchmarks.stand_in")


def results_of(seconds: dict[tuple[str, Case], float]) -> Results:
    """Results in which each library took so long."""
    about = {
        "date": "2024-06-07T00:00:00+00:00",
        "machine": {"processor": "a processor", "python": "3.12.0"},
        "threads": 2,
        "rounds": 3,
        "tolerance": 1e-4,
    }
    records = [Record(p, case, (s, s, s / 2), 1e-7) for (p, case), s in seconds.items()]
    return Results("batch_norm", about, {"nbnorm": {"numba": "0.62"}}, {}, records)


# ------------------------------------------------------------------------------------- the run


@pytest.fixture(scope="module")
def run() -> Results:
    peers = [
        stand_in("nbnorm", "right"),
        stand_in("pytorch", "wrong"),
        stand_in("jax", "absent"),
        stand_in("onednn", "raises"),
        stand_in("openvino", "dies"),
    ]
    comparison = Comparison(batch_norm, peers, threads=1, rounds=3, seconds=0.001)
    return comparison.run(comparison.plan([SMALL], [batch_norm.FORWARD]))


def test_a_library_that_is_right_is_timed_in_every_round(run: Results) -> None:
    (record,) = run.records
    assert (record.peer, record.case) == ("nbnorm", Case(batch_norm.FORWARD, SMALL, FIRST))
    assert len(record.rounds) >= 3
    assert all(0 < seconds < 1 for seconds in record.rounds)
    assert record.error < 1e-6


def test_outputs_that_disagree_are_refused_and_named(run: Results) -> None:
    (refusal,) = (r for r in run.refusals if r.peer == "pytorch" and r.kind == "disagrees")
    assert refusal.case.layout == FIRST
    assert run.rivals(refusal.case) == {}
    assert "PyTorch: disagrees in batch_norm_forward 4x3x5x5" in tables.omissions(run)


def test_a_library_that_is_not_installed_is_named(run: Results) -> None:
    assert run.missing["jax"] == "not installed: No module named 'nothing_of_this_name'"
    assert "JAX: not installed" in tables.omissions(run)


def test_a_library_that_breaks_is_named_and_the_others_go_on(run: Results) -> None:
    (refusal, *_) = (r for r in run.refusals if r.peer == "onednn")
    assert (refusal.kind, refusal.reason) == ("failed", "RuntimeError: no kernel for this")
    died = [r for r in run.refusals if r.peer == "openvino"]
    assert [(r.case.layout, r.kind) for r in died] == [(FIRST, "failed"), (LAST, "failed")]
    assert died[0].reason == "its process ended with code 3"
    assert "openvino" not in run.missing  # it had two of its three lives


def test_what_a_library_cannot_do_is_named(run: Results) -> None:
    assert Refusal("nbnorm", Case(batch_norm.FORWARD, SMALL, LAST), "unsupported",
                   "no channels-last") in run.refusals  # fmt: skip


@pytest.mark.skipif(
    not (CAN_STOP and sys.platform == "linux"), reason="reads a process's state from /proc"
)
def test_a_process_without_the_turn_is_stopped() -> None:
    worker = Worker(stand_in("nbnorm", "right"), 1)
    try:
        stat = Path(f"/proc/{worker.process.pid}/stat")
        deadline = time.monotonic() + 2  # a signal takes effect when the process is next looked at
        while stat.read_text().split()[2] != "T" and time.monotonic() < deadline:
            time.sleep(0.001)
        assert stat.read_text().split()[2] == "T"
    finally:
        worker.close()
    assert not worker.process.is_alive()


def test_a_turn_counts_only_the_call() -> None:
    calls = []
    seconds = median_of_calls(lambda: calls.append(time.sleep(0.002)), 0.02)
    assert 0.002 <= seconds < 0.02
    assert len(calls) >= 4  # a warm-up, and three that count


def test_a_slow_call_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SLOW", 0.01)
    calls = []
    seconds = median_of_calls(lambda: calls.append(time.sleep(0.02)), 0.1)
    assert seconds >= 0.02
    assert len(calls) == 1


# --------------------------------------------------------------------------------- what is asked


def test_the_same_data_for_every_library_and_layout() -> None:
    one, other = batch_norm.Problem(SMALL), batch_norm.Problem(SMALL)
    for name, value in one.arranged(FIRST).items():
        np.testing.assert_array_equal(value, other.arranged(FIRST)[name])
    last = one.arranged(LAST)["x"]
    assert last.flags.c_contiguous
    np.testing.assert_array_equal(np.moveaxis(last, -1, 1), one.arranged(FIRST)["x"])


def test_errors_are_relative_to_their_scale_and_nan_is_no_agreement() -> None:
    problem = batch_norm.Problem((256, 8))
    case = Case(batch_norm.INFERENCE, (256, 8), ROWS)
    v = {name: np.float64(value) for name, value in problem.values.items()}
    y = v["gamma"] * (v["x"] - v["mean"]) / np.sqrt(v["var"] + v["eps"]) + v["beta"]
    assert problem.error(case, {"y": y}) < 1e-12
    rms = np.sqrt(np.mean(y**2, axis=0))
    assert problem.error(case, {"y": y + 0.5 * rms}) == pytest.approx(0.5)
    y[17, 3] = np.nan
    assert np.isnan(problem.error(case, {"y": y}))


def test_the_truth_agrees_with_finite_differences() -> None:
    random = np.random.default_rng(5)
    x, dy = random.standard_normal((2, 4, 2, 3))
    gamma, beta = random.standard_normal((2, 2))

    def loss(x: np.ndarray) -> float:
        return np.sum(dy * truth.training(x, dy, gamma, beta, 1e-5).values["y"])

    dx, h = truth.training(x, dy, gamma, beta, 1e-5).values["dx"], 1e-6
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = h
        assert (loss(x + step) - loss(x - step)) / (2 * h) == pytest.approx(dx[i], abs=1e-8)


def test_both_ways_of_returning_a_result_are_measured_in_inference() -> None:
    cases = batch_norm.cases(SMALL, FIRST, [batch_norm.INFERENCE])
    assert [case.reuse for case in cases if case.operation == batch_norm.INFERENCE] == [False, True]


# ----------------------------------------------------------------------------------- the targets


def test_a_target_needs_its_mean_and_every_floor() -> None:
    one, two = (Case("f", (n, 1), ROWS) for n in (1, 2))
    speed = Target("f", "them", lambda _: {}, 2.0, lambda _: 1.5)
    assert Verdict(speed, {one: 1.5, two: 3.0}).met
    assert not Verdict(speed, {one: 1.4, two: 9.0}).met  # a floor is missed
    assert not Verdict(speed, {one: 1.9, two: 1.9}).met  # the mean is
    cost = Target("f", "a copy", lambda _: {}, 1.25, at_most=True)
    assert Verdict(cost, {one: 1.2, two: 1.2}).met
    assert not Verdict(cost, {one: 1.2, two: 1.4}).met
    assert Verdict(cost, {one: 1.2, two: 1.4}).worst == two
    assert Verdict(speed, {}).cells()[2] == "not measured"


def test_forward_may_be_slower_where_fresh_pages_dominate() -> None:
    small, large = (Case(batch_norm.FORWARD, s, FIRST) for s in (batch_norm.PICTURES[1], LARGE))
    took = {("nbnorm", small): 1.0, ("nbnorm", large): 1.0,
            ("pytorch", small): 30.0, ("pytorch", large): 1.6}  # fmt: skip
    verdict = judge(results_of(took), batch_norm.TARGETS)[0]
    assert verdict.met
    assert verdict.worst == large


def test_best_layout_of_each() -> None:
    first, last = (Case(batch_norm.BOTH, LARGE, layout) for layout in (FIRST, LAST))
    took = {("nbnorm", first): 3.0, ("nbnorm", last): 2.0,
            ("jax", first): 5.0, ("pytorch", last): 6.0}  # fmt: skip
    best = next(t for t in batch_norm.TARGETS if "best layout" in t.title)
    assert list(best.ratios(results_of(took)).values()) == [2.5]


def test_like_is_compared_with_like_in_inference() -> None:
    fresh, reused = (Case(batch_norm.INFERENCE, LARGE, FIRST, reuse) for reuse in (False, True))
    took = {("nbnorm", fresh): 2.0, ("nbnorm", reused): 1.0,
            ("pytorch", fresh): 3.0, ("openvino", reused): 1.2}  # fmt: skip
    inference = next(t for t in batch_norm.TARGETS if t.title == "inference")
    assert inference.ratios(results_of(took)) == {fresh: 1.5, reused: 1.2}


def test_a_limit_competes_with_no_one() -> None:
    forward = Case(batch_norm.FORWARD, LARGE, LAST, True)
    copy = Case(batch_norm.COPY, LARGE, LAST, True)
    results = results_of({("nbnorm", forward): 3.0, ("limits", copy): 2.0})
    assert batch_norm.over_limit(batch_norm.FORWARD, LAST)(results) == {forward: 1.5}
    assert results.rivals(copy) == {}


# ----------------------------------------------------------------------------------- the output


@pytest.fixture
def stored() -> Results:
    forward = Case(batch_norm.FORWARD, LARGE, FIRST)
    results = results_of(CASES)
    results.missing["jax"] = "not installed: No module named 'jax'"
    results.refusals.append(Refusal("onednn", forward, "disagrees", "largest error 1.0e-02"))
    return results


def test_results_survive_json(stored: Results, tmp_path: Path) -> None:
    save(tmp_path / "stored.json", {"batch_norm": stored})
    assert load(tmp_path / "stored.json") == {"batch_norm": stored}
    assert load(tmp_path / "no.json") == {}


def cells_of(table: str, title: str) -> list[str]:
    """The row of a table that begins so."""
    row = next(line for line in table.splitlines() if line.startswith(f"| {title}"))
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_targets_table(stored: Results) -> None:
    printed = tables.targets(stored, batch_norm)
    assert cells_of(printed, "training forward, channels-first (") == [
        "training forward, channels-first (1)", "PyTorch eager, same layout", "7.00 x", "6 x",
        "7.00 x at 32x64x112x112", "1.5 x", "yes",
    ]  # fmt: skip
    assert "not measured" in printed


def test_the_short_table_has_every_library_in_its_better_layout() -> None:
    first, last = (Case(batch_norm.BOTH, LARGE, layout) for layout in (FIRST, LAST))
    small = Case(batch_norm.BOTH, (256, 1024), ROWS)
    took = {("nbnorm", first): 3.0, ("nbnorm", last): 2.0, ("nbnorm", small): 2.0,
            ("pytorch", first): 5.0, ("pytorch", last): 6.0, ("pytorch", small): 10.0,
            ("jax", last): 4.0, ("jax", small): 1.0}  # fmt: skip
    printed = tables.short({"batch_norm": results_of(took)}, command.SUITES)
    assert cells_of(printed, "batch norm, forward and backward") == [
        "batch norm, forward and backward", "2", "3.54", "1.00", "0.50 to 2.00",
    ]  # fmt: skip
    assert "batch norm, inference" not in printed  # which was not measured
    assert printed.endswith("(float32, 2 threads, a processor; 2024-06-07)")


def test_the_picture_is_drawn(stored: Results, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="it comes with the extra bench, not with test")
    sections = {"batch_norm": stored}
    path = tmp_path / "stored.png"
    picture.draw(sections, command.SUITES, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert picture.shows(path, sections)
    stored.missing.clear()
    assert not picture.shows(path, sections)  # it is of other figures now


def test_a_mean_over_fewer_shapes_says_so(stored: Results) -> None:
    case = Case(batch_norm.FORWARD, SMALL, FIRST)
    stored.records.append(Record("nbnorm", case, (1.0,), 0.0))
    cells = cells_of(tables.summary(stored, batch_norm), "training forward, channels-first")
    assert cells[1:] == ["2", "7.00 /1"]


def test_the_report_says_who_is_missing(stored: Results) -> None:
    report = tables.report(stored, batch_norm)
    assert "JAX: not installed: No module named 'jax'" in report
    assert "oneDNN: disagrees in batch_norm_forward 32x64x112x112" in report


def test_the_command_fails_where_the_subject_is_wrong(stored: Results) -> None:
    assert not command._subject_failed(stored)
    case = stored.records[0].case
    stored.refusals.append(Refusal("nbnorm", case, "disagrees", "largest error 1.0e-02"))
    assert command._subject_failed(stored)


def test_every_peer_has_an_adapter_that_imports_without_its_library() -> None:
    for peer in PEERS.values():
        __import__(peer.adapter)
