"""Signals wait while Numba compiles: see jit/interrupts.py."""

from __future__ import annotations

import signal
import sys
import threading

import numpy as np
import pytest

from nbnorm.jit.interrupts import signals_deferred
from nbnorm.jit.options import is_compiling, worker

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are others there")


@pytest.fixture
def handled():
    """Handlers of two signals: one raises what the other notes; yields the notes."""
    notes = []

    def note(number, _):
        notes.append(number)

    def complain(number, _):
        notes.append(number)
        raise TimeoutError

    before = [signal.signal(signal.SIGUSR1, note), signal.signal(signal.SIGALRM, complain)]
    yield notes
    signal.signal(signal.SIGUSR1, before[0])
    signal.signal(signal.SIGALRM, before[1])


def handlers():
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def test_a_handler_runs_afterwards(handled):
    before = handlers()
    with signals_deferred():
        signal.raise_signal(signal.SIGUSR1)
        assert handled == []
    assert handled == [signal.SIGUSR1]
    assert handlers() == before


def test_what_it_raises_comes_afterwards_and_no_other_is_lost(handled):
    before = handlers()

    def block():
        with signals_deferred():
            signal.raise_signal(signal.SIGALRM)
            signal.raise_signal(signal.SIGUSR1)
            handled.append("the rest of the block")
        handled.append("what comes next")

    with pytest.raises(TimeoutError):
        block()
    assert handled == ["the rest of the block", signal.SIGALRM, signal.SIGUSR1]
    assert handlers() == before


def test_an_error_in_the_block_leaves_the_handlers_in_place(handled):
    before = handlers()

    def block():
        with signals_deferred():
            signal.raise_signal(signal.SIGUSR1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        block()
    assert handled == [signal.SIGUSR1]
    assert handlers() == before


def test_blocks_may_be_nested(handled):
    with signals_deferred():
        with signals_deferred():
            signal.raise_signal(signal.SIGUSR1)
        assert handled == []
    assert handled == [signal.SIGUSR1]


@pytest.fixture
def heeds_ctrl_c():
    """What a shell starts in the background ignores the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_is_one_of_them():
    done = []

    def block():
        with signals_deferred():
            signal.raise_signal(signal.SIGINT)
            done.append(True)

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done


def test_another_thread_has_nothing_to_do():
    before = handlers()
    seen = []

    def look():
        with signals_deferred():
            seen.append(handlers())

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.skipif(not is_compiling(), reason="nothing is compiled")
def test_a_kernel_is_compiled_to_the_end(handled, monkeypatch):
    @worker
    def double(x):
        x[0] *= 2.0

    compiled = double._compiler.compile

    def compile_and_signal(*arguments):
        signal.raise_signal(signal.SIGALRM)
        handled.append("compiling")
        return compiled(*arguments)

    monkeypatch.setattr(double._compiler, "compile", compile_and_signal)
    x = np.ones(1)
    with pytest.raises(TimeoutError):
        double(x)
    assert handled == ["compiling", signal.SIGALRM]
    assert len(double.signatures) == 1
    double(x)
    assert x[0] == 2.0
