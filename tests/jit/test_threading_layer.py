"""Which threading layer runs the kernels, and what its start leaves as it was."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from numba.core import config

from nbnorm import forks
from nbnorm.jit import openmp, threading_layer
from nbnorm.jit.cache import cache_root
from tests.jit.processes import Process, environment
from tests.jit.test_threads import is_missing

NUMBAS, OPENMP_FIRST, OPENMP_LAST = (
    ["tbb", "omp", "workqueue"], ["omp", "tbb", "workqueue"], ["tbb", "workqueue", "omp"],
)  # fmt: skip


@pytest.fixture
def chosen(monkeypatch):
    """What is chosen in a process of which so much is true."""

    def choose(
        *, layer="default", order=NUMBAS, platform="linux", forked=False, child=False, loaded=False,
        available=True,
    ) -> threading_layer.Choice:  # fmt: skip
        process = SimpleNamespace(parent_process=lambda: child or None)
        monkeypatch.setattr(config, "THREADING_LAYER", layer)
        monkeypatch.setattr(config, "THREADING_LAYER_PRIORITY", order)
        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.setitem(sys.modules, "multiprocessing.process", process)
        monkeypatch.setattr(forks, "is_forked", lambda: forked)
        monkeypatch.setattr(openmp, "loaded", lambda: loaded or None)
        monkeypatch.setattr(openmp, "is_available", lambda: available)
        return threading_layer.choose()

    return choose


def test_numba_s_own_order_where_nothing_is_to_be_shared(chosen):
    assert chosen().order == NUMBAS
    assert "no OpenMP is loaded" in chosen().reason


def test_openmp_where_it_is_loaded(chosen):
    choice = chosen(loaded=True)
    assert choice.order == OPENMP_FIRST
    assert "shared" in choice.reason


def test_tbb_where_numba_finds_no_openmp(chosen):
    choice = chosen(loaded=True, available=False)
    assert choice.order == NUMBAS
    assert "libgomp.so.1.0.0" in choice.reason


@pytest.mark.parametrize("process", [{"forked": True}, {"child": True}, {"platform": "darwin"}])
def test_no_openmp_where_it_may_hang_or_abort(process, chosen):
    for loaded in (False, True):
        assert chosen(loaded=loaded, **process).order == OPENMP_LAST


@pytest.mark.parametrize("process", [{}, {"forked": True}, {"loaded": True}])
def test_the_user_s_word_comes_first(process, chosen):
    assert "NUMBA_THREADING_LAYER says" in chosen(layer="omp", **process).reason
    order = ["workqueue", "omp", "tbb"]
    choice = chosen(order=order, **process)
    assert choice.order == order
    assert "PRIORITY says" in choice.reason


# --- in processes ---------------------------------------------------------------------------

CALL = """
import json, os, sys
import numpy as np

def task_count():
    return len(os.listdir("/proc/self/task"))

def call():
    import nbnorm
    nbnorm.batch_norm_forward(np.ones((16, 32, 28, 28), np.float32))
    print(json.dumps({**nbnorm.threading()._asdict(), "tasks": task_count()}), flush=True)

def use_torch(threads=None):
    import torch
    if threads:
        torch.set_num_threads(threads)
    torch.ones(1 << 20).add(1).sum()
    return torch
"""

needs_tbb = pytest.mark.skipif(is_missing("tbb"), reason="no TBB here")
needs_openmp = pytest.mark.skipif(
    is_missing("omp") or not sys.platform.startswith("linux"), reason="no OpenMP to share here"
)


def told(code: str, **variables: Any) -> list[Any]:
    """What a process prints, by lines of JSON."""
    variables = {"NUMBA_CACHE_DIR": cache_root(), "NUMBA_NUM_THREADS": 2, **variables}
    arguments = ("-W", "ignore", "-c", CALL + code)
    return Process(*arguments, env=environment(**variables)).records()


@needs_tbb
def test_the_status_starts_nothing():
    code = """
import nbnorm, numba
status = nbnorm.threading()
try:
    numba.threading_layer()
except ValueError:
    print(json.dumps(status._asdict()))
