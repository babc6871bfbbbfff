"""`asv continuous` sees a kernel that takes twice as long, with asv.conf.json as it stands."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.conftest import import_peer

REPOSITORY = Path(__file__).parents[2]
SECONDS = 900  # no run of asv takes longer, compiling included

# The kernel under `track_inference_over_copy`, a part of that under `track_forward_over_copy`, and
# none under `track_backward_over_add`.
KERNEL = "src/nbnorm/kernels/batch_norm/normalize.py"
FUNCTION = "def normalize_planes("
BODY = "    n, c, s = shape\n"
END = "\n\n\n"
SUBSET = r"batch_norm\.Ratio\.track_(inference|backward)_.*\('32x256x14x14', 'channels-first'\)"


class Clone:
    """A clone of this repository with a branch for each change, and asv in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        subprocess.run(["git", "clone", "--quiet", REPOSITORY, path], check=True)
        # asv keeps what it knows of the machine in the home folder; what pip and nbnorm have
        # cached stays where it is.
        home = path.parent / "home"
        home.mkdir()
        caches = os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")
        self._environment = os.environ | {"HOME": str(home), "XDG_CACHE_HOME": str(caches)}
        self.git("checkout", "-q", "-B", "main")
        assert self.asv("machine", "--yes").returncode == 0

    def git(self, *arguments: str) -> None:
        name = ["-c", "user.name=nbnorm", "-c", "user.email=nbnorm@localhost"]
        subprocess.run(["git", *name, *arguments], cwd=self.path, check=True, env=self._environment)

    def branch(self, name: str) -> None:
        self.git("checkout", "-q", "-B", name, "main")

    def commit(self) -> None:
        self.git("commit", "-q", "--all", "--allow-empty", "--message", "A change")

    def asv(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "asv", *arguments],
            check=False,
            cwd=self.path,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )

    def compare(self, branch: str) -> subprocess.CompletedProcess[str]:
        """The subset on main and on a branch; more than 1.3 times as much is a regression."""
        factor = ("--factor", "1.3")
        done = self.asv("continuous", "main", branch, *factor, "--bench", SUBSET, "--show-stderr")
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


def changes(output: str) -> str:
    """The table of what changed, and the verdict."""
    return output.partition("| Change")[2]


@pytest.mark.peer
@pytest.mark.slow
def test_a_kernel_that_takes_twice_as_long_is_named(clone):
    clone.branch("slower")
    kernel = clone.path / KERNEL
    kernel.write_text(twice(kernel.read_text()))
    clone.commit()

    done = clone.compare("slower")
    assert "PERFORMANCE DECREASED" in done.stdout
    assert "track_inference_over_copy" in changes(done.stdout)
    assert "track_backward_over_add" not in changes(done.stdout)
    assert done.returncode == 1


@pytest.mark.peer
@pytest.mark.slow
def test_an_untouched_pair_passes(clone):
    clone.branch("untouched")
    clone.commit()
    done = clone.compare("untouched")
    assert "BENCHMARKS NOT SIGNIFICANTLY CHANGED" in done.stdout
    assert "track_inference_over_copy" in done.stdout  # it did run
    assert done.returncode == 0
