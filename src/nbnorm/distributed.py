"""Batch norm over several processes: `synchronized` layers, and adapters to MPI and gloo.

Each process trains on a part of the batch, and each batch norm takes the statistics of all parts
together. A communicator is anything with ``allgather(array)``, which returns the arrays of all
ranks in the order of their ranks, its own among them; all are of one shape and type. They are added
up in that order, so that every rank has the same bits, and a rerun has them again.

A forward gathers once, and so does a backward. An array begins with a flag: a rank that fails
before its gather takes part all the same, with the flag down, and the error is raised on all ranks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import numpy as np

from nbnorm import checks
from nbnorm.functional.moments import Moments
from nbnorm.layers.base import Layer
from nbnorm.layers.batch_norm import BatchNorm
from nbnorm.layers.cross_iteration_batch_norm import CrossIterationBatchNorm
from nbnorm.layers.ghost_batch_norm import GhostBatchNorm
from nbnorm.layers.normalizing import Normalizing
from nbnorm.layers.statistics import batch_norms
from nbnorm.typing import Array

AnyLayer = TypeVar("AnyLayer", bound=Layer[Any])
Result = TypeVar("Result")

# Of numbers that a rank gathers: whether it is well.
_FAILED, _FINE = 0.0, 1.0


class Communicator(Protocol):
    """What `synchronized` needs of one."""

    def allgather(self, array: Array, /) -> Sequence[Array]:
        """The arrays of all ranks, in the order of their ranks."""


def synchronized(layer: AnyLayer, communicator: Communicator) -> AnyLayer:
    """Make a layer's batch norms take the statistics of all processes' batches, and return it.

    In training, mean and variance are those of all parts of the batch, whatever their sizes, empty
    ones too, and dx is the exact gradient of the whole. Gradients of parameters are those of the
    part; over the processes they add up to the whole's, which is left to the caller
    (``examples/train_mpi.py``). Running statistics are the same in all processes.

    All processes call the layer in the same order, as often, and each with the others. What the
    layers are is compared once, here.

    Parameters
    ----------
    layer : BatchNorm, DenseBatchNorm, Conv2dBatchNorm or Sequential
        Of a Sequential all batch norms, however deep.
    communicator : with an ``allgather(array)``
        `mpi` and `gloo` make some.

    Returns
    -------
    The layer itself.

    Raises
    ------
    ValueError
        Layers of the ranks differ in channels, type or options.
    TypeError
        An argument is of the wrong type, or there is no batch norm in the layer.

    Examples
    --------
    One process is all of itself:

    >>> import numpy as np
    >>> from nbnorm.distributed import synchronized
    >>> from nbnorm.layers import BatchNorm
    >>> class Alone:
    ...     def allgather(self, array):
    ...         return [array]
    >>> layer = synchronized(BatchNorm(2, eps=0), Alone())
    >>> layer(np.array([[1.0, 10.0], [3.0, 30.0]]))
    array([[-1., -1.],
           [ 1.,  1.]])
    """
    function = "synchronized"
    if not isinstance(layer, Layer):
        raise checks.wrong_type(function, "layer", layer, "a Layer")
    if not callable(getattr(communicator, "allgather", None)):
        expected = "what has an allgather(array), such as mpi(comm)"
        raise checks.wrong_type(function, "communicator", communicator, expected)
    found = list(batch_norms(layer))
    for norm in found:
        if isinstance(norm, (CrossIterationBatchNorm, GhostBatchNorm)):
            expected = "batch norms over one batch and all of it"
            raise checks.wrong_type(function, "layer", norm, expected)
    _compare(function, communicator, "batch norms", {"number of them": [float(len(found))]})
    if not found:
        expected = "a BatchNorm, DenseBatchNorm or Conv2dBatchNorm, or a Sequential with one"
        raise checks.wrong_type(function, "layer", layer, expected)
    for index, norm in enumerate(found):
        _compare(function, communicator, f"batch norm {index}, {norm},", _header(norm))
    for norm in found:
        norm.exchange = Gathers(type(norm).__name__, communicator, _shape(norm))
    return layer


# --- what the ranks compare -------------------------------------------------------------------

_MOST_AXES = 8


def _shape(norm: Normalizing[Any]) -> tuple[int, ...]:
    """The shape of the kept axes."""
    return norm.shape if isinstance(norm, BatchNorm) else norm.parameters()["weight"].shape[:1]


def _header(norm: Normalizing[Any]) -> dict[str, list[float]]:
    """What has to be the same on all ranks, in numbers: as many on each."""
    shape = list(_shape(norm))
    parameters = norm.parameters()
    sizes = [array.itemsize for array in parameters.values()]
    return {
        "kind of layer": [float(sum(map(ord, type(norm).__name__)))],
        "channels": [float(size) for size in (shape + [0] * _MOST_AXES)[:_MOST_AXES]],
        "type": [float(max(sizes, default=0))],
        "learned parameters": [float("gamma" in parameters), float("beta" in parameters)],
        "eps": [norm.eps],
        "ddof": [float(norm.ddof)],
        "momentum": [-1.0 if norm.momentum is None else norm.momentum],
        "running statistics": [float(norm.running_mean is not None), float(norm.unbiased)],
    }


def _compare(
    function: str, communicator: Communicator, what: str, header: dict[str, list[float]]
) -> None:
    """Raise on all ranks where their numbers differ, naming the first that does."""
    own = np.array([number for numbers in header.values() for number in numbers])
    ranks = _gathered(function, communicator, own)
    first = 0
    for name, numbers in header.items():
        last = first + len(numbers)
        given = [tuple(map(float, rank[first:last])) for rank in ranks]
        if len(set(given)) > 1:
            found = ", ".join(f"rank {i} has {_in_words(one)}" for i, one in enumerate(given))
            raise ValueError(f"{function}: {what} of other {name}: {found}; expected all the same")
        first = last


def _in_words(numbers: tuple[float, ...]) -> str:
    words = [f"{number:g}" for number in numbers]
    while words[1:] and words[-1] == "0":
        words.pop()
    return " x ".join(words)


def _gathered(function: str, communicator: Communicator, array: Array) -> list[Array]:
    """The arrays of all ranks, each checked to be one like this rank's."""
    gathered = list(communicator.allgather(array))
    for rank, other in enumerate(gathered):
        if not isinstance(other, np.ndarray) or other.shape != array.shape:
            given = checks.describe(other)
            expected = f"{checks.describe(array)}, as this rank gave"
            raise ValueError(f"{function}: rank {rank} gave {given}; expected {expected}")
    return gathered


