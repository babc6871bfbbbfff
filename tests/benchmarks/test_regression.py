"""`python -m benchmarks.regressions` sees a kernel that takes twice as long, and no other."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from benchmarks import regressions
from benchmarks.tools.curves import CURVES
from tests.conftest import import_peer

REPOSITORY = Path(__file__).parents[2]
SECONDS = 900  # no run takes longer, compiling included

# The kernel under `track_inference_over_copy`, a part of that under `track_forward_over_copy`, and
# none under `track_backward_over_add`.
KERNEL = "src/nbnorm/kernels/batch_norm/normalize.py"
FUNCTION = "def normalize_planes("
BODY = "    n, c, s = shape\n"
END = "\n\n\n"
INFERENCE, BACKWARD = (
    f"batch_norm.Ratio.track_{name}(32x256x14x14, channels-first)"
    for name in ("inference_over_copy", "backward_over_add")
)


# --- verdicts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "head", "word"),
    [
        ([1.0, 1.02, 0.99], [1.09, 1.08, 1.07], "within noise"),  # the curve's own band is 10 %
        ([1.0, 1.02, 0.99], [1.2, 1.15, 1.3], "worse"),
        ([1.0, 1.5, 0.8], [1.2, 1.6, 1.5], "within noise"),  # the base itself moves by 70 %
        ([1.0, 1.02, 0.99], [0.7, 0.8, 0.6], "better"),
    ],
)
def test_verdicts(base, head, word):
    assert regressions.judged(CURVES[0], base, head).word == word


@pytest.mark.parametrize(("slow", "code"), [(1.0, 0), (2.0, 1)])
def test_the_exit_code_and_what_is_saved(slow, code, monkeypatch, tmp_path, capsys):
    saved = tmp_path / "regressions.json"
    monkeypatch.setattr(regressions, "SAVED", saved)
    monkeypatch.setattr(regressions, "_commit", lambda name: name)
    monkeypatch.setattr(
        regressions, "laid_out", lambda commits: contextlib.nullcontext([1.0, slow])
    )
    monkeypatch.setattr(regressions, "taken", lambda curve, source: source)
    monkeypatch.setattr(sys, "argv", ["regressions", "--only", "dense", "--save"])
    assert regressions.main() == code
    chosen = [str(curve) for curve in CURVES if "dense" in str(curve)]
    told = capsys.readouterr().out
    assert f"{len(chosen) if code else 0} of {len(chosen)} are worse" in told
    verdicts = json.loads(saved.read_text())["verdicts"]
    assert [row["curve"] for row in verdicts] == chosen
    assert {row["head"] for row in verdicts} == {slow}


def test_what_is_no_commit_or_no_curve_is_an_error(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["regressions", "--base", "no-such-commit"])
    with pytest.raises(SystemExit, match="no-such-commit is no commit"):
        regressions.main()
    monkeypatch.setattr(sys, "argv", ["regressions", "--only", "nothing"])
    with pytest.raises(SystemExit) as caught:
        regressions.main()
    assert caught.value.code == 2


# --- of kernels -----------------------------------------------------------------------------


class Clone:
    """A clone of this repository with a branch for each change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        subprocess.run(["git", "clone", "--quiet", REPOSITORY, path], check=True)
        self.git("checkout", "-q", "-B", "main")

    def git(self, *arguments: str) -> None:
        name = ["-c", "user.name=nbnorm", "-c", "user.email=nbnorm@localhost"]
        subprocess.run(["git", *name, *arguments], cwd=self.path, check=True)

    def branch(self, name: str) -> None:
        self.git("checkout", "-q", "-B", name, "main")

    def commit(self) -> None:
        self.git("commit", "-q", "--all", "--allow-empty", "--message", "A change")

    def compare(self, branch: str) -> subprocess.CompletedProcess[str]:
        """Two curves on main and on a branch."""
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.regressions", "--head", branch,
             "--only", INFERENCE, BACKWARD],
            check=False, cwd=self.path, env=os.environ, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=SECONDS,
        )  # fmt: skip
        sys.stdout.write(done.stdout)  # shown if the test fails
        return done


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    import_peer("asv")
    return Clone(tmp_path_factory.mktemp("regression") / "nbnorm")


def twice(source: str) -> str:
    """The kernel goes through all its tiles, and then once more."""
    before, function, after = source.partition(FUNCTION)
    head, shape, after = after.partition(BODY)
    loop, end, after = after.partition(END)
    assert end
    loop = "    for _ in range(2):\n" + textwrap.indent(loop, "    ")
    return "".join((before, function, head, shape, loop, end, after))


def verdict(output: str, curve: str) -> str:
    """The verdict of the table on a curve."""
    [row] = [line for line in output.splitlines() if line.startswith(f"| {curve}")]
    return row.split("|")[-2].strip()


@pytest.mark.peer
@pytest.mark.slow
def test_a_kernel_that_takes_twice_as_long_is_named(clone):
    clone.branch("slower")
    kernel = clone.path / KERNEL
    kernel.write_text(twice(kernel.read_text()))
    clone.commit()

    done = clone.compare("slower")
    assert verdict(done.stdout, INFERENCE) == "worse"
    assert verdict(done.stdout, BACKWARD) != "worse"
    assert done.returncode == 1


@pytest.mark.peer
@pytest.mark.slow
def test_an_untouched_pair_passes(clone):
    clone.branch("untouched")
    clone.commit()
    done = clone.compare("untouched")
    assert verdict(done.stdout, INFERENCE) == "within noise"
    assert done.returncode == 0
