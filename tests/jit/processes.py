"""Python in processes of their own: for what can end, hang or slow down a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbnorm

REPOSITORY = Path(__file__).parents[2]
PACKAGE = Path(nbnorm.__file__).parent

SECONDS = 120  # a process that takes longer hangs


def environment(*paths: Path, **variables: Any) -> dict[str, str]:
    """The environment of this process without what steers Numba and nbnorm, and with `variables`.

    `paths` are searched for modules: by default nbnorm's parent folder and this repository.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("NUMBA_", "NBNORM_", "PYTHON", "COV_"))
    }
    searched = paths or (PACKAGE.parent, REPOSITORY)
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(map(str, searched)),
        **{name: str(value) for name, value in variables.items()},
    }


class Process:
    """A Python process that runs `arguments`, started at once."""

    def __init__(self, *arguments: str, env: dict[str, str], cwd: Path | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            env=env,
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def output(self, seconds: float = SECONDS) -> tuple[str, str]:
        """What it printed to stdout and stderr; an AssertionError if it fails or hangs."""
        try:
            out, err = self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)  # its children too
            else:
                self._process.kill()
            out, err = self._process.communicate()
            raise AssertionError(f"hangs after {seconds} s\n{out}\n{err}") from None
        code = self._process.returncode
        assert code == 0, f"ends with {code}\n{out}\n{err}"
        return out, err

    def kill(self) -> None:
        """Ends it at once, whatever it is doing."""
        self._process.kill()
        self._process.communicate()

    def interrupted(self, after: float) -> str:
        """Sends Ctrl-C so many seconds after its first line; what it printed to stderr."""
        assert self._process.stdout is not None
        self._process.stdout.readline()
        time.sleep(after)
        self._process.send_signal(signal.SIGINT)
        _, err = self._process.communicate(timeout=SECONDS)
        assert self._process.returncode == -signal.SIGINT, err
        return err

    def records(self, seconds: float = SECONDS) -> list[dict[str, Any]]:
        """The lines of JSON that it printed; TBB may print others."""
        lines = self.output(seconds)[0].splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


def python(
    *arguments: str, cwd: Path | None = None, seconds: float = SECONDS, **variables: Any
) -> tuple[str, str]:
    """Runs Python to its end, in so many seconds; what it printed to stdout and stderr."""
    return Process(*arguments, env=environment(**variables), cwd=cwd).output(seconds)
