"""Calls of every operation, each large enough for threads, and the digests of their results.

Few compiled variants: float32, one activation, no residual. Every call makes its data anew, the
same each time, so that threads share nothing but the library.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from nbnorm.operations import BY_NAME, Sizes
from nbnorm.typing import Array

NONE: Mapping[str, Any] = MappingProxyType({})


class Call(NamedTuple):
    """A forward and its backward, an inference, or the only function of an operation."""

    operation: str
    sizes: Sizes
    options: Mapping[str, Any] = NONE
    inference: bool = False

    def results(self) -> Any:
        """What it comes to."""
        operation = BY_NAME[self.operation]
        random = np.random.default_rng(6)
        given = operation.draw(random, np.float32, self.sizes, **self.options)
        given.pop("residual", None)
        if self.inference:
            return operation.call("inference", given)()
        return operation.train(given) if operation.directions else operation.call("", given)()


PICTURES = {"n": 8, "c": 64, "p": (32, 32)}
ROWS = {"n": 512, "c": 128, "k": 128}
IMAGES = {"n": 4, "c": 32, "h": 24, "w": 24, "k": 32, "r": 3, "s": 3}
RELU = {"activation": "relu"}
WINOGRAD = {"padding": 1, "algorithm": "winograd"}
STRIDED = {"padding": 1, "stride": 2, **RELU}

CALLS = {
    "batch norm": Call("batch_norm", PICTURES, RELU),
    "batch norm of columns": Call("batch_norm", {"n": 2048, "c": 128, "p": ()}, RELU),
    "batch norm inference": Call("batch_norm", PICTURES, RELU, inference=True),
    "dense": Call("dense", ROWS),
    "dense batch norm": Call("dense_batch_norm", ROWS, RELU),
    "dense batch norm inference": Call("dense_batch_norm", ROWS, RELU, inference=True),
    "conv2d": Call("conv2d", IMAGES, WINOGRAD),
    "depthwise conv2d": Call("conv2d", IMAGES, {"padding": 1, "groups": 32}),
    "conv2d batch norm": Call("conv2d_batch_norm", IMAGES, WINOGRAD | RELU),
    "strided conv2d batch norm": Call("conv2d_batch_norm", IMAGES, STRIDED),
    "conv2d batch norm inference": Call("conv2d_batch_norm", IMAGES, STRIDED, inference=True),
    "cross-iteration batch norm": Call("cross_iteration_batch_norm", PICTURES, RELU),
    "folding": Call("fold_batch_norm", IMAGES),
    "group norm": Call("group_norm", PICTURES, RELU | {"num_groups": 8}),
    "group norm, channels last": Call("group_norm", PICTURES, RELU | {"num_groups": 8, "axis": -1}),
    "instance norm": Call("instance_norm", PICTURES, RELU),
    "L1 normalization": Call("l1_normalize", PICTURES),
    "L2 normalization": Call("l2_normalize", PICTURES),
    "L1 penalty": Call("l1_penalty", PICTURES),
    "L2 penalty": Call("l2_penalty", PICTURES),
}

BATCH_NORM = ("batch norm",)

# Forward, backward and inference of each family, with the least to compile.
FAMILIES = (
    "batch norm", "batch norm inference", "dense batch norm", "dense batch norm inference",
    "strided conv2d batch norm", "conv2d batch norm inference",
)  # fmt: skip


class Work(NamedTuple):
    """Calls that were made, and the digests that each name came to: one, if all is well."""

    calls: int
    digests: dict[str, set[str]]

    @property
    def digest(self) -> str:
        """One of all names and digests."""
        every = sorted((name, sorted(digests)) for name, digests in self.digests.items())
        return hashlib.sha256(repr(every).encode()).hexdigest()


def together(works: Iterable[Work]) -> Work:
    """The work of several as that of one."""
    calls, digests = 0, {}
    for work in works:
        calls += work.calls
        for name, found in work.digests.items():
            digests[name] = digests.get(name, set()) | found
    return Work(calls, digests)


def digest_of(name: str) -> str:
    """Makes one call; the digest of its results."""
    digest = hashlib.sha256()
    for array in _arrays_in(CALLS[name].results()):
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def _arrays_in(value: Any) -> Iterator[Array]:
    """The arrays and floats in a value, however deep."""
    if isinstance(value, (np.ndarray, float)):
        yield np.asarray(value)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _arrays_in(item)


def work(names: Iterable[str], seconds: float = 0.0, first: int = 0) -> Work:
    """Makes all calls once, beginning with number `first`, and again until the time is over."""
    names = list(names)
    names = names[first % len(names) :] + names[: first % len(names)]
    found: dict[str, set[str]] = {name: set() for name in names}
    calls = 0
    end = time.monotonic() + seconds
    while calls < len(names) or time.monotonic() < end:
        name = names[calls % len(names)]
        found[name].add(digest_of(name))
        calls += 1
    return Work(calls, found)
