"""Signals that wait while Numba compiles.

A handler that raises, as that of Ctrl-C does, may do so between any two steps of Numba and
llvmlite. Interrupted between handing a module to LLVM and noting that it is LLVM's now, llvmlite
frees it a second time, and the process ends (seen once in 100 interrupts of compilations).
"""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Runs the Python handlers of signals that come meanwhile afterwards.

    Python runs them in the main thread; in another there is nothing to do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {
        number: handler
        for number in signal.valid_signals()
        if callable(handler := signal.getsignal(number))
    }
    pending: list[tuple[int, Any]] = []

    def defer(number: int, frame: Any) -> None:
        pending.append((number, frame))

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    try:
        for number in handlers:
            signal.signal(number, defer)
        yield
    finally:
        try:
            restore()
        except BaseException:  # from the handler of a signal that has just come
            restore()
            raise
        finally:
            with contextlib.ExitStack() as stack:  # all of them, whichever raises
                for number, frame in reversed(pending):
                    stack.callback(handlers[number], number, frame)


def uninterrupted(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with signals deferred."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        with signals_deferred():
            return function(*args, **options)

    return call
