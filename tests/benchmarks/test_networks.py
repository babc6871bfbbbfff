"""The suite of whole networks: what is fused of each, what is compared, and the table."""

from __future__ import annotations

import json
from typing import ClassVar

import pytest

from benchmarks.compare.networks import command, measure
from benchmarks.compare.networks.measure import Measured
from benchmarks.compare.networks.problems import PROBLEMS, Problem
from benchmarks.compare.networks.ways import WAYS
from benchmarks.compare.workers import NotInstalled


@pytest.mark.peer
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_network_is_fused_as_far_as_it_can_be(name, torch):
    import nbnorm.interop.torch as nbt
    from benchmarks.compare.networks import models

    problem = PROBLEMS[name]
    with torch.device("meta"):
        model = getattr(models, problem.maker)()
        x = torch.empty(problem.shape)
    norms = [m for m in model.modules() if "BatchNorm" in type(m).__name__]
    entries = nbt.report(model)
    assert len(entries) == len(norms)
    assert all("used more than once" in entry.left for entry in entries if entry.left)
    products = [entry for entry in entries if "conv2d" in entry.fused or "linear" in entry.fused]
    # In DenseNet the first norm of a layer, and the last of a block, follow no convolution.
    assert len(products) == len(norms) - (18 + 3 if name == "densenet_bc" else 0)
    y = model(x)
    assert y.shape[:2] == (len(x), problem.classes)
    assert y.shape[2:] == (x.shape[2:] if problem.by_pixel else ())


@pytest.mark.peer
def test_a_small_network_is_measured(tmp_path, torch, monkeypatch):
    small = Problem("a small MLP", "mlp", (4, 1024), 10)
    monkeypatch.setitem(PROBLEMS, "small", small)
    found = measure.measure(
        "small", small, "inference", ["eager", "converted"],
        threads=1, rounds=2, seconds=0.01, busy=False,
    )  # fmt: skip
    assert {way: len(rounds) for way, rounds in found.rounds.items()} == {
        "eager": 2,
        "converted": 2,
    }
    assert not found.refused


class OtherWorker:
    """A process that answers at once."""

    outputs: ClassVar = {"eager": {"losses": [1.0, 2.0]}, "enabled": {"losses": [1.0, 2.1]}}

    def __init__(self, way, threads):
        self.key = way.key
        if way.key not in self.outputs:
            raise NotInstalled("no such module")

    def ask(self, verb, *arguments):
        return {"prepare": self.outputs[self.key], "measure": 0.5, "load": None}[verb]

    def close(self):
        pass


def test_what_is_wrong_or_missing_is_not_timed(monkeypatch):
    monkeypatch.setattr(measure, "Worker", OtherWorker)
    found = measure.measure(
        "mlp", PROBLEMS["mlp"], "training_step", list(WAYS),
        threads=1, rounds=3, seconds=0.0, busy=False,
    )  # fmt: skip
    assert found.rounds == {"eager": [0.5] * 3}
    assert "5.0e-02 away" in found.refused.pop("enabled")
    assert set(found.refused.values()) == {"no such module"}


def test_the_table_and_the_file(tmp_path):
    found = [
        Measured("mlp", "training_step", False, {"eager": [4e-3, 2e-3, 3e-3], "converted": [2e-3]}),
        Measured("unet", "training_step", False, {"compiled": [6e-3], "converted": [1e-3]}),
        Measured("unet", "peak", False, {"eager": [100.0]}, {"converted": "it broke"}),
    ]
    text = command.report(found)
    assert "| MLP, 8 x 1024             | 3       | -             | 2                 |" in text
    rows = {
        line.split("|")[1].strip(): line.split("|")[-2].strip()
        for line in text.splitlines()
        if "|" in line
    }
    assert rows["MLP, 8 x 1024"] == "1.50"
    assert "3.00" in text  # the geometric mean of 1.5 and 6
    assert "- nbnorm, convert(), unet, peak: it broke" in text
    for measured in (*found, found[0]):
        command._keep(tmp_path / "networks.json", measured, 2)
    kept = json.loads((tmp_path / "networks.json").read_text())
    assert list(kept) == ["mlp training_step", "unet training_step", "unet peak"]