# --- what they exchange -----------------------------------------------------------------------


class Gathers:
    """The gathers of one layer: one each forward, one each backward."""

    def __init__(self, name: str, communicator: Communicator, shape: tuple[int, ...]) -> None:
        self._name = name
        self._communicator = communicator
        self._shape = shape

    def forward(self, call: Callable[[Callable[[Moments], Moments]], Result]) -> Result:
        """The call's result; the moments of the parts become those of the whole."""

        def whole(arrays: list[Array]) -> Moments:
            first, *others = (Moments.from_array(array, shape=self._shape) for array in arrays)
            return sum(others, first)

        numbers = 3 * math.prod(self._shape) + 1
        with self._gathering(f"{self._name}.forward", numbers) as gather:
            return call(lambda part: whole(gather(part.to_array())))

    def backward(self, call: Callable[[Callable[[Array], Array]], Result]) -> Result:
        """The call's result; the gradient sums of the parts become those of the whole."""

        def whole(arrays: list[Array]) -> Array:
            first, *others = arrays
            return sum(others, first).reshape(2, *self._shape)

        numbers = 2 * math.prod(self._shape)
        with self._gathering(f"{self._name}.backward", numbers) as gather:
            return call(lambda part: whole(gather(part.reshape(-1))))

    @contextmanager
    def _gathering(self, function: str, numbers: int) -> Iterator[Callable[[Array], list[Array]]]:
        """What gathers so many numbers, once; without them, if an error comes before it does."""
        gathered = False

        def gather(array: Array) -> list[Array]:
            nonlocal gathered
            gathered = True
            own = np.concatenate([[_FINE], array])
            ranks = _gathered(function, self._communicator, own)
            failed = [rank for rank, other in enumerate(ranks) if other[0] != _FINE]
            if failed:
                expected = "all ranks to come this far: see their errors"
                raise RuntimeError(f"{function}: ranks {failed} failed; expected {expected}")
            return [other[1:] for other in ranks]

        try:
            yield gather
        except Exception:
            if not gathered:  # the others wait for it
                self._communicator.allgather(np.full(numbers + 1, _FAILED))
            raise


