"""The tables of a run, in markdown that also reads well in a terminal."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType

from benchmarks.compare.peers import PEERS, SUBJECT
from benchmarks.compare.protocol import Case, label
from benchmarks.compare.results import Results, Sections, geometric_mean
from benchmarks.compare.targets import HEADINGS, best_layouts, judge
from benchmarks.tools import markdown

Row = list[str]
NOTHING = "-"


def report(results: Results, suite: ModuleType) -> str:
    """Everything: what it ran on, every case, the summary, the targets, what was left out."""
    return _joined(
        heading(results), shapes(results, suite), summary(results, suite), memory(results),
        targets(results, suite), omissions(results),
    )  # fmt: skip


def page(results: Results, suite: ModuleType) -> str:
    """What docs/speed.md shows of a suite: the summary, and behind a click every shape."""
    details = "<details>\n<summary>Every shape</summary>"
    return _joined(
        summary(results, suite), heading(results), memory(results),
        details, shapes(results, suite), "</details>",
    )  # fmt: skip


def short(sections: Sections, suites: Mapping[str, ModuleType]) -> str:
    """What the README shows: a row for each operation that its suite has `IN_SHORT`.

    A library counts in the layout that it is faster in.
    """
    rows = []
    for name, results in sections.items():
        suite = suites[name]
        for operation, title in suite.IN_SHORT.items():
            cases = [case for case in results.cases() if case.operation == operation]
            pytorch, fastest = (
                best_layouts(cases, suite.layouts, peer)(results) for peer in ("pytorch", None)
            )
            if fastest:
                over_pytorch = [pytorch.get(case) for case in fastest]
                ratios = list(fastest.values())
                span = f"{_times(min(ratios))} to {_times(max(ratios))}"
                means = map(_mean_cell, (over_pytorch, ratios))
                rows.append([title, str(len(ratios)), *means, span])
    headings = ["", "cases", "PyTorch", "the fastest", "from case to case"]
    return f"{markdown.table(headings, rows)}\n\n{_circumstances(sections)}"


def _circumstances(sections: Sections) -> str:
    """What the figures of several suites were taken on, and when."""

    def each(found: Iterable[str]) -> str:
        return ", ".join(dict.fromkeys(found))

    abouts = [results.about for results in sections.values()]
    threads = each(f"{about['threads']} threads" for about in abouts)
    processor = each(about["machine"]["processor"] for about in abouts)
    return f"(float32, {threads}, {processor}; {each(about['date'][:10] for about in abouts)})"


def shapes(results: Results, suite: ModuleType) -> str:
    """A table for each operation and layout, with a row for each shape."""
    tables = (
        f"**{title}**\n\n{shape_table(results, suite, cases)}"
        for title, cases in _groups(results, suite).items()
    )
    return _joined(*tables)


def heading(results: Results) -> str:
    about = results.about
    versions: dict[str, str] = {}
    for found in results.versions.values():
        versions |= found
    host = about["machine"]
    spreads = [record.spread for record in results.records] or [0.0]  # only memory was measured
    return (
        f"{results.suite}: float32, {about['threads']} threads on {host['processor']}, "
        f"{about['date'][:10]}; medians of at least {about['rounds']} rounds, which lie "
        f"{100 * statistics.median(spreads):.0f} % apart (median). "
        f"Python {host['python']}, " + ", ".join(f"{k} {v}" for k, v in versions.items()) + "."
    )


def shape_table(results: Results, suite: ModuleType, cases: list[Case]) -> str:
    """A row for each shape: our time, over the limit if any, and each peer's time over ours."""
    peers = _peers(results, cases)
    columns = [[results.ratio(peer, case) for case in cases] for peer in peers]
    worst = [min(_known(column), default=None) for column in columns]
    headings = [suite.DIMENSIONS, "nbnorm ms", *_labels(peers)]
    if _known(limits := [over_limit(results, suite, case) for case in cases]):
        headings.insert(2, "over limit")
        columns.insert(0, limits)
        worst.insert(0, max(_known(limits)))
    rows = [
        [
            label(case.shape),
            _cell(results.seconds(SUBJECT, case), _milliseconds),
            *(_cell(value, _times) for value in values),
        ]
        for case, *values in zip(cases, *columns, strict=True)
    ]
    if len(cases) > 1:
        rows.append(["geometric mean", "", *(_cell(_mean(column), _times) for column in columns)])
        rows.append(["worst", "", *(_cell(value, _times) for value in worst)])
    return markdown.table(headings, rows)


