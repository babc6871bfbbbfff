"""The asv suite of memory: what a training step adds to a process, in a process of its own.

`peakmem_` would count Numba, its compiler and the arrays of `setup` too: 150 MiB before the first
call. Linux only.
"""

from __future__ import annotations

import subprocess
import sys

from .startup import PREPARE

STEPS = {
    "batch norm 32x64x56x56": ((32, 64, 56, 56), "nbnorm.BatchNorm(64)"),
    "dense + batch norm 4096x1024x1024": ((4096, 1024), "nbnorm.DenseBatchNorm(1024, 1024)"),
    "conv2d + batch norm 16x64x56x56": (
        (16, 64, 56, 56),
        "nbnorm.Conv2dBatchNorm(64, 64, 3, padding=1)",
    ),
}

# A small step first, so that code and threads are there; then the peak is forgotten (proc(5)).
MEASURE = """
import gc, re
from pathlib import Path

def status(name):
    return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

def step(n):
    x = rng.standard_normal((n, *{shape}[1:]), dtype=np.float32)
    dy = np.cos(x)
    layer = {layer}
    for _ in range(3):
        layer(x)
        layer.backward(dy)

step({small})
gc.collect()
nbnorm.launch.scratch.recycled.clear()
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
step({shape}[0])
print((status("VmHWM") - before) / 1024)
"""


class TrainingStep:
    """The peak of resident memory in three steps of a layer, above that of the idle process."""

    params = (list(STEPS),)
    param_names = ("layer",)
    unit = "MiB"
    timeout = 900

    def setup(self, name: str) -> None:
        if sys.platform != "linux":
            raise NotImplementedError("/proc tells the peak")
        self.track_growth(name)  # compiles

    def track_growth(self, name: str) -> float:
        shape, layer = STEPS[name]
        code = PREPARE + MEASURE.format(shape=shape, small=max(1, shape[0] // 8), layer=layer)
        done = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        )
        return float(done.stdout)
