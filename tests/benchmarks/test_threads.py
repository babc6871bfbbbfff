"""The tables of what a parallel region costs."""

from __future__ import annotations

import sys

import pytest

from benchmarks.tools import threads


def test_pays_from_the_size_after_the_last_that_does_not():
    speedups = {"14": [0.5], "15": [1.2], "16": [0.9], "17": [1.1], "18": [1.5]}
    assert threads.pays_from(speedups, 0) == "1 << 17"
    assert threads.pays_from({"14": [1.1], "15": [1.2]}, 0) == "1 << 14"
    assert threads.pays_from({"14": [1.1], "15": [0.9]}, 0) == "none of these"


def test_tables_have_a_row_for_each_layer_and_size():
    speedups = {
        constant: {str(power): [1.5] * len(threads.IDLE) for power in powers}
        for constant, (_, powers) in threads.KINDS.items()
    }
    found = {
        layer: {"region": [1.0] * len(threads.IDLE), "speedups": speedups}
        for layer in ("tbb", "omp")
    }
    region, *tables = threads.tables(found)
    assert len(region.splitlines()) == 2 + len(found)
    assert len(tables) == len(threads.KINDS)
    for table, (_, powers) in zip(tables, threads.KINDS.values(), strict=True):
        assert len(table.splitlines()) == 2 + len(found) * (len(powers) + 1)
        assert f"1 << {powers[0]}" in table


def launchers():
    import nbnorm.operations  # noqa: F401  imports them

    return [module for name, module in sys.modules.items() if name.startswith("nbnorm.launch.")]


@pytest.mark.slow
@pytest.mark.alone
def test_a_layer_is_measured(monkeypatch):
    """A few calls of one size of each kind."""
    kinds = {name: (make, powers[-1:]) for name, (make, powers) in threads.KINDS.items()}
    monkeypatch.setattr(threads, "KINDS", kinds)
    for module in launchers():  # whose constants are restored
        for constant in kinds:
            if hasattr(module, constant):
                monkeypatch.setattr(module, constant, getattr(module, constant))
    measured = threads._measured(0.01)
    assert len(measured["region"]) == len(threads.IDLE)
    assert all(
        speedup > 0
        for rows in measured["speedups"].values()
        for row in rows.values()
        for speedup in row
    )
