"""Targets: what a suite promises, and whether a run kept it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.compare.protocol import Case, label
from benchmarks.compare.results import Results, geometric_mean

Ratios = dict[Case, float]


@dataclass(frozen=True)
class Target:
    """One row of a targets table.

    `ratios` finds one figure for each case that the row is about. A speed (times as fast as the
    other) has to reach `mean` on the geometric mean, and `floor(case)` on every case. A cost
    (`at_most`: our time over a limit's) must not exceed `mean` on the geometric mean.
    """

    title: str
    against: str
    ratios: Callable[[Results], Ratios]
    mean: float
    floor: Callable[[Case], float] | None = None
    at_most: bool = False


@dataclass(frozen=True)
class Verdict:
    """A target and what was measured for it; no cases, no verdict."""

    target: Target
    ratios: Ratios

    @property
    def mean(self) -> float:
        return geometric_mean(self.ratios.values())

    @property
    def worst(self) -> Case:
        """The case furthest below its floor; without floors, the slowest."""
        floor = self.target.floor or (lambda case: 1.0)
        margins = {case: ratio / floor(case) for case, ratio in self.ratios.items()}
        return (max if self.target.at_most else min)(margins, key=lambda case: margins[case])

    @property
    def met(self) -> bool:
        if self.target.at_most:
            return self.mean <= self.target.mean
        floor = self.target.floor
        kept = floor is None or all(ratio >= floor(case) for case, ratio in self.ratios.items())
        return self.mean >= self.target.mean and kept

    def cells(self) -> list[str]:
        """The row as text: title, against, mean, its target, worst case, its target, met."""
        target = self.target
        aim = f"{'at most ' if target.at_most else ''}{target.mean:g} x"
        if not self.ratios:
            return [target.title, target.against, "not measured", aim, "", "", ""]
        worst = self.worst
        where = f"{label(worst.shape)}{', out=' if worst.reuse else ''}"
        return [
            f"{target.title} ({len(self.ratios)})",
            target.against,
            f"{self.mean:.2f} x",
            aim,
            f"{self.ratios[worst]:.2f} x at {where}",
            "" if target.floor is None else f"{target.floor(worst):g} x",
            "yes" if self.met else "**no**",
        ]


HEADINGS = ["what (cases)", "against", "geometric mean", "target", "worst case", "target", "met"]


def judge(results: Results, targets: list[Target]) -> list[Verdict]:
    return [Verdict(target, target.ratios(results)) for target in targets]
