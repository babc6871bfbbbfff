"""The suite of L1 and L2 normalization: its truth, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.compare.peers import PEERS
from benchmarks.compare.protocol import FIRST, Case, Given
from benchmarks.compare.suites import normalize
from nbnorm import reference

SHAPE = (6, 5, 4, 3)


@pytest.mark.parametrize("kind", ["l1", "l2", "activation"])
def test_the_truth_is_the_references(kind: str) -> None:
    problem = normalize.Problem(SHAPE)
    x, dy = problem.values["x"], problem.values["dy"]
    if kind == "activation":
        options = {"axis": (1, 2, 3), "eps": normalize.BATCH_EPS}
        y = reference.batch_norm_forward(x, **options)
        dx = reference.batch_norm_backward(dy, x, **options).dx
    else:
        y = getattr(reference, f"{kind}_normalize_forward")(x)
        dx = getattr(reference, f"{kind}_normalize_backward")(dy, x)
    case = Case(f"normalize_{kind}_forward_backward", SHAPE, FIRST)
    assert problem.error(case, {"y": y, "dx": dx}) < 1e-12
    assert problem.error(case, {"y": y, "dx": dx * 1.1}) > 0.09
    assert np.isnan(problem.error(case, {"y": y * np.nan, "dx": dx}))


@pytest.mark.parametrize("operation", normalize.OPERATIONS)
def test_nbnorm_does_each_operation(operation: str) -> None:
    from benchmarks.compare.peers.nbnorm import Adapter

    problem, case = normalize.Problem(SHAPE), Case(operation, SHAPE, FIRST)
    call = getattr(Adapter(1), operation)(Given(case, problem.arranged(FIRST)))
    outputs = call.read(call.run())
    assert set(outputs) == ({"y", "dx"} if operation in normalize.STEPS else {"y"})
    assert problem.error(case, outputs) < 1e-5


def test_the_peers_that_take_part() -> None:
    doing = [key for key, peer in PEERS.items() if peer.does("normalize_l2_forward")]
    assert doing == ["nbnorm", "pytorch", "pytorch_compiled", "jax", "tensorflow"]
