"""Targets: what a suite promises, and whether a run kept it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from benchmarks.compare.peers import SUBJECT
from benchmarks.compare.protocol import Case, Shape, label
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


# ------------------------------------------------------------------- what nbnorm is held against


def against(peer: str, wanted: Iterable[Case]) -> Callable[[Results], Ratios]:
    """Times as fast as one library on the same case."""
    wanted = list(wanted)

    def ratios(results: Results) -> Ratios:
        return {case: r for case in wanted if (r := results.ratio(peer, case)) is not None}

    return ratios


def against_fastest(wanted: Iterable[Case]) -> Callable[[Results], Ratios]:
    """Times as fast as the fastest library that did the same case."""
    wanted = list(wanted)

    def ratios(results: Results) -> Ratios:
        found = {}
        for case in wanted:
            ours, rivals = results.seconds(SUBJECT, case), results.rivals(case)
            if ours and rivals:
                found[case] = min(rivals.values()) / ours
        return found

    return ratios


def best_layouts(
    wanted: Iterable[Case],
    layouts: Callable[[Shape], Iterable[str]],
    peer: str | None = None,
) -> Callable[[Results], Ratios]:
    """Each library in its better layout, and the fastest of them all (or one peer) over nbnorm.

    The layout of the cases wanted says nothing: those that were measured take its place.
    """
    wanted = [replace(case, layout="best layout") for case in wanted]

    def ratios(results: Results) -> Ratios:
        found = {}
        for case in wanted:
            each = [replace(case, layout=layout) for layout in layouts(case.shape)]
            ours = [seconds for one in each if (seconds := results.seconds(SUBJECT, one))]
            if peer is None:
                theirs = [seconds for one in each for seconds in results.rivals(one).values()]
            else:
                theirs = [seconds for one in each if (seconds := results.seconds(peer, one))]
            if ours and theirs:
                found[case] = min(theirs) / min(ours)
        return found

    return ratios


def judge(results: Results, targets: list[Target]) -> list[Verdict]:
    return [Verdict(target, target.ratios(results)) for target in targets]
