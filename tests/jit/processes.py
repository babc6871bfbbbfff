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

SECONDS = 120  # a process that takes longer hangs: see `Watchdog`


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


class Watchdog:
    """Tells a process that hangs from one that is slow, or stopped, or gets no processor.

    A process hangs that has taken so many seconds of processor time with its children (and by the
    clock, for several may work at once), or that sleeps so long with all of them. The clock is
    this process's own: where everything is stopped, it stops too. Where no /proc tells, it alone
    counts.
    """

    STEP = 0.25  # seconds between two looks

    def __init__(self, session: int, seconds: float) -> None:
        self._session = session
        self._seconds = seconds
        self._clock = self._asleep = self._processor = 0.0

    def hangs(self) -> bool:
        """Whether it does, asked for at each step."""
        self._clock += self.STEP
        if not os.path.isdir("/proc/self"):
            return self._clock >= self._seconds
        states, processor = self._look()
        moved = processor != self._processor or states != {"S"}
        self._processor = processor
        self._asleep = 0.0 if moved else self._asleep + self.STEP
        return self._asleep >= self._seconds or min(self._clock, processor) >= self._seconds

    def _look(self) -> tuple[set[str], float]:
        """The states of all processes of the session, and the processor time that they have had."""
        states, ticks = set(), 0
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            if int(fields[3]) == self._session:
                states.add(fields[0])
                ticks += sum(map(int, fields[11:15]))  # its own, and that of children that ended
        return states, ticks / os.sysconf("SC_CLK_TCK")


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

    def end(self, seconds: float = SECONDS) -> tuple[int, str, str]:
        """Its exit code, and what it printed to stdout and stderr; a TimeoutError if it hangs."""
        watchdog = Watchdog(self._process.pid, seconds)
        while True:
            try:
                out, err = self._process.communicate(timeout=watchdog.STEP)
                return self._process.returncode, out, err
            except subprocess.TimeoutExpired:
                if watchdog.hangs():
                    break
        if hasattr(os, "killpg"):
            os.killpg(self._process.pid, signal.SIGKILL)  # its children too
        else:
            self._process.kill()
        out, err = self._process.communicate()
        raise TimeoutError(f"hangs after {seconds} s\n{out}\n{err}")

    def output(self, seconds: float = SECONDS) -> tuple[str, str]:
        """What it printed to stdout and stderr; an AssertionError if it fails, or hangs."""
        try:
            code, out, err = self.end(seconds)
        except TimeoutError as hang:
            raise AssertionError(str(hang)) from None
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
        code, _, err = self.end()
        assert code == -signal.SIGINT, err
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
