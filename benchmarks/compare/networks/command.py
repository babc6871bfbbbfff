"""The command of this suite, its results on disk and its table."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.compare.networks.measure import OPERATIONS, Measured, measure
from benchmarks.compare.networks.problems import PROBLEMS
from benchmarks.compare.networks.ways import PYTORCH, WAYS
from benchmarks.compare.results import geometric_mean
from benchmarks.tools import machine, markdown

FILE = "networks.json"
TITLES = {
    "training_step": "Training step, ms, and PyTorch's time over it",
    "inference": "Inference, ms, and PyTorch's time over it",
    "peak": "Memory, MiB resident at most",
}


def add(run: argparse.ArgumentParser, output: Path) -> None:
    run.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(PROBLEMS))
    run.add_argument("--ways", nargs="+", choices=list(WAYS), metavar="WAY", help=", ".join(WAYS))
    run.add_argument("--only", nargs="+", choices=OPERATIONS, default=OPERATIONS)
    run.add_argument("--rounds", type=int, default=7)
    run.add_argument("--seconds", type=float, default=1.0, help="of calls in one turn")
    run.add_argument("--threads", type=int, default=2)
    run.add_argument("--busy", action="store_true", help="beside a process that is busy")
    run.add_argument("--output", type=Path, default=output, metavar="DIRECTORY")
    run.set_defaults(command=command)


def command(options: argparse.Namespace) -> int:
    unknown = set(options.networks) - set(PROBLEMS)
    if unknown:
        raise SystemExit(f"no such network: {', '.join(unknown)}; there are {', '.join(PROBLEMS)}")
    path: Path = options.output / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    found = []
    for name in options.networks or PROBLEMS:
        for operation in options.only:
            measured = measure(
                name, PROBLEMS[name], operation, options.ways or list(WAYS),
                threads=options.threads, rounds=options.rounds, seconds=options.seconds,
                busy=options.busy,
            )  # fmt: skip
            found.append(measured)
            _keep(path, measured, options.threads)
    print(report(found))
    return any(way in measured.refused for measured in found for way in ("enabled", "converted"))


def report(found: Iterable[Measured]) -> str:
    """A table for each operation, and what was refused."""
    found = list(found)
    tables = []
    for operation in OPERATIONS:
        for busy in (False, True):
            some = [m for m in found if m.operation == operation and m.busy is busy]
            if some:
                beside = ", beside a busy process" if busy else ""
                tables.append(f"**{TITLES[operation]}{beside}**\n\n{_table(some)}")
    refusals = [
        f"- {WAYS[way].label}, {m.network}, {m.operation}: {reason}"
        for m in found
        for way, reason in m.refused.items()
    ]
    return "\n\n".join(
        [*tables, *(["Not measured:\n\n" + "\n".join(refusals)] if refusals else [])]
    )


def _table(found: list[Measured]) -> str:
    """A row for each network: every way's figure, and how much faster than PyTorch's fastest."""
    ways = [way for way in WAYS if any(way in m.rounds for m in found)]
    in_milliseconds = found[0].operation != "peak"
    rows = []
    for m in found:
        values = [m.value(way) for way in ways]
        cells = ["-" if v is None else _figure(v, in_milliseconds) for v in values]
        cells += [_times(_gain(m, way)) for way in ("enabled", "converted")]
        rows.append([PROBLEMS[m.network].title, *cells])
    gains = [[_gain(m, way) for m in found] for way in ("enabled", "converted")]
    means = [geometric_mean(known) if (known := [g for g in gs if g]) else None for gs in gains]
    rows.append(["geometric mean", *[""] * len(ways), *map(_times, means)])
    headings = ["network", *(WAYS[way].label for way in ways), "enable() gains", "convert() gains"]
    return markdown.table(headings, rows)


def _gain(measured: Measured, way: str) -> float | None:
    """The fastest of PyTorch's ways over one of ours."""
    theirs = [value for peer in PYTORCH if (value := measured.value(peer)) is not None]
    ours = measured.value(way)
    return min(theirs) / ours if theirs and ours else None


def _figure(value: float, in_milliseconds: bool) -> str:
    return f"{1e3 * value:.4g}" if in_milliseconds else f"{value:.0f}"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def _keep(path: Path, measured: Measured, threads: int) -> None:
    """Put one result into the file, in the place of an older one of the same."""
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    key = " ".join([measured.network, measured.operation, *(["busy"] if measured.busy else [])])
    versions = {d: machine.version(d) for way in WAYS.values() for d in way.distributions}
    kept[key] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine.describe(), "threads": threads, "versions": versions,
        **asdict(measured),
    }  # fmt: skip
    path.write_text(json.dumps(kept, indent=1) + "\n")
