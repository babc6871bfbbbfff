"""The suites of layers: their data and truth, what is refused, the targets, and the memory."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from benchmarks.accuracy import truth
from benchmarks.compare import __main__ as command
from benchmarks.compare import picture, tables
from benchmarks.compare.peers import PEERS, Peer
from benchmarks.compare.protocol import FIRST, LAST, ROWS, Case, Given, Shape, Unsupported
from benchmarks.compare.results import Resident, Results, load, save
from benchmarks.compare.runner import Comparison
from benchmarks.compare.suites import conv2d_batch_norm, dense_batch_norm
from benchmarks.compare.suites.layers import Problem
from benchmarks.compare.targets import judge
from tests.benchmarks.test_compare import results_of, stand_in

DENSE: Shape = (33, 5, 7)
CONV: Shape = (2, 4, 6, 6, 3, 2, 1, 2)
SUITES = [(dense_batch_norm, DENSE), (conv2d_batch_norm, CONV)]
QUICK = {"threads": 1, "rounds": 3, "seconds": 0.001}


def compared(suite: ModuleType, shape: Shape, peers: list[Peer]) -> Results:
    comparison = Comparison(suite, peers, **QUICK)
    return comparison.run(comparison.plan([shape], suite.OPERATIONS))


def stored(suite: ModuleType, seconds: dict[tuple[str, Case], float]) -> Results:
    """Results of a suite in which each library took so long."""
    results = results_of(seconds)
    results.suite = suite.NAME
    return results


# --------------------------------------------------------------------------------------- the run


@pytest.mark.parametrize(("suite", "shape"), SUITES)
def test_a_layer_that_is_right_is_timed_beside_its_separate_calls(
    suite: ModuleType, shape: Shape
) -> None:
    results = compared(suite, shape, [stand_in("nbnorm", "right"), stand_in("separate", "right"),
                                      stand_in("pytorch", "wrong")])  # fmt: skip
    case = Case(suite.BOTH, shape, suite.layouts(shape)[0])
    assert results.ratio("separate", case) > 0
    assert results.rivals(case) == {}  # separate calls are a yardstick
    (refusal,) = (r for r in results.refusals if r.kind == "disagrees")
    assert (refusal.peer, refusal.case) == ("pytorch", case)  # its ReLU lets every gradient pass


def test_a_library_without_the_operations_is_not_started() -> None:
    results = compared(dense_batch_norm, DENSE, [PEERS["limits"], PEERS["onednn"]])
    assert (results.versions, results.missing) == ({}, {})


@pytest.mark.parametrize(("suite", "shape"), SUITES)
def test_no_input_of_a_relu_is_so_small_that_rounding_decides(
    suite: ModuleType, shape: Shape
) -> None:
    problem = suite.Problem(shape)
    v, product = problem.values, problem.product
    z = truth.as_ncp(product.forward(v["x"], v["weight"]))
    exact = truth.training(z, z, v["gamma"], v["beta"], v["eps"])
    passed = truth.as_ncp(v["dy"]) != 0
    assert np.all(np.abs(exact.values["y"][passed]) > (exact.scales["y"] + 0 * z)[passed] * 1e-3)
    assert passed.mean() > 0.9


@pytest.mark.parametrize(("suite", "shape"), SUITES)
def test_the_truth_agrees_with_finite_differences(suite: ModuleType, shape: Shape) -> None:
    problem: Problem = suite.Problem(shape)
    values = {k: np.float64(v) for k, v in problem.values.items() if isinstance(v, np.ndarray)}
    exact = problem._truth(suite.BOTH).values

    def loss(**changed: np.ndarray) -> float:
        v = values | changed
        z = truth.as_ncp(problem.product.forward(v["x"], v["weight"]))
        y = truth.training(z, z, v["gamma"], v["beta"], 1e-5, relu=True).values["y"]
        return np.sum(y * truth.as_ncp(v["dy"]))

    for name in ("x", "weight", "gamma", "beta"):
        value, h = values[name], 1e-6
        gradient = exact[f"d{name}"].reshape(value.shape)
        for i in list(np.ndindex(value.shape))[:: max(1, value.size // 20)]:
            step = np.zeros_like(value)
            step[i] = h
            slope = (loss(**{name: value + step}) - loss(**{name: value - step})) / (2 * h)
            assert slope == pytest.approx(gradient[i], abs=1e-6 * max(1, abs(slope)))


def test_channels_last_outputs_are_understood() -> None:
    problem = conv2d_batch_norm.Problem(CONV)
    exact, shape = problem._truth(conv2d_batch_norm.BOTH).values, problem.product.y_shape
    y = exact["y"].reshape(shape)
    case = Case(conv2d_batch_norm.BOTH, CONV, LAST)
    assert problem.error(case, {"y": np.moveaxis(y, 1, -1)}) == 0
    assert problem.error(case, {"y": y}) > 0.1
    moved = problem.arranged(LAST)
    assert moved["x"].flags.c_contiguous
    np.testing.assert_array_equal(np.moveaxis(moved["x"], -1, 1), problem.values["x"])


@pytest.mark.peer
@pytest.mark.parametrize("shape", [CONV, (2, 3, 9, 8, 3, 1, 2), (3, 6, 5, 6, 3, 1, 1, 6), DENSE])
@pytest.mark.parametrize("key", ["nbnorm", "separate", "numpy", "pytorch", "onnxruntime",
                                 "openvino", "jax"])  # fmt: skip
def test_a_peer_computes_the_layer(key: str, shape: Shape) -> None:
    suite = dense_batch_norm if shape == DENSE else conv2d_batch_norm
    try:
        adapter = __import__(PEERS[key].adapter, fromlist=["Adapter"]).Adapter(1)
    except ImportError as error:
        pytest.skip(str(error))
    problem = suite.Problem(shape)
    for layout in suite.layouts(shape):
        for case in suite.cases(shape, layout, suite.OPERATIONS):
            if method := getattr(adapter, case.operation, None):
                try:
                    call = method(Given(case, problem.arranged(layout)))
                except Unsupported:
                    continue
                assert problem.error(case, call.read(call.run())) < suite.TOLERANCE, case


# ----------------------------------------------------------------------------------- the targets


def test_one_row_is_for_inference_alone() -> None:
    every = dense_batch_norm.cases(dense_batch_norm.ONE_ROW, ROWS, dense_batch_norm.OPERATIONS)
    assert {case.operation for case in every} == {dense_batch_norm.INFERENCE}


def test_a_target_may_select_shapes() -> None:
    plain = (16, 64, 56, 64, 3, 1)
    others = [s for s in conv2d_batch_norm.SHAPES if not conv2d_batch_norm.is_3x3_of_stride_1(s)]
    assert len(conv2d_batch_norm.SHAPES) == 22
    assert len(others) == 13
    assert plain not in others
    took = {}
    for shape, ours in ((plain, 1.0), (others[0], 2.0)):
        took["nbnorm", Case(conv2d_batch_norm.BOTH, shape, FIRST)] = ours
        took["pytorch", Case(conv2d_batch_norm.BOTH, shape, LAST)] = 2.0
    verdicts = judge(stored(conv2d_batch_norm, took), conv2d_batch_norm.TARGETS)
    found = {v.target.title: [*v.ratios.values()] for v in verdicts if v.ratios}
    assert found == {"training forward + backward, 3x3 stride 1": [2.0],
                     "training forward + backward, all": [2.0, 1.0]}  # fmt: skip


def test_fused_is_held_against_separate_calls_in_the_better_layout_of_each() -> None:
    shape = conv2d_batch_norm.SHAPES[0]
    first, last = (Case(conv2d_batch_norm.BOTH, shape, layout) for layout in (FIRST, LAST))
    took = {("nbnorm", first): 2.0, ("nbnorm", last): 4.0,
            ("separate", first): 9.0, ("separate", last): 3.0, ("pytorch", first): 1.0}  # fmt: skip
    fused = next(t for t in conv2d_batch_norm.TARGETS if "fused" in t.title)
    assert list(fused.ratios(stored(conv2d_batch_norm, took)).values()) == [1.5]


def test_a_yardstick_has_a_column_and_the_limit_has_none() -> None:
    case = Case(dense_batch_norm.PRODUCT, dense_batch_norm.SHAPES[0], ROWS)
    results = stored(dense_batch_norm, {("nbnorm", case): 1e-3, ("numpy", case): 2e-3})
    header, _, row = tables.shape_table(results, dense_batch_norm, [case]).splitlines()
    assert [cell.strip() for cell in header.strip("|").split("|")] == [
        "n x c x k", "nbnorm ms", "NumPy",
    ]  # fmt: skip
    assert row.strip("|").split("|")[-1].strip() == "2.00"
    (verdict,) = (v for v in judge(results, dense_batch_norm.TARGETS) if v.ratios)
    assert (verdict.target.against, verdict.mean) == ("NumPy's matmul", 2.0)


def test_only_takes_operations_of_other_names_too() -> None:
    names = command._short_names(dense_batch_norm)
    assert names["dense_forward"] == "dense_forward"
    assert names["inference"] == "dense_batch_norm_inference"


# ------------------------------------------------------------------------------------ the memory


@pytest.mark.skipif(sys.platform != "linux", reason="peaks of memory are read from /proc")
def test_memory_is_measured_and_compared() -> None:
    peers = [stand_in("nbnorm", "frugal"), stand_in("pytorch", "right")]
    comparison = Comparison(conv2d_batch_norm, peers, **QUICK)
    comparison.measure_memory(conv2d_batch_norm.memory_cases(), conv2d_batch_norm.MEMORY_PEERS)
    found = {m.peer: m.mebibytes for m in comparison.results.memory if m.case.layout == FIRST}
    assert found["nbnorm"] == pytest.approx(32, abs=4)  # one result at a time
    assert found["pytorch"] == pytest.approx(64, abs=4)
    (ratio,) = conv2d_batch_norm.over_pytorch(comparison.results).values()
    assert ratio == pytest.approx(0.5, abs=0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="peaks of memory are read from /proc")
def test_memory_of_something_else_is_refused() -> None:
    peers = [stand_in("nbnorm", "right"), stand_in("pytorch", "wrong")]
    comparison = Comparison(conv2d_batch_norm, peers, **QUICK)
    comparison.measure_memory(conv2d_batch_norm.memory_cases()[:1], ["nbnorm", "pytorch"])
    assert [m.peer for m in comparison.results.memory] == ["nbnorm"]
    assert [(r.peer, r.kind) for r in comparison.results.refusals] == [("pytorch", "disagrees")]
    assert conv2d_batch_norm.over_pytorch(comparison.results) == {}


@pytest.fixture
def measured() -> Results:
    case = Case(conv2d_batch_norm.BOTH, conv2d_batch_norm.SHAPES[0], FIRST)
    took = {("nbnorm", case): 0.01, ("pytorch", case): 0.02}
    results = stored(conv2d_batch_norm, took)
    (first, _) = conv2d_batch_norm.memory_cases()
    results.memory += [Resident("nbnorm", first, 150.0), Resident("pytorch", first, 200.0)]
    return results


def test_memory_survives_json_and_is_printed(measured: Results, tmp_path: Path) -> None:
    sections = {measured.suite: measured}
    save(tmp_path / "stored.json", sections)
    assert load(tmp_path / "stored.json") == sections
    printed = tables.report(measured, conv2d_batch_norm)
    assert "150 MiB" in printed
    row = next(line for line in printed.splitlines() if "resident memory" in line)
    assert [cell.strip() for cell in row.strip("|").split("|")][2:4] == ["0.75 x", "at most 0.9 x"]


def test_the_picture_is_drawn(measured: Results, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="it comes with the extra bench, not with test")
    picture.draw({measured.suite: measured}, command.SUITES, tmp_path / "stored.png")
    assert (tmp_path / "stored.png").read_bytes().startswith(b"\x89PNG")
