"""The watchdog that ends processes which hang: it is patient with those that are kept waiting."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from tests.jit.processes import Process, environment

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="only the clock is asked here"),
]


def process(code: str) -> Process:
    return Process("-c", code, env=environment())


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import threading; threading.Lock().acquire(); threading.Event().wait()",
        "import os\nif os.fork():\n    os.wait()\nwhile True: pass",
    ],
    ids=["spins", "sleeps", "waits for a child that spins"],
)
def test_what_hangs_is_ended(code):
    hanging = process(code)
    with pytest.raises(TimeoutError, match="hangs"):
        hanging.end(1.5)
    assert hanging._process.returncode == -signal.SIGKILL


def test_what_was_stopped_goes_on():
    """For longer than it may sleep."""
    stopped = process("print('there', flush=True); sum(range(10**7)); print('done')")
    stopped._process.stdout.readline()
    os.kill(stopped._process.pid, signal.SIGSTOP)
    started = time.monotonic()
    threading.Timer(3.0, os.kill, (stopped._process.pid, signal.SIGCONT)).start()
    assert stopped.end(1.5)[:2] == (0, "done\n")
    assert time.monotonic() - started >= 3.0


def test_what_works_now_and_then_goes_on():
    code = "import time\nfor _ in range(6): time.sleep(0.5); sum(range(10**6))\nprint('done')"
    assert process(code).end(1.5)[:2] == (0, "done\n")
