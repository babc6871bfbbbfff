"""What suites, peers and the runner say to each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

Shape = tuple[int, ...]

FIRST, LAST, ROWS = "channels-first", "channels-last", "(n, c)"


@dataclass(frozen=True, order=True)
class Case:
    """One thing to measure: an operation on arrays of one shape and layout.

    `shape` is always written in the order that its suite documents (that of an array has the
    channels second), whatever the order in memory. With `reuse` the result goes into arrays that
    the caller allocated once; without, each call makes its own.
    """

    operation: str  # the method of a peer, e.g. "batch_norm_forward"
    shape: Shape
    layout: str
    reuse: bool = False

    @property
    def axis(self) -> int:
        """Where the channels are in the arrays that a peer receives."""
        return -1 if self.layout == LAST else 1


@dataclass(frozen=True)
class Given:
    """What a peer's method receives: the case, and its arrays and scalars by name.

    Arrays are C-contiguous in the memory order of the case, with the channels on `axis`.
    """

    case: Case
    values: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    @property
    def axis(self) -> int:
        return self.case.axis

    @property
    def reuse(self) -> bool:
        return self.case.reuse


class Call(NamedTuple):
    """What a peer's method returns.

    `run` is timed and does nothing that a user of the library would not have to do. `read` turns
    its result into NumPy arrays by name, in the order that the input had, and is never timed.
    """

    run: Callable[[], Any]
    read: Callable[[Any], dict[str, Any]]


class Unsupported(Exception):
    """Raised by a peer that has no way to do a case; the reason is reported."""


def label(shape: Shape) -> str:
    """(32, 64, 56, 56) as 32x64x56x56."""
    return "x".join(map(str, shape))