call()
"""
    before, after = told(code)
    assert (before["layer"], before["threads"]) == (None, 2)
    assert "nothing has run in parallel yet" in before["reason"]
    assert (after["layer"], after["threads"]) == ("tbb", 2)
    assert "no OpenMP is loaded" in after["reason"]


def test_a_layer_that_other_code_started():
    [status] = told("import numba; numba.get_num_threads(); call()")
    assert status["layer"] is not None
    assert "other code" in status["reason"]


@needs_openmp
def test_another_library_s_openmp_is_shared():
    [status] = told("import ctypes; ctypes.CDLL('libgomp.so.1.0.0'); call()")
    assert status["layer"] == "omp"


@pytest.mark.peer
@needs_openmp
@needs_tbb
@pytest.mark.parametrize("imports", ["", "import nbnorm.jit.threads"], ids=["first", "second"])
def test_pytorch_s_threads_are_shared(imports, torch):
    """Imported before this library or after it, but before its first call."""
    code = f"""
try:
    import scipy.linalg  # which Numba imports, and whose BLAS has threads too
except ImportError:
    pass
{imports}
use_torch()
before = task_count()
call()
print(json.dumps({{"before": before}}))
"""
    status, counts = told(code)
    assert (status["layer"], status["threads"]) == ("omp", 2)
    assert "shared" in status["reason"]
    assert status["tasks"] == counts["before"]


@pytest.mark.peer
@needs_openmp
@pytest.mark.parametrize("layer", [None, "omp"])
def test_pytorch_s_number_of_threads_stays(layer, torch):
    variables = {} if layer is None else {"NUMBA_THREADING_LAYER": layer}
    code = """
torch = use_torch(threads=1)
call()
print(json.dumps({"threads": torch.get_num_threads()}))
"""
    status, counts = told(code, **variables)
    assert status["layer"] == "omp"
    assert counts == {"threads": 1}


@pytest.mark.peer
@needs_tbb
def test_pytorch_that_comes_later_is_told_of(torch):
    code = """
call()
use_torch()
call()
"""
    first, second = told(code)
    assert (first["layer"], second["layer"]) == ("tbb", "tbb")
    assert "afterwards" not in first["reason"]
    assert "an OpenMP was loaded afterwards" in second["reason"]


@pytest.mark.peer
@needs_tbb
@needs_openmp
def test_without_numba_s_openmp_pytorch_has_threads_of_its_own(torch):
    [status] = told("sys.modules['numba.np.ufunc.omppool'] = None; use_torch(); call()")
    assert status["layer"] == "tbb"
    assert "libgomp.so.1.0.0" in status["reason"]


FORKS = """
torch = use_torch()
child = os.fork()
if child == 0:
    call()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.peer
@needs_tbb
@needs_openmp
def test_a_server_that_loads_pytorch_and_forks(torch):
    """Its children alone import nbnorm."""
    [status] = told(FORKS)
    assert (status["layer"], status["threads"]) == ("tbb", 2)
    [status] = told(FORKS, NUMBA_THREADING_LAYER="omp")
    assert (status["layer"], status["threads"]) == ("omp", 1)
    assert "OpenMP may hang" in status["reason"]


@pytest.mark.peer
@needs_openmp
def test_a_server_that_forks_without_tbb(torch):
    code = """
from nbnorm.jit import tbb
tbb.load = lambda: None
sys.modules["numba.np.ufunc.tbbpool"] = None
"""
    [status] = told(FORKS.replace("    call()", code.replace("\n", "\n    ") + "\n    call()"))
    assert (status["layer"], status["threads"]) == ("workqueue", 2)


@pytest.mark.peer
@needs_tbb
@needs_openmp
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_workers_of_a_process_with_pytorch(method, torch, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        CALL
        + f"""
def child():
    if {method!r} != "fork":  # PyTorch itself hangs there
        use_torch()
    call()

if __name__ == "__main__":
    import multiprocessing
    use_torch()
    call()
    process = multiprocessing.get_context({method!r}).Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 0
"""
    )
    env = environment(NUMBA_CACHE_DIR=cache_root(), NUMBA_NUM_THREADS=2)
    out = Process("-W", "ignore", str(script), env=env).output()[0]
    parent, child = map(json.loads, out.splitlines())
    assert parent["layer"] == "omp"
    if method == "fork":  # it has its parent's layer, and must not use it
        assert (child["layer"], child["threads"]) == ("omp", 1)
    else:
        assert (child["layer"], child["threads"]) == ("tbb", 2)
