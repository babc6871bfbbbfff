"""What the asv suites of an operation share: its data, three calls, and the kernels within them."""

from __future__ import annotations

import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

Run = Callable[[], object]

SAMPLE = 0.02  # seconds of calls in a sample


class Calls(NamedTuple):
    """An operation's calls, on arrays that are there."""

    forward: Run
    backward: Run
    inference: Run


class Data(NamedTuple):
    """Arguments of an operation's functions, and the arrays that results go to, both by name."""

    given: dict[str, Any]
    out: dict[str, Any]


def draw(name: str, sizes: dict[str, Any], without: Sequence[str] = (), **options: Any) -> Data:
    """Data in float32; see nbnorm/operations.py for names, sizes and options."""
    from nbnorm.operations import BY_NAME

    operation = BY_NAME[name]
    given = operation.draw(np.random.default_rng(0), np.float32, sizes, **options)
    for missing in ("bias", "residual", "mean", "var", *without):
        given.pop(missing, None)
    out = {"y": np.empty_like(given["dy"])}
    if "weight" in given:
        out |= {"dx": np.empty_like(given["x"]), "dweight": np.empty_like(given["weight"])}
    else:
        out |= {"dx": out["y"]}  # one array serves for both
    return Data(given, out)


def calls_of(name: str, data: Data) -> Calls:
    """The calls of an operation, outputs preallocated. Without batch norm inference is forward."""
    import nbnorm
    from nbnorm.operations import BY_NAME

    operation, given, out = BY_NAME[name], *data
    forward = operation.call("forward", given, out=out["y"])
    gradients = out["dx"]
    if operation.gradients:
        kind = getattr(nbnorm, operation.gradients)
        gradients = kind(**{d: out.get(d) for d in kind._fields})
    result = forward()
    if not operation.context:
        needs = [d for d in out if d != "y"]
        return Calls(
            forward, operation.call("backward", given, needs=needs, out=gradients), forward
        )
    context = result[1]
    backward = operation.call("backward", given, context=context, out=gradients)
    if "inference" not in operation.directions:
        return Calls(forward, backward, forward)
    statistics = {"mean": context.mean, "var": context.var}
    inference = operation.call("inference", given | statistics, out=out["y"])
    return Calls(forward, backward, inference)


def separate_calls_of(name: str, data: Data) -> Calls:
    """The same by the operations that it is made of, one after the other."""
    from nbnorm.operations import BY_NAME

    z, dz = (np.empty_like(data.out["y"]) for _ in range(2))
    given, (product, norm) = data.given, BY_NAME[name].parts
    of_product, of_norm = ({key: given[key] for key in given.keys() & BY_NAME[part].arguments}
                           for part in (product, norm))  # fmt: skip
    first = calls_of(product, Data(of_product | {"dy": dz}, data.out | {"y": z}))
    second = calls_of(norm, Data(of_norm | {"x": z}, {"y": data.out["y"], "dx": dz}))
    return Calls(
        in_turn(first.forward, second.forward),
        in_turn(second.backward, first.backward),
        in_turn(first.forward, second.inference),
    )


def in_turn(*calls: Run) -> Run:
    """Several calls in one."""

    def run() -> None:
        for call in calls:
            call()

    return run


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
    return in_turn(calls.forward, calls.backward)


def kernels_of(calls: Calls) -> Calls:
    """The kernels that each call of a function runs, on the arrays that it gave them.

    What is left out is Python: checks, plans, allocation and the context. The little kernels that
    fold a channel's constants are left out too.
    """
    return Calls(*map(_kernels, calls))


def _kernels(call: Run) -> Run:
    from nbnorm.jit import threads
    from nbnorm.kernels.batch_norm import normalize

    ran: list[tuple[Any, tuple[Any, ...]]] = []

    def recorded(function: Any) -> Any:
        def run(*arguments: Any) -> Any:
            ran.append((function, arguments))
            return function(*arguments)

        return run

    with ExitStack() as stack:
        stack.enter_context(_replaced(threads.run, recorded(threads.run)))
        for name in ("infer_planes", "infer_columns"):  # of small arrays: called as they are
            record = recorded(getattr(normalize, name))
            stack.enter_context(mock.patch.object(normalize, name, record))
        call()
    if not ran:
        raise RuntimeError("the function ran no kernel by nbnorm.jit.threads.run")

    def again() -> None:
        for function, arguments in ran:
            function(*arguments)

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
