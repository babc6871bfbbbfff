"""Libraries held to narrower registers than the processor has."""

from __future__ import annotations

import platform
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.compare import __main__ as command
from benchmarks.compare.results import load
from benchmarks.compare.session import Options, Session, _peers
from benchmarks.tools import isa, machine
from nbnorm.jit import target
from tests.benchmarks.test_compare import results_of
from tests.jit.processes import python

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="names of x86 processors"
)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What `hold` changes, instead of this process's own environment."""
    variables: dict[str, str] = {}
    monkeypatch.setattr("benchmarks.tools.isa.os.environ", variables)
    return variables


@pytest.mark.usefixtures("environment")
def test_a_run_that_is_held_says_so_and_has_files_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "run", lambda self: {s.NAME: results_of({}) for s in self.suites})
    assert isa.held() is None
    assert "onnxruntime" in [peer.key for peer in _peers(Options())]
    command.main(["batch_norm", "--isa", "avx2", "--output", str(tmp_path)])
    assert list(load(tmp_path / "avx2.json")) == ["batch_norm"]
    assert not (tmp_path / "comparison.json").exists()
    assert str(machine.describe()["processor"]).endswith("held to avx2")
    assert "onnxruntime" not in [peer.key for peer in _peers(Options())]


@pytest.mark.skipif(target.register_bytes() < 32, reason="this processor has no AVX2")
def test_nbnorm_is_held(environment: dict[str, str]) -> None:
    isa.hold("avx2")
    code = "from nbnorm.jit import target; print(target.register_bytes(), target.has_fma())"
    assert python("-c", code, **environment)[0] == "32 True\n"


@pytest.mark.peer
def test_pytorch_is_held(environment: dict[str, str], torch: ModuleType) -> None:
    isa.hold("avx2")
    code = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    assert python("-c", code, **environment)[0] == "AVX2\n"
