"""How far repeated measurements of one state lie apart, by asv's own runner.

python -m benchmarks.tools.spread [--rounds 5] [--only WORD ...]

Each benchmark runs in processes of its own, in turn with and without a neighbour that copies memory
without pause. The table gives the spread of the quiet rounds, (largest - smallest) over the median,
and what the neighbour does to the median.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.tools import markdown
from benchmarks.tools.curves import FIRST, LAST, measure

CASES: list[tuple[str, tuple[str, ...]]] = [
    ("batch_norm.Ratio.track_forward_over_copy", ("32x256x14x14", FIRST)),
    ("batch_norm.Ratio.track_forward_over_copy", ("32x64x56x56", LAST)),
    ("batch_norm.Ratio.track_backward_over_add", ("32x64x56x56", FIRST)),
    ("dense_batch_norm.Fused.track_step_over_separate", ("256x784x512",)),
    ("dense_batch_norm.Ratio.track_forward_over_matmul", ("256x784x512",)),
    ("batch_norm.Kernel.time_forward", ("32x256x14x14", FIRST)),
    ("batch_norm.Function.time_forward", ("32x256x14x14", FIRST)),
    ("batch_norm.Function.time_forward", ("8x16x4x4", FIRST)),
    ("batch_norm.Layer.time_backward", ("32x64x56x56", FIRST)),
    ("threads.Speedup.track_speedup", ("batch norm, 32x256x14x14, channels-first",)),
    ("startup.Import.timeraw_nbnorm", ()),
    ("startup.Load.timeraw_first_step", ("batch norm",)),
    ("memory.TrainingStep.track_growth", ("batch norm 32x64x56x56",)),
]

NEIGHBOUR = """
import numpy as np
a, b = np.zeros((2, 8 << 20))
while True:
    np.copyto(a, b)
"""


def in_a_process(case: int) -> float:
    command = [sys.executable, "-m", "benchmarks.tools.spread", "--measure", str(case)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.splitlines()[-1])


@contextmanager
def neighbour() -> Iterator[None]:
    """Another process that keeps a core and the memory busy."""
    process = subprocess.Popen([sys.executable, "-c", NEIGHBOUR])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tools.spread")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the benchmarks' names")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        print(measure(*CASES[given.measure]))
        return
    chosen = [i for i, (name, _) in enumerate(CASES) if any(word in name for word in given.only)]
    for i in chosen:
        in_a_process(i)  # compiles
    quiet: dict[int, list[float]] = {i: [] for i in chosen}
    busy: dict[int, list[float]] = {i: [] for i in chosen}
    for _ in range(given.rounds):
        for i in chosen:
            quiet[i].append(in_a_process(i))
        with neighbour():
            for i in chosen:
                busy[i].append(in_a_process(i))
    rows = []
    for i in chosen:
        name, parameters = CASES[i]
        median = statistics.median(quiet[i])
        spread = (max(quiet[i]) - min(quiet[i])) / median
        shift = statistics.median(busy[i]) / median - 1
        rows.append([f"`{name}`", ", ".join(parameters), f"{spread:.0%}", f"{shift:+.0%}"])
    print(markdown.table(["benchmark", "parameters", "spread", "with a neighbour"], rows))


if __name__ == "__main__":
    main()