def summary(results: Results, suite: ModuleType) -> str:
    """A row for each operation and layout: geometric means of each peer's time over ours."""
    groups = _groups(results, suite)
    peers = _peers(results, [case for cases in groups.values() for case in cases])
    rows = []
    for title, cases in groups.items():
        cells = [_mean_cell([results.ratio(peer, case) for case in cases]) for peer in peers]
        rows.append([title, str(len(cases)), *cells])
    note = (
        "How many times nbnorm's time each library takes, geometric mean over the shapes (/n: over "
        "n of them)."
    )
    return f"{note}\n\n{markdown.table(['operation', 'shapes', *_labels(peers)], rows)}"


def memory(results: Results) -> str:
    """A row for each library and case whose memory was measured."""
    rows = [[PEERS[m.peer].label, m.case.layout, f"{m.mebibytes:.0f} MiB"] for m in results.memory]
    if not rows:
        return ""
    shape = label(results.memory[0].case.shape)
    note = (
        f"Resident memory of a training step of four blocks of {shape}: its peak over that of the "
        "idle process, warmed with a batch of one."
    )
    return f"{note}\n\n{markdown.table(['library', 'layout', 'growth'], rows)}"


def targets(results: Results, suite: ModuleType) -> str:
    """A row for each target of the suite, and whether it was met."""
    cells = [verdict.cells() for verdict in judge(results, suite.TARGETS)]
    return markdown.table(HEADINGS, cells)


def omissions(results: Results) -> str:
    """Who is missing, and who was refused what and why; each reason once."""
    lines = [f"- {PEERS[peer].label}: {reason}" for peer, reason in results.missing.items()]
    reasons: dict[tuple[str, str, str], list[Case]] = {}
    for refusal in results.refusals:
        key = (refusal.peer, refusal.kind, refusal.reason)
        reasons.setdefault(key, []).append(refusal.case)
    for (peer, kind, reason), cases in reasons.items():
        where = f"{cases[0].operation} {label(cases[0].shape)}, {cases[0].layout}"
        more = f" and {len(cases) - 1} more" if len(cases) > 1 else ""
        lines.append(f"- {PEERS[peer].label}: {kind} in {where}{more}: {reason}")
    return "Not measured:\n\n" + "\n".join(lines) if lines else ""


def over_limit(results: Results, suite: ModuleType, case: Case) -> float | None:
    """Our time over the limit's, where both were measured."""
    ours, limit = results.seconds(SUBJECT, case), suite.limit_of(results, case)
    return ours / limit if ours and limit else None


def _joined(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def _groups(results: Results, suite: ModuleType) -> dict[str, list[Case]]:
    """The cases by the suite's titles, its operations in order."""
    order = list(suite.OPERATIONS)
    cases = [case for case in results.cases() if case.operation in order]
    groups: dict[str, list[Case]] = {}
    for case in sorted(cases, key=lambda case: order.index(case.operation)):
        groups.setdefault(suite.title(case), []).append(case)
    return groups


def _peers(results: Results, cases: list[Case]) -> list[str]:
    """Who was timed on any of the cases beside nbnorm, yardsticks included."""
    among = set(cases)
    found = {record.peer for record in results.records if record.case in among} - {SUBJECT}
    return [key for key in PEERS if key in found]


def _labels(peers: list[str]) -> list[str]:
    return [PEERS[peer].label for peer in peers]


def _known(values: list[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: list[float | None]) -> float | None:
    known = _known(values)
    return geometric_mean(known) if known else None


def _mean_cell(values: list[float | None]) -> str:
    """The mean, and of how many values where it is not all of them."""
    known = _known(values)
    of = "" if len(known) in (0, len(values)) else f" /{len(known)}"
    return f"{_cell(_mean(values), _times)}{of}"


def _cell(value: float | None, text: Callable[[float], str]) -> str:
    return NOTHING if value is None else text(value)


def _times(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds > 1e-3 else f"{1e3 * seconds:.3f}"
