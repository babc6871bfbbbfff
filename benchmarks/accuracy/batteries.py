"""Data that has broken somebody's batch norm: each battery is a family of arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

EPS = 1e-5
MANY = 100_000  # values a channel
COARSE = 1e7  # mean/std, from where on float32 has next to no digits left for the values' spread
SLACK_ULPS = 4

Draw = Callable[[np.random.Generator], Array]


@dataclass(frozen=True)
class Trial:
    """One array: what is drawn, of shape (n, c, p) in float64, then moved and scaled."""

    name: str
    values: Draw
    ratio: float = 0.0  # |mean| / std
    std: float | None = 1.0  # None: all denormal
    eps: float = EPS

    def slack(self, m: int) -> int:
        """The units in the last place of each value that are forgiven, with m values a channel.

        Among very many values some lie so many rms out that their own type is coarser than the
        scale of the errors; so they do where all but a few values of a channel are the same.
        """
        return SLACK_ULPS if m > MANY or self.ratio >= COARSE else 0


def offsets() -> Iterator[Trial]:
    for ratio in (0.0, 1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8):
        yield Trial(f"mean/std {ratio:g}", _normal(8, 6, 1000), ratio)


def scales() -> Iterator[Trial]:
    for std in (1e-15, 1e-10, 1e-5, 1.0, 1e5, 1e10, 1e15):
        for ratio in (0.0, 1e3):
            for eps in (EPS, 0.0):
                name = f"std {std:g}, mean/std {ratio:g}, eps {eps:g}"
                yield Trial(name, _normal(8, 6, 1000), ratio, std, eps)


def denormals() -> Iterator[Trial]:
    for n, p in ((8, 1000), (100, 1)):
        yield Trial(f"m {n * p}", _normal(n, 6, p), std=None)


def lengths() -> Iterator[Trial]:
    for n, c, p in (
        (2, 6, 1), (3, 6, 1), (7, 6, 1), (5, 6, 13), (32, 6, 49), (3, 6, 21_845),
        (1, 2, 1_000_000), (10, 2, 1_000_000),
    ):  # fmt: skip
        for ratio in (0.0, 1e3):
            yield Trial(f"m {n * p}, mean/std {ratio:g}", _normal(n, c, p), ratio)


def outliers() -> Iterator[Trial]:
    for n, p in ((8, 125), (8, 50_000)):
        yield Trial(f"m {n * p}", _outliers(n, 4, p))


def orders() -> Iterator[Trial]:
    for ratio in (0.0, 1e3):
        yield Trial(f"within a picture, mean/std {ratio:g}", _ascending(1, 6, 8000), ratio)
        yield Trial(f"along the batch, mean/std {ratio:g}", _ascending(8000, 6, 1), ratio)


def signs() -> Iterator[Trial]:
    for noise in (0.0, 1e-3, 1.0):
        yield Trial(f"within a picture, noise {noise:g}", _alternating(1, 6, 8000, noise))
        yield Trial(f"along the batch, noise {noise:g}", _alternating(8000, 6, 1, noise))


def constants() -> Iterator[Trial]:
    for n, p in ((2, 1), (7, 13), (32, 3136), (100_000, 1)):
        for eps in (EPS, 0.0):
            yield Trial(f"m {n * p}, eps {eps:g}", _constant(n, p), eps=eps)


BATTERIES = {
    "mean/std 0 to 1e8": offsets,
    "std 1e-15 to 1e15": scales,
    "denormal numbers": denormals,
    "m 2 to 10 million": lengths,
    "one outlier of 1e30": outliers,
    "sorted values": orders,
    "alternating signs": signs,
}


def _normal(n: int, c: int, p: int) -> Draw:
    return lambda random: random.standard_normal((n, c, p))


def _outliers(n: int, c: int, p: int) -> Draw:
    def draw(random: np.random.Generator) -> Array:
        x = random.standard_normal((n, c, p))
        for channel in range(c):  # first, last and in between
            place = channel / (c - 1)
            x[int(place * (n - 1)), channel, int(place * (p - 1))] = 1e30
        return x

    return draw


def _ascending(n: int, c: int, p: int) -> Draw:
    return lambda random: np.sort(random.standard_normal((n, c, p)), axis=2 if p > 1 else 0)


def _alternating(n: int, c: int, p: int, noise: float) -> Draw:
    signs = np.where(np.arange(n * p) % 2, -1.0, 1.0).reshape(n, 1, p)
    return lambda random: signs + noise * random.standard_normal((n, c, p))


def _constant(n: int, p: int) -> Draw:
    held = np.array([0, 0.1, -1 / 3, 1e-20, 7e5, 1e18]).reshape(1, -1, 1)
    return lambda random: np.tile(held, (n, 1, p))


def draw(trial: Trial, dtype: str) -> tuple[Array, Array, Array, Array]:
    """Draw x and dy of shape (n, c, p), gamma and beta, in the type that a library is given."""
    random = np.random.default_rng(sum(trial.name.encode()))
    std = float(np.finfo(dtype).smallest_normal) / 100 if trial.std is None else trial.std
    x = (trial.values(random) + trial.ratio) * std
    dy = random.standard_normal(x.shape)
    gamma, beta = random.uniform(0.5, 1.5, x.shape[1]), random.uniform(-1, 1, x.shape[1])
    return tuple(v.astype(dtype) for v in (x, dy, gamma, beta))


CONSTANT = "constant channel, largest abs(y - beta)"
