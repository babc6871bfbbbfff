"""The digits network for many steps: memory stays flat, the loss finite, the bits the same."""

from __future__ import annotations

import gc
import hashlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "train_digits.py"
WARMING = 100  # steps after which memory is to stay as it is

# Python's own allocator takes 256 KiB to 1 MiB at a time, and which step needs the next piece is
# chance; a leak of one activation (32 KiB) a step would be 600 MiB in 20,000.
ALLOWED_GROWTH = 2 << 20


@pytest.fixture
def example() -> Any:
    for package in ("matplotlib", "sklearn", "tqdm"):
        pytest.importorskip(package)
    spec = importlib.util.spec_from_file_location("train_digits", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def resident_bytes() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def train(example: Any, steps: int) -> tuple[str, int, int]:
    """The digest of all losses and of the parameters in the end, and memory early and late."""
    data = example.load()
    net = example.network(batch_norm=True, seed=0)
    optimizer = example.SGD(net, 0.01, example.MOMENTUM)
    rng = np.random.default_rng(0)
    losses = np.zeros(steps)
    early = 0
    for step in range(steps):
        if step == WARMING:
            early = resident_bytes()
        batch = rng.integers(len(data.train_images), size=example.BATCH)
        losses[step], dlogits = example.cross_entropy(
            net(data.train_images[batch]), data.train_digits[batch]
        )
        net.backward(dlogits)
        optimizer.step()
        optimizer.zero_grad()
    late = resident_bytes()
    assert np.isfinite(losses).all()
    assert losses[-10:].mean() < losses[:10].mean()
    digest = hashlib.sha256(losses)
    for array in net.state_dict().values():
        assert np.isfinite(array).all()
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest(), early, late


def check(example: Any, steps: int) -> str:
    first, early, late = train(example, steps)
    second, early_again, late_again = train(example, steps)
    assert first == second
    assert max(late - early, late_again - early_again) <= ALLOWED_GROWTH
    return (
        f"{early / 2**20:.1f} MiB after {WARMING} steps, {late / 2**20:.1f} after {steps:,}, "
        f"and in the second run {early_again / 2**20:.1f} and {late_again / 2**20:.1f}"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_short_run(example):
    check(example, 300)


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_long_run(example, tally, capsys):
    said = check(example, 20_000)
    tally("training steps", 40_000)
    with capsys.disabled():
        sys.stdout.write(f"\nresident memory: {said}\n")
