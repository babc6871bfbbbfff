"""The page of pictures: by shape, how many times nbnorm's time the other libraries take.

A part for each suite. In it a column for each operation and a block of rows for each layout, one
row a shape. The bar reaches to the fastest library of that case, the dots are all of them; right of
the line at 1 nbnorm is faster. Where there is a limit (a copy of the array, the sum of two), the
last column has nbnorm's own time over it, and the nearer to 1 the better. Matplotlib is imported
where something is drawn: measuring does without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.compare import tables
from benchmarks.compare.peers import PEERS, SUBJECT
from benchmarks.compare.protocol import FIRST, LAST, ROWS, Case, Shape, label
from benchmarks.compare.results import Results, Sections, digest

BAR, LINE, GRID = "#d5dde5", "#303840", "#e8e8e8"
# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = ("#d55e00", "#cc79a7", "#56b4e9", "#0072b2", "#e69f00", "#009e73", "#000000")
MARKERS = ("^", "s", "o", "D")
WIDTH, ROW, HEAD, GAP = 10.5, 0.165, 0.9, 0.34  # inches: page, shape, title of a suite, axis
SMALL = 7.5  # points


def draw(sections: Sections, suites: Mapping[str, ModuleType], path: Path) -> None:
    """Write the page of all suites' freshly allocated results to `path`."""
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    parts = [_Part(results, suites[name]) for name, results in sections.items()]
    parts = [part for part in parts if part.cases]
    if not parts:
        return
    height = 1.2 + sum(part.height for part in parts)
    page = Figure(figsize=(WIDTH, height), layout="constrained")
    page.get_layout_engine().set(hspace=0.0, wspace=0.02, h_pad=0.03)
    heights = [part.height for part in parts]
    figures = page.subfigures(len(parts), 1, squeeze=False, height_ratios=heights)
    for figure, part in zip(figures.flat, parts, strict=True):
        part.draw(figure)
    _legend(page, parts)
    page.suptitle("Time of the other libraries over nbnorm's: right of 1, nbnorm is faster",
                  fontsize=12)  # fmt: skip
    page.savefig(path, dpi=100, metadata={"Comparison": digest(sections)})


def shows(path: Path, sections: Sections) -> bool:
    """Whether the picture is of these figures."""
    return path.exists() and digest(sections).encode() in path.read_bytes()


