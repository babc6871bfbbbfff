"""What only POSIX systems have is asked for before it is used: here it is taken away.

Users' numbers stay: platformdirs, a dependency, tells systems apart by its own means.
"""

from __future__ import annotations

import pytest

from tests.jit.processes import REPOSITORY, python

WITHOUT = """
import os
import signal

for module, names in (
    (os, "fork forkpty register_at_fork killpg sched_getaffinity sched_setaffinity "
         "getloadavg sysconf_names"),
    (signal, "SIGALRM SIGUSR1 SIGSTOP setitimer"),
):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
"""

CALL = (
    WITHOUT
    + """
import numpy as np
import nbnorm
from nbnorm import cli

x = np.random.default_rng(0).normal(3.0, 2.0, (32, 16, 32, 32)).astype(np.float32)
y, context = nbnorm.batch_norm_forward(x)
dx = nbnorm.batch_norm_backward(x, context).dx
print(abs(float(y.mean())) < 1e-5, abs(float(y.std()) - 1) < 1e-4, bool(np.isfinite(dx).all()))
assert cli.main(["info"]) == 0
"""
)

# PyTorch built for POSIX needs register_at_fork itself.
COLLECT = (
    """
try:
    import torch
except ImportError:
    pass
"""
    + WITHOUT
    + """
import sys
import pytest
sys.exit(pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", "src", "tests"]))
"""
)


def test_calls_and_info():
    out, _ = python("-c", CALL)
    told = out.splitlines()
    assert told[0] == "True True True"
    assert any(line.startswith("caches") for line in told)


@pytest.mark.slow
def test_every_test_is_collected():
    out, _ = python("-c", COLLECT, cwd=REPOSITORY)
    assert "tests/bounds/test_bounds.py" in out
    assert "error" not in out.splitlines()[-1]