# --- communicators ----------------------------------------------------------------------------


def mpi(comm: Any, *, timeout: float = 600.0) -> Communicator:
    """A communicator of MPI, by mpi4py (the extra ``distributed``).

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
    timeout : number of seconds
        After so long without the others, a gather raises TimeoutError and names the ranks that are
        missing.

    Raises
    ------
    TypeError
        comm has no ``Iallgather``, or timeout is no number.

    Examples
    --------
    ::

        from mpi4py import MPI
        net = synchronized(net, mpi(MPI.COMM_WORLD))
    """
    if not callable(getattr(comm, "Iallgather", None)):
        raise checks.wrong_type("mpi", "comm", comm, "a communicator of mpi4py")
    return _MPI(comm, checks.number("mpi", "timeout", timeout))


class _MPI:
    """Gathers that are polled, since MPI itself waits for ever."""

    # Between two looks: a gather takes some microseconds, and a rank that is late much longer.
    _EAGER_SECONDS = 1e-3
    _PAUSE = 1e-4
    # How long ranks that gave up wait for each other's word of it.
    _LAST_WORDS_SECONDS = 2.0
    _LAST_WORDS_TAG = 0x6E62

    def __init__(self, comm: Any, timeout: float) -> None:
        self._comm = comm
        self._timeout = timeout

    def allgather(self, array: Array) -> list[Array]:
        """The arrays of all ranks."""
        array = np.ascontiguousarray(array)
        gathered = np.empty((self._comm.size, *array.shape), array.dtype)
        request = self._comm.Iallgather(array, gathered)
        begin = time.monotonic()
        while not request.Test():
            waited = time.monotonic() - begin
            if waited > self._timeout:
                missing = self._missing()
                given = f"ranks {missing} have not come for {self._timeout:g} s"
                raise TimeoutError(f"allgather: {given}; expected all {self._comm.size} ranks")
            if waited > self._EAGER_SECONDS:
                time.sleep(self._PAUSE)
        return list(gathered)

    def _missing(self) -> list[int]:
        """The ranks that did not give up too: those that wait tell each other."""
        comm, tag = self._comm, self._LAST_WORDS_TAG
        missing = set(range(comm.size)) - {comm.rank}
        pending = [comm.isend(None, dest=rank, tag=tag) for rank in missing]
        end = time.monotonic() + self._LAST_WORDS_SECONDS
        while missing and time.monotonic() < end:
            for rank in list(missing):
                if comm.iprobe(source=rank, tag=tag):
                    comm.recv(source=rank, tag=tag)
                    missing.discard(rank)
            time.sleep(self._PAUSE)
        for request in pending:
            if not request.Test():
                request.Cancel()
        return sorted(missing)


def gloo(process_group: Any = None) -> Communicator:
    """A communicator of torch.distributed, over a process group on CPUs.

    Timeouts are the group's own: ``init_process_group("gloo", timeout=...)``.

    Parameters
    ----------
    process_group : torch.distributed.ProcessGroup, optional
        The default group if not given.

    Raises
    ------
    ValueError
        There is no process group.

    Examples
    --------
    ::

        torch.distributed.init_process_group("gloo")
        net = synchronized(net, gloo())
    """
    import torch.distributed

    if not torch.distributed.is_initialized():
        expected = "one: call torch.distributed.init_process_group first"
        raise checks.wrong_value("gloo", "process_group", process_group, expected)
    return _Gloo(process_group)


class _Gloo:
    """Gathers by torch.distributed, of tensors that share the arrays' memory."""

    def __init__(self, process_group: Any) -> None:
        self._group = process_group

    def allgather(self, array: Array) -> list[Array]:
        """The arrays of all ranks."""
        import torch

        own = torch.from_numpy(np.array(array))
        size = torch.distributed.get_world_size(self._group)
        gathered = [torch.empty_like(own) for _ in range(size)]
        torch.distributed.all_gather(gathered, own, group=self._group)
        return [tensor.numpy() for tensor in gathered]
