"""Running statistics of many batches at once, and of several copies of a layer."""

from __future__ import annotations

import numpy as np
import pytest

from nbnorm.distributed import synchronized
from nbnorm.layers import (
    BatchNorm,
    Conv2dBatchNorm,
    CrossIterationBatchNorm,
    Dense,
    DenseBatchNorm,
    Flatten,
    Sequential,
    merge_running_statistics,
    update_statistics,
)

F8 = {"dtype": np.float64}


# --- of many batches ------------------------------------------------------------------------


def network():
    return Sequential(
        Conv2dBatchNorm(2, 3, 3, rng=0, running_var="biased", **F8),
        Flatten(),
        Sequential(
            DenseBatchNorm(12, 5, rng=1, **F8), Dense(5, 4, rng=2, **F8), BatchNorm(4, **F8)
        ),
    )


@pytest.mark.parametrize("training", [True, False])
def test_statistics_are_those_of_all_batches(rng, training):
    """Of what each batch norm is given, by the statistics of its batch in front of it."""
    net = network().train(training)
    batches = [rng.normal(1, 2, (n, 2, 4, 4)) for n in (6, 3, 9)]
    before = net.state_dict()
    update_statistics(net, iter(batches))
    twin = network().train()
    seen = {"0": [], "2.0": [], "2.2": []}
    for batch in batches:
        _, contexts = twin.forward(batch)
        conv, _, rest = contexts.contexts
        seen["0"].append(conv.normalization.x.transpose(0, 2, 3, 1).reshape(-1, 3))
        seen["2.0"].append(batch_of(rest.contexts[0]))
        seen["2.2"].append(rest.contexts[2].x)
    after = net.state_dict()
    for name, parts in seen.items():
        whole = np.concatenate(parts)
        np.testing.assert_allclose(after[f"{name}.running_mean"], whole.mean(axis=0), atol=1e-13)
        ddof = 0 if name == "0" else 1
        var = whole.var(axis=0, ddof=ddof)
        np.testing.assert_allclose(after[f"{name}.running_var"], var, rtol=1e-12)
    for name, value in before.items():
        if "running" not in name:
            np.testing.assert_array_equal(after[name], value)
    assert net.training is training


def batch_of(context):
    """The product that was normalized."""
    return context.x @ context.weight.T


def test_other_processes_count_too(rng):
    class Twice:
        """As if another process had the same batches."""

        def allgather(self, array):
            return [array, array]

    x = rng.normal(size=(6, 3))
    layer = synchronized(BatchNorm(3, **F8), Twice())
    exchange = layer.exchange
    update_statistics(layer, [x])
    np.testing.assert_allclose(layer.running_var, np.tile(x, (2, 1)).var(axis=0, ddof=1))
    assert layer.exchange is exchange


@pytest.mark.parametrize(
    ("layer", "batches", "error", "message"),
    [
        (3, [], TypeError, "layer is 3"),
        (Dense(3, 2), [], ValueError, "layer is Dense.* running statistics"),
        (BatchNorm(3, track_running_stats=False), [], ValueError, "running statistics"),
        (BatchNorm(3).freeze(), [], ValueError, "that are not frozen"),
        (CrossIterationBatchNorm(3, window=2), [], ValueError, "batch norms of single batches"),
        (BatchNorm(3), np.ones((4, 3)), TypeError, "batches is array"),
        (BatchNorm(3), [], ValueError, "one batch or more"),
    ],
)
def test_update_refuses(layer, batches, error, message):
    with pytest.raises(error, match=f"update_statistics: .*{message}"):
        update_statistics(layer, batches)


def test_a_batch_that_is_refused_leaves_everything(rng):
    layer = BatchNorm(3, **F8).eval()
    layer.running_mean[...] = 7
    before = layer.state_dict()
    with pytest.raises(ValueError, match=r"BatchNorm.forward: x is"):
        update_statistics(layer, [rng.normal(size=(4, 3)), rng.normal(size=(4, 2))])
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    assert layer.exchange is None
    assert not layer.training


# --- of several copies ----------------------------------------------------------------------


def test_merged_statistics_are_those_of_all_data(rng):
    parts = [rng.normal(mean, 1 + mean, (n, 3)) for mean, n in ((0, 10), (2, 30), (5, 7))]
    states = []
    for part in parts:
        layer = Sequential(BatchNorm(3, momentum=1.0, running_var="biased", **F8))
        layer(part)
        states.append(layer.state_dict())
    merged = merge_running_statistics(states, [len(part) for part in parts])
    whole = np.concatenate(parts)
    assert sorted(merged) == ["0.running_mean", "0.running_var"]
    np.testing.assert_allclose(merged["0.running_mean"], whole.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(merged["0.running_var"], whole.var(axis=0), rtol=1e-12)
    means, variances = (
        np.array([state[f"0.running_{name}"] for state in states]) for name in ("mean", "var")
    )
    within = np.average(variances, axis=0, weights=[10, 30, 7])
    between = np.average((means - whole.mean(axis=0)) ** 2, axis=0, weights=[10, 30, 7])
    np.testing.assert_allclose(merged["0.running_var"], within + between, rtol=1e-12)
    assert (between > 0.1 * within).all()  # a mean of the variances would be wrong


STATE = {"running_mean": np.zeros(2), "running_var": np.ones(2)}


@pytest.mark.parametrize(
    ("states", "counts", "error", "message"),
    [
        (STATE, [1], TypeError, "states is dict"),
        ([3], [1], TypeError, "states is 3"),
        ([], [], ValueError, r"counts is \[\]"),
        ([STATE], [1, 2], ValueError, r"counts is \[1, 2\]"),
        ([STATE], [0], ValueError, r"counts is \[0\]"),
        ([STATE], ["1"], TypeError, "counts is '1'"),
        ([STATE, {}], [1, 2], ValueError, "states differ in .*running_mean"),
        ([{"running_mean": np.zeros(2)}], [1], ValueError, "expected running_var too"),
        ([STATE, {k: v[:1] for k, v in STATE.items()}], [1, 1], ValueError, r"shape \(2,\)"),
        ([STATE | {"running_var": -np.ones(2)}], [1], ValueError, "var is -1.0"),
    ],
)
def test_merge_refuses(states, counts, error, message):
    with pytest.raises(error, match=message):
        merge_running_statistics(states, counts)
