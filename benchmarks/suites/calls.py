"""What the asv suites of an operation share: three calls, timed, and the kernels within them."""

from __future__ import annotations

import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

Run = Callable[[], object]

SAMPLE = 0.02  # seconds of calls in a sample


class Calls(NamedTuple):
    """An operation's calls, on arrays that are there."""

    forward: Run
    backward: Run
    inference: Run


class Directions(ABC):
    """Times of the calls that a subclass prepares. Abstract, so asv takes it for no suite."""

    # Numbers of samples, and seconds at most; setup has warmed up already.
    repeat = (3, 10, 2.0)
    warmup_time = 0
    _prepared: tuple[Any, ...] | None = None

    @abstractmethod
    def prepare(self, *parameters: Any) -> Calls:
        """The calls, for the parameters of a benchmark; NotImplementedError if there are none."""

    def setup(self, *parameters: Any) -> None:
        if self._prepared == parameters:  # asv sets up anew before every call
            return
        self.calls = self.prepare(*parameters)
        slowest = 0.0
        for call in self.calls:
            call()  # compiles
            start = time.perf_counter()
            call()
            slowest = max(slowest, time.perf_counter() - start)
        # Left to asv, a sample would be a single call.
        self.number = math.ceil(SAMPLE / slowest)
        self._prepared = parameters

    def time_forward(self, *parameters: Any) -> None:
        self.calls.forward()

    def time_backward(self, *parameters: Any) -> None:
        self.calls.backward()

    def time_inference(self, *parameters: Any) -> None:
        self.calls.inference()


def warm_up(*every: Calls) -> None:
    """Compiles what the calls need."""
    for calls in every:
        for call in calls:
            call()


def step(calls: Calls) -> Run:
    """Forward and backward in one."""

    def run() -> None:
        calls.forward()
        calls.backward()

    return run


def kernels_of(calls: Calls) -> Calls:
    """The kernels that each call of a function runs, on the arrays that it gave them.

    What is left out is Python: checks, plans, allocation and the context. The little kernels that
    fold a channel's constants are left out too.
    """
    return Calls(*map(_kernels, calls))


def _kernels(call: Run) -> Run:
    from nbnorm.jit import threads

    ran: list[tuple[Any, ...]] = []

    def run(*arguments: Any) -> None:
        ran.append(arguments)
        threads.run(*arguments)

    with _replaced(threads.run, run):
        call()
    if not ran:
        raise RuntimeError("the function ran no kernel by nbnorm.jit.threads.run")

    def again() -> None:
        for arguments in ran:
            threads.run(*arguments)

    return again


@contextmanager
def _replaced(old: object, new: object) -> Iterator[None]:
    """Another object in place of one that modules of nbnorm have imported as `run`."""
    modules = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith(("nbnorm.functional.", "nbnorm.launch."))
        and getattr(module, "run", None) is old
    ]
    for module in modules:
        module.run = new
    try:
        yield
    finally:
        for module in modules:
            module.run = old
