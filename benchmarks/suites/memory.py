"""The asv suite of memory: what training and inference add to a process, each in one of its own.

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

# A small call first, so that code and threads are there; then the peak is forgotten (proc(5)).
MEASURE = """
import gc, re
from pathlib import Path

def status(name):
    return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

def growth(call):
    gc.collect()
    nbnorm.launch.scratch.recycled.clear()
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    call()
    return (status("VmHWM") - before) / 1024
"""

TRAINING = """
def step(n):
    x = rng.standard_normal((n, *{shape}[1:]), dtype=np.float32)
    dy = np.cos(x)
    layer = {layer}
    for _ in range(3):
        layer(x)
        layer.backward(dy)

step({small})
print(growth(lambda: step({shape}[0])))
"""

ACTIVATION = 16, 64, 56, 56
INFERENCE = """
layers = (nbnorm.Conv2dBatchNorm(64, 64, 3, padding=1, rng=i) for i in range({depth}))
net = nbnorm.Sequential(*layers).eval(){folded}
x = rng.standard_normal({shape}, dtype=np.float32)
net(x[:2])
print(growth(lambda: net(x)) / (x.nbytes / 2**20))
"""


def printed(code: str) -> float:
    """What a process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", PREPARE + MEASURE + code],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout)


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
        small = max(1, shape[0] // 8)
        return printed(TRAINING.format(shape=shape, small=small, layer=layer))


class Inference:
    """The peak of resident memory in a call of a network, in activations: two at any depth."""

    params = ([2, 16], ["as it is", "folded"])
    param_names = ("depth", "network")
    unit = "activations"
    timeout = 900

    def setup(self, depth: int, network: str) -> None:
        if sys.platform != "linux":
            raise NotImplementedError("/proc tells the peak")
        self.track_growth(depth, network)  # compiles

    def track_growth(self, depth: int, network: str) -> float:
        folded = ".fold()" if network == "folded" else ""
        return printed(INFERENCE.format(depth=depth, folded=folded, shape=ACTIVATION))
