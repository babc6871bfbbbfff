"""The picture of a run: by shape, how many times nbnorm's time the other libraries take.

A panel for each operation and layout, a place for each shape. The bar is the fastest library of
that case, the dots are all of them; above the line at 1 nbnorm is faster. Matplotlib is imported
where something is drawn: asv imports every module of the benchmarks, and has no need of it.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.compare.peers import PEERS, SUBJECT
from benchmarks.compare.protocol import FIRST, LAST, ROWS, Case, Shape, label
from benchmarks.compare.results import Results

BAR, LINE, GRID = "#d5dde5", "#303840", "#e8e8e8"
# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = ("#d55e00", "#cc79a7", "#56b4e9", "#0072b2", "#e69f00", "#009e73", "#000000")
PLACE, LEAST_WIDTH = 0.42, 8.0  # inches for each shape, and for the whole


def draw(results: Results, suite: ModuleType, path: Path) -> None:
    """Write the picture of a run's freshly allocated results to `path`."""
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    cases = [case for case in results.cases() if _is_shown(results, suite, case)]
    if not cases:
        return
    operations = [op for op in suite.OPERATIONS if any(case.operation == op for case in cases)]
    shapes = {
        layout: found
        for layout in (FIRST, LAST, ROWS)
        if (found := list(dict.fromkeys(case.shape for case in cases if case.layout == layout)))
    }
    widths = [max(len(found), 3) for found in shapes.values()]
    size = max(LEAST_WIDTH, 1 + PLACE * (sum(widths) + len(widths))), 1.3 + 2.2 * len(operations)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(
        len(operations), len(shapes), squeeze=False, sharex="col", sharey="row",
        gridspec_kw={"width_ratios": widths},
    )  # fmt: skip
    colours = _colours(results)
    for row, operation in zip(grid, operations, strict=True):
        for axes, (layout, found) in zip(row, shapes.items(), strict=True):
            here = [case for case in cases if (case.operation, case.layout) == (operation, layout)]
            _panel(axes, results, here, found, colours)
        row[0].set_ylabel(suite.OPERATIONS[operation])
    for axes, layout in zip(grid[0], shapes, strict=True):
        axes.set_title(layout, fontsize=11)
    _legend(figure, colours)
    figure.suptitle(
        f"{suite.NAME}: the others' time over nbnorm's, {results.about['threads']} threads, "
        f"{results.about['machine']['processor']}", fontsize=11,
    )  # fmt: skip
    figure.savefig(path, dpi=110)


def _is_shown(results: Results, suite: ModuleType, case: Case) -> bool:
    timed = bool(results.seconds(SUBJECT, case) and results.rivals(case))
    return timed and case.operation in suite.OPERATIONS and not case.reuse


def _colours(results: Results) -> dict[str, str]:
    """A colour for each library, the same whoever takes part."""
    timed = {record.peer for record in results.records}
    rivals = [key for key, peer in PEERS.items() if peer.counted and key != SUBJECT]
    return {key: COLOURS[i % len(COLOURS)] for i, key in enumerate(rivals) if key in timed}


def _panel(
    axes: Any, results: Results, cases: list[Case], shapes: list[Shape], colours: dict[str, str]
) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for case in cases:
        place, ours = shapes.index(case.shape), results.seconds(SUBJECT, case)
        ratios = {peer: seconds / ours for peer, seconds in results.rivals(case).items()}
        # The bar of a ratio starts at 1, where neither is faster.
        least = min(ratios.values())
        axes.bar(place, least - 1, bottom=1, width=0.8, color=BAR, edgecolor=LINE, linewidth=0.5)
        for peer, ratio in ratios.items():
            axes.plot(place, ratio, "o", ms=4.5, color=colours[peer])
    axes.axhline(1, color=LINE, linewidth=1)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_locator(LogLocator(base=2))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(-0.7, max(len(shapes), 3) - 0.3)
    axes.set_xticks(
        range(len(shapes)), map(label, shapes), rotation=60, ha="right", rotation_mode="anchor",
        fontsize=8,
    )  # fmt: skip


def _legend(figure: Any, colours: dict[str, str]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    handles = [Line2D([], [], marker="o", ls="", color=colour) for colour in colours.values()]
    handles.append(Rectangle((0, 0), 1, 1, facecolor=BAR, edgecolor=LINE, linewidth=0.5))
    names = [*(PEERS[key].label for key in colours), "fastest of them"]
    columns = len(names) if figure.get_figwidth() > 1.4 * LEAST_WIDTH else (len(names) + 1) // 2
    figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False)
