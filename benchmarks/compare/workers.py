"""A process for each library, and the turn that only one of them has.

The child side is `serve`, which owns an adapter and obeys; the parent side is `Worker`, which asks.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.compare import memory
from benchmarks.compare.peers import COMMON_ENVIRONMENT, Peer
from benchmarks.compare.protocol import Call, Case, Given, Unsupported
from benchmarks.compare.timing import median_of_calls
from benchmarks.tools import machine

ANSWER_WITHIN = 300  # seconds; the slowest thing asked for is a first compilation

# A thread pool that has run out of work spins for a while before it sleeps, and a pool that spins
# takes the core of whoever has the turn. Forbidding it (OMP_WAIT_POLICY=passive and its relatives)
# would slow those libraries' own calls, which wait inside a call too. So spinning stays as each
# library ships it, and a process without the turn is stopped whole. Where the system cannot do
# that, a turn begins after the usual spinning times (0.2 s is the longest, libiomp's) are over.
CAN_STOP = hasattr(signal, "SIGSTOP")
SPINNING_IS_OVER = 0.3


class PeerFailure(Exception):
    """A library could not do what it was asked; the message says why."""


class NotInstalled(PeerFailure):
    """A library is not there at all."""


class TimedOut(PeerFailure):
    """A library has not answered, and its process is gone: it would not answer next time."""


# ------------------------------------------------------------------------------------- the child


def serve(connection: Connection, peer: Peer, threads: int) -> None:
    """Answer the parent's requests until it hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C ends
    _end_with_parent()
    try:
        adapter = importlib.import_module(peer.adapter).Adapter(threads)
    except ImportError as error:
        connection.send(("missing", str(error)))
        return
    except Exception as error:  # installed, and broken
        connection.send(("failed", _first_line(error)))
        return
    gc.disable()  # it runs between the arrays (`Bench.load`) and never inside a call
    bench = Bench(adapter)
    connection.send(("ok", {d: v for d in peer.distributions if (v := machine.version(d))}))
    while True:
        try:
            verb, arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = ("ok", getattr(bench, verb)(*arguments))
        except Unsupported as reason:
            answer = ("unsupported", str(reason))
        except Exception as error:  # whatever a library throws is reported, and the run goes on
            answer = ("failed", _first_line(error))
        try:
            connection.send(answer)
        except OSError:  # the parent was stopped, and waits no more
            return


def _end_with_parent() -> None:
    """Have Linux kill this process when its parent dies: a stopped process would never notice."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


class Bench:
    """The requests that a child answers: load, prepare, measure, grow."""

    def __init__(self, adapter: Any) -> None:
        self.adapter = adapter
        self.values: dict[str, Any] = {}
        self.call: Call | None = None

    def load(self, values: dict[str, Any]) -> None:
        """Take the arrays of the next cases, and let go of the last ones."""
        self.call, self.values = None, values
        gc.collect()

    def prepare(self, case: Case) -> dict[str, Any] | None:
        """Make the call ready, compiled and all, and give its outputs; None: not this library's."""
        self.call = None
        method = getattr(self.adapter, case.operation, None)
        if method is None:
            return None
        self.call = method(Given(case, self.values))
        return self.call.read(self.call.run())

    def measure(self, seconds: float) -> float:
        """The median of the seconds that a call takes, over one turn."""
        assert self.call is not None
        return median_of_calls(self.call.run, seconds)

    def grow(self, little: Given, given: Given) -> tuple[float, dict[str, Any]]:
        """The MiB that calls need after a warm-up on little data, and the outputs."""
        method = getattr(self.adapter, given.case.operation)
        return memory.growth(lambda: method(little), lambda: method(given))


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


# ------------------------------------------------------------------------------------ the parent


class Worker:
    """A library's process as the parent sees it: stopped, except while it answers."""

    def __init__(self, peer: Peer, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.peer = peer
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, peer, threads), daemon=True)
        environment = COMMON_ENVIRONMENT | peer.environment
        with _environment({k: v.format(threads=threads) for k, v in environment.items()}):
            self.process.start()
        theirs.close()
        try:
            self.versions: dict[str, str] = self._answer()
        except PeerFailure:
            self.close()
            raise

    def ask(self, verb: str, *arguments: Any) -> Any:
        """Give the process the turn until it has answered."""
        if verb == "measure" and not CAN_STOP:
            time.sleep(SPINNING_IS_OVER)
        self._signal("SIGCONT")
        try:
            self.connection.send((verb, arguments))
        except OSError:
            raise self._ended() from None
        return self._answer()

    def close(self) -> None:
        self.connection.close()
        self._signal("SIGCONT")
        self.process.join(2)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def _answer(self) -> Any:
        try:
            if not self.connection.poll(ANSWER_WITHIN):
                self.process.kill()
                self.process.join()
                raise TimedOut(f"no answer within {ANSWER_WITHIN} s")
            status, value = self.connection.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        self._signal("SIGSTOP")
        if status == "missing":
            raise NotInstalled(value)
        if status != "ok":
            raise Unsupported(value) if status == "unsupported" else PeerFailure(value)
        return value

    def _ended(self) -> PeerFailure:
        self.process.join(2)
        return PeerFailure(f"its process ended with code {self.process.exitcode}")

    def _signal(self, name: str) -> None:
        if CAN_STOP and self.process.is_alive() and self.process.pid is not None:
            os.kill(self.process.pid, getattr(signal, name))


@contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """Environment variables for the process that is started inside."""
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
