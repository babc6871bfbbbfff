"""Calls of every family, each large enough for threads, and the digests of their results.

Few compiled variants: float32, one activation. Every call makes its data anew, the same each time,
so that threads share nothing but the library.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

import nbnorm

Arrays: TypeAlias = list[Any]


def _normal(*shape: int) -> Any:
    return np.random.default_rng(shape).standard_normal(shape, np.float32) + np.float32(0.5)


def _batch_norm(*shape: int) -> Arrays:
    y, context = nbnorm.batch_norm_forward(_normal(*shape), activation="relu")
    return [y, context.statistics, *nbnorm.batch_norm_backward(_normal(1, *shape)[0], context)]


def _batch_norm_inference(*shape: int) -> Arrays:
    mean, var = _normal(1, shape[1])[0], _normal(2, shape[1])[0] ** 2
    return [nbnorm.batch_norm_inference(_normal(*shape), mean, var, activation="relu")]


def _dense(n: int, c: int, k: int) -> Arrays:
    x, weight, dy = _normal(n, c), _normal(k, c), _normal(n, k)
    return [nbnorm.dense_forward(x, weight, dy[0]), *nbnorm.dense_backward(dy, x, weight)]


def _dense_batch_norm(n: int, c: int, k: int) -> Arrays:
    x, weight, dy = _normal(n, c), _normal(k, c), _normal(n, k)
    y, context = nbnorm.dense_batch_norm_forward(x, weight, activation="relu")
    return [y, *nbnorm.dense_batch_norm_backward(dy, context)]


def _dense_batch_norm_inference(n: int, c: int, k: int) -> Arrays:
    x, weight, mean, var = _normal(n, c), _normal(k, c), _normal(1, k)[0], _normal(2, k)[0] ** 2
    return [nbnorm.dense_batch_norm_inference(x, weight, mean, var, activation="relu")]


def _conv2d(shape: tuple[int, ...], window: tuple[int, ...], **options: Any) -> Arrays:
    x, weight = _normal(*shape), _normal(*window)
    y = nbnorm.conv2d_forward(x, weight, padding=1, **options)
    return [y, *nbnorm.conv2d_backward(_normal(*y.shape), x, weight, padding=1, **options)]


def _conv2d_batch_norm(shape: tuple[int, ...], window: tuple[int, ...], **options: Any) -> Arrays:
    y, context = nbnorm.conv2d_batch_norm_forward(
        _normal(*shape), _normal(*window), padding=1, activation="relu", **options
    )
    return [y, *nbnorm.conv2d_batch_norm_backward(_normal(*y.shape), context)]


def _conv2d_batch_norm_inference(
    shape: tuple[int, ...], window: tuple[int, ...], **options: Any
) -> Arrays:
    k = window[0]
    mean, var = _normal(1, k)[0], _normal(2, k)[0] ** 2
    y = nbnorm.conv2d_batch_norm_inference(
        _normal(*shape), _normal(*window), mean, var, padding=1, activation="relu", **options
    )
    return [y]


IMAGES, WINDOW = (4, 32, 24, 24), (32, 32, 3, 3)

CALLS: dict[str, tuple[Callable[..., Arrays], tuple[Any, ...], dict[str, Any]]] = {
    "batch norm": (_batch_norm, (8, 64, 32, 32), {}),
    "batch norm of columns": (_batch_norm, (2048, 128), {}),
    "batch norm inference": (_batch_norm_inference, (8, 64, 32, 32), {}),
    "dense": (_dense, (512, 128, 128), {}),
    "dense batch norm": (_dense_batch_norm, (512, 128, 128), {}),
    "dense batch norm inference": (_dense_batch_norm_inference, (512, 128, 128), {}),
    "conv2d": (_conv2d, (IMAGES, WINDOW), {"algorithm": "winograd"}),
    "conv2d batch norm": (_conv2d_batch_norm, (IMAGES, WINDOW), {"algorithm": "winograd"}),
    "strided conv2d batch norm": (_conv2d_batch_norm, (IMAGES, WINDOW), {"stride": 2}),
    "conv2d batch norm inference": (_conv2d_batch_norm_inference, (IMAGES, WINDOW), {"stride": 2}),
    "depthwise conv2d": (_conv2d, (IMAGES, (32, 1, 3, 3)), {"groups": 32}),
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
    function, arguments, options = CALLS[name]
    digest = hashlib.sha256()
    for result in function(*arguments, **options):
        if result is not None:
            digest.update(np.ascontiguousarray(result))
    return digest.hexdigest()


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
