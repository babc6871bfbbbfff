"""The asv suite of what a process pays once: the import, compiling, loading what was compiled.

Each is timed in a process of its own (`timeraw_`): a statement, after a setup that is not timed.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import textwrap

PREPARE = """
import numpy as np
import nbnorm
rng = np.random.default_rng(0)
"""

# The names of functions are looked up here: only importing them imports their modules.
OPERATIONS = {
    "batch norm": """
from nbnorm import batch_norm_backward, batch_norm_forward
x = rng.standard_normal((32, 64, 28, 28), dtype=np.float32)
def step():
    _, context = batch_norm_forward(x, np.ones(64), np.zeros(64))
    batch_norm_backward(x, context)
""",
    "dense + batch norm": """
from nbnorm import dense_batch_norm_backward, dense_batch_norm_forward
x, weight = (rng.standard_normal(shape, dtype=np.float32) for shape in ((512, 256), (256, 256)))
def step():
    _, context = dense_batch_norm_forward(x, weight, np.ones(256), np.zeros(256))
    dense_batch_norm_backward(x, context)
""",
    "conv2d + batch norm": """
from nbnorm import conv2d_batch_norm_backward, conv2d_batch_norm_forward
x, weight = (rng.standard_normal(shape, np.float32) for shape in ((4, 32, 28, 28), (32, 32, 3, 3)))
def step():
    _, context = conv2d_batch_norm_forward(x, weight, np.ones(32), np.zeros(32), padding=1)
    conv2d_batch_norm_backward(x, context)
""",
}

# The folder goes when the process ends.
EMPTY_CACHE = """
import os, tempfile
folder = tempfile.TemporaryDirectory()
os.environ["NUMBA_CACHE_DIR"] = folder.name
"""


PROCESSES = 7  # whose median is taken

IMPORTS = """
import time
start = time.perf_counter()
import numba
between = time.perf_counter()
from nbnorm import batch_norm_forward
print(between - start, time.perf_counter() - between)
"""


class Import:
    """Seconds until the first name is there."""

    number = 1
    repeat = 5
    rounds = 1
    warmup_time = 0

    def setup(self) -> None:
        import nbnorm  # noqa: F401  writes the bytecode

    def timeraw_nbnorm(self) -> str:
        return "from nbnorm import batch_norm_forward"

    def timeraw_nbnorm_beyond_numba(self) -> tuple[str, str]:
        return "from nbnorm import batch_norm_forward", "import numba"


class ImportRatio:
    """The same over the import of Numba, which a slow machine takes longer for, too."""

    unit = "times import numba"

    def track_nbnorm_beyond_numba(self) -> float:
        ratios = []
        for _ in range(PROCESSES):
            done = subprocess.run(
                [sys.executable, "-c", IMPORTS], check=True, capture_output=True, text=True
            )
            numba, nbnorm = map(float, done.stdout.split())
            ratios.append(nbnorm / numba)
        return statistics.median(ratios)


class Compile:
    """The first training step where the cache is empty: what compiling takes."""

    params = (list(OPERATIONS),)
    param_names = ("operation",)
    number = 1
    repeat = 1
    rounds = 1
    min_run_count = 1
    warmup_time = 0
    timeout = 900

    def timeraw_first_step(self, operation: str) -> tuple[str, str]:
        return "step()", EMPTY_CACHE + PREPARE + OPERATIONS[operation]


class Load:
    """The first training step where the cache is full."""

    params = (list(OPERATIONS),)
    param_names = ("operation",)
    number = 1
    repeat = 5
    rounds = 1
    warmup_time = 0
    timeout = 900

    def setup(self, operation: str) -> None:
        exec(textwrap.dedent(PREPARE + OPERATIONS[operation] + "step()\n"), {})

    def timeraw_first_step(self, operation: str) -> tuple[str, str]:
        return "step()", PREPARE + OPERATIONS[operation]
