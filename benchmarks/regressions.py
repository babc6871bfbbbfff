"""Whether a change made something slower: the dashboard's ratios of two commits, taken in turn.

python -m benchmarks.regressions                    HEAD against main
python -m benchmarks.regressions --base HEAD~3      HEAD against another commit
python -m benchmarks.regressions --only dense       the curves that have a word in their names
python -m benchmarks.regressions --save             keeps the verdict for the dashboard's front page

Each commit is laid out in a folder of its own, and each figure taken in a process of its own, the
two commits in turn. A curve is worse if the median of its ratios has grown by more than its noise:
how far the base's own rounds lie apart, and no less than the curve's band. The suites are those of
the folder that this is run in. A figure that cannot be taken ends the run with an error.

Exit codes: 0 nothing is worse, 1 something is or cannot be measured, 2 wrong arguments.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.tools import markdown
from benchmarks.tools.curves import CURVES, Curve, measure
from benchmarks.tools.machine import describe

ROOT = Path(__file__).parents[1]
SAVED = ROOT / "benchmarks" / "results" / "regressions.json"


@dataclass(frozen=True)
class Verdict:
    """What two commits' rounds say of one curve."""

    curve: str
    base: float
    head: float
    noise: float  # as a part of the base

    @property
    def change(self) -> float:
        return self.head / self.base - 1

    @property
    def word(self) -> str:
        if abs(self.change) <= self.noise:
            return "within noise"
        return "worse" if self.change > 0 else "better"


def judged(curve: Curve, base: Sequence[float], head: Sequence[float]) -> Verdict:
    """A verdict of all rounds; of an even number of them the lower median."""
    middle = statistics.median_low(base)
    spread = (max(base) - min(base)) / middle
    return Verdict(str(curve), middle, statistics.median_low(head), max(curve.band, spread))


@contextmanager
def laid_out(commits: Sequence[str]) -> Iterator[list[Path]]:
    """The sources of some commits, each in a folder of its own for the time."""
    with tempfile.TemporaryDirectory(prefix="nbnorm-regressions-") as folder:
        places = []
        for number, commit in enumerate(commits):
            place = Path(folder) / str(number)
            place.mkdir()
            archive = subprocess.run(
                ["git", "archive", commit, "src"], cwd=ROOT, check=True, stdout=subprocess.PIPE
            )
            with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
                files.extractall(place, filter="data")
            places.append(place / "src")
        yield places


def taken(curve: Curve, sources: Path) -> float:
    """The figure of a curve by a process that imports nbnorm from `sources`."""
    command = [sys.executable, "-m", "benchmarks.regressions", "--measure", *curve[:1]]
    environment = os.environ | {"PYTHONPATH": str(sources)}
    done = subprocess.run(
        [*command, *curve.parameters], cwd=ROOT, env=environment, check=True, text=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    return float(done.stdout.splitlines()[-1])


def compare(curves: Sequence[Curve], base: str, head: str, rounds: int) -> Iterator[Verdict]:
    """A verdict for each curve as soon as it is there."""
    with laid_out((base, head)) as sides:
        for curve in curves:
            for side in sides:
                taken(curve, side)  # compiles, if nothing has yet
            found: tuple[list[float], list[float]] = ([], [])
            for i in range(rounds):
                for side in (0, 1) if i % 2 else (1, 0):
                    found[side].append(taken(curve, sides[side]))
            yield judged(curve, *found)


def table(verdicts: Sequence[Verdict]) -> str:
    rows = [
        [v.curve, f"{v.base:.3f}", f"{v.head:.3f}", f"{v.change:+.0%}", f"{v.noise:.0%}", v.word]
        for v in verdicts
    ]
    return markdown.table(["curve", "base", "head", "change", "noise", "verdict"], rows)


def _commit(name: str) -> str:
    command = ["git", "rev-parse", "--short", "--verify", "--quiet", f"{name}^{{commit}}"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"python -m benchmarks.regressions: {name} is no commit")
    return done.stdout.strip()


def _save(verdicts: Sequence[Verdict], base: str, head: str, rounds: int) -> None:
    about = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": describe(), "base": base, "head": head, "rounds": rounds,
    }  # fmt: skip
    rows = ",\n".join(f" {json.dumps(asdict(v))}" for v in verdicts)
    SAVED.write_text(f'{json.dumps(about)[:-1]}, "verdicts": [\n{rows}\n]}}\n')


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.regressions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--base", default="main", help="a commit (default: main)")
    parser.add_argument("--head", default="HEAD", help="a commit (default: HEAD)")
    parser.add_argument("--rounds", type=int, default=3, help="of each side (default: 3)")
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the curves' names")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        benchmark, *parameters = given.measure
        print(measure(benchmark, tuple(parameters)))
        return 0
    curves = [curve for curve in CURVES if any(word in str(curve) for word in given.only)]
    if not curves:
        parser.error(f"no curve has {' or '.join(given.only)} in its name")
    base, head = _commit(given.base), _commit(given.head)
    verdicts = []
    for verdict in compare(curves, base, head, given.rounds):
        verdicts.append(verdict)
        what = f"{verdict.curve}: {verdict.change:+.0%}, {verdict.word}"
        print(f"{len(verdicts):>2}/{len(curves)} {what}", flush=True)
    print(f"\n{table(verdicts)}\n\nbase {base}, head {head}, {given.rounds} rounds each")
    if given.save:
        _save(verdicts, base, head, given.rounds)
    worse = [verdict.curve for verdict in verdicts if verdict.word == "worse"]
    print(f"{len(worse)} of {len(verdicts)} are worse" + "".join(f"\n  {name}" for name in worse))
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