class _Part:
    """One suite's part of the page."""

    def __init__(self, results: Results, suite: ModuleType) -> None:
        self.results, self.suite = results, suite
        timed = results.cases()
        self.cases = [case for case in timed if self._is_compared(case)]
        self.limited = _both_ways(
            case
            for case in timed
            if case.operation in suite.OPERATIONS
            and tables.over_limit(results, suite, case) is not None
        )
        self.operations = [
            op for op in suite.OPERATIONS if any(case.operation == op for case in self.cases)
        ]
        self.shapes = {
            layout: found
            for layout in (FIRST, LAST, ROWS)
            if (found := list(dict.fromkeys(c.shape for c in self.cases if c.layout == layout)))
        }
        self.colours = _colours(results)
        limited = [op for op in suite.OPERATIONS if any(c.operation == op for c in self.limited)]
        self.markers = dict(zip(limited, MARKERS, strict=False))

    @property
    def height(self) -> float:
        return HEAD + sum(GAP + ROW * len(found) for found in self.shapes.values())

    def draw(self, figure: Any) -> None:
        columns = len(self.operations) + bool(self.limited)
        grid = figure.subplots(
            len(self.shapes), columns, squeeze=False, sharex="col", sharey="row",
            gridspec_kw={"height_ratios": [GAP / ROW + len(s) for s in self.shapes.values()]},
        )  # fmt: skip
        for row, (layout, shapes) in zip(grid, self.shapes.items(), strict=True):
            for axes, operation in zip(row, self.operations, strict=False):
                self._ratios(axes, operation, layout, shapes)
            if self.limited:
                self._limits(row[-1], layout, shapes)
            row[0].set_yticks(range(len(shapes)), map(label, shapes), fontsize=SMALL)
            row[0].set_ylim(len(shapes) - 0.4, -0.6)
            row[0].set_ylabel(layout, fontsize=SMALL + 1)
        self._share_scale(grid[:, : len(self.operations)])
        for axes, operation in zip(grid[0], self.operations, strict=False):
            title = self.suite.OPERATIONS[operation]
            axes.set_title(title.replace(", ", "\n"), fontsize=SMALL + 1.5)
        if self.limited:
            grid[0, -1].set_title("nbnorm over the limit", fontsize=SMALL + 1.5)
        about = self.results.about
        figure.suptitle(
            f"{self.suite.NAME} ({self.suite.DIMENSIONS}): {about['threads']} threads, "
            f"{about['machine']['processor']}, {about['date'][:10]}",
            fontsize=SMALL + 2, x=0.01, ha="left", weight="bold",
        )  # fmt: skip

    def _share_scale(self, grid: Any) -> None:
        """Let every column reach as far, so that bars can be compared across them."""
        ends = [axes.get_xlim() for axes in grid[0]]
        for axes in grid[0]:  # and, shared, those below
            axes.set_xlim(min(low for low, _ in ends), max(high for _, high in ends))

    def _is_compared(self, case: Case) -> bool:
        results = self.results
        timed = bool(results.seconds(SUBJECT, case) and results.rivals(case))
        return timed and case.operation in self.suite.OPERATIONS and not case.reuse

    def _ratios(self, axes: Any, operation: str, layout: str, shapes: list[Shape]) -> None:
        for case in self.cases:
            if (case.operation, case.layout) != (operation, layout):
                continue
            place, ours = shapes.index(case.shape), self.results.seconds(SUBJECT, case)
            ratios = {peer: s / ours for peer, s in self.results.rivals(case).items()}
            # The bar of a ratio starts at 1, where neither is faster.
            least = min(ratios.values())
            axes.barh(place, least - 1, left=1, height=0.8, color=BAR, edgecolor=LINE, lw=0.5)
            for peer, ratio in ratios.items():
                axes.plot(ratio, place, "o", ms=3.6, color=self.colours[peer])
        _scale(axes)

    def _limits(self, axes: Any, layout: str, shapes: list[Shape]) -> None:
        here = [case for case in self.limited if case.layout == layout and case.shape in shapes]
        for name, marker in self.markers.items():
            found = [case for case in here if case.operation == name]
            ratios = [tables.over_limit(self.results, self.suite, case) for case in found]
            axes.plot(
                ratios, [shapes.index(case.shape) for case in found], marker, ms=3.6, alpha=0.85,
                color=LINE, mec="none",
            )  # fmt: skip
        _scale(axes)


def _both_ways(cases: Iterable[Case]) -> list[Case]:
    """Of a case that was timed both ways, the one whose results go where the limit's go."""
    chosen: dict[tuple[str, Shape, str], Case] = {}
    for case in cases:
        key = (case.operation, case.shape, case.layout)
        if key not in chosen or case.reuse:
            chosen[key] = case
    return list(chosen.values())


def _colours(results: Results) -> dict[str, str]:
    """A colour for each library, the same whoever takes part."""
    timed = {record.peer for record in results.records}
    rivals = [key for key, peer in PEERS.items() if peer.counted and key != SUBJECT]
    return {key: COLOURS[i % len(COLOURS)] for i, key in enumerate(rivals) if key in timed}


def _scale(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.axvline(1, color=LINE, linewidth=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(base=2))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", labelsize=SMALL)
    axes.tick_params(axis="y", length=0)


def _legend(page: Any, parts: list[_Part]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    colours = {key: colour for part in parts for key, colour in part.colours.items()}
    handles = [Line2D([], [], marker="o", ls="", ms=5, color=c) for c in colours.values()]
    handles.append(Rectangle((0, 0), 1, 1, facecolor=BAR, edgecolor=LINE, linewidth=0.5))
    names = [*(PEERS[key].label for key in colours), "the fastest of them"]
    markers = {part.suite.OPERATIONS[op]: m for part in parts for op, m in part.markers.items()}
    for name, marker in markers.items():
        handles.append(Line2D([], [], marker=marker, ls="", ms=5, color=LINE))
        names.append(f"{name}, nbnorm over the limit")
    page.legend(
        handles, names, loc="outside lower center", ncols=4, frameon=False, fontsize=SMALL + 1,
        handletextpad=0.3,
    )  # fmt: skip
