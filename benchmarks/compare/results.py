"""What a run found: records that survive a round trip through JSON, and questions to them.

One file holds the last whole run of every suite, each with the date, the machine and the versions
that it was made with: a suite that is run alone takes the place of its own part.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.compare.peers import PEERS, SUBJECT
from benchmarks.compare.protocol import Case


@dataclass(frozen=True)
class Record:
    """One library's time for one case."""

    peer: str
    case: Case
    rounds: tuple[float, ...]  # seconds a call, the median of each turn
    error: float  # the largest of its outputs, relative to their scales

    @property
    def seconds(self) -> float:
        return statistics.median(self.rounds)

    @property
    def spread(self) -> float:
        """How far the rounds lie apart, relative to their median."""
        return (max(self.rounds) - min(self.rounds)) / self.seconds


@dataclass(frozen=True)
class Resident:
    """The memory that one library needs for a case, beyond what its process holds idle."""

    peer: str
    case: Case
    mebibytes: float


@dataclass(frozen=True)
class Refusal:
    """A case that a library was not timed on: unsupported, failed, or its outputs disagreed."""

    peer: str
    case: Case
    kind: str
    reason: str


@dataclass
class Results:
    suite: str
    about: dict[str, Any]  # date, machine, threads, rounds, tolerance
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    memory: list[Resident] = field(default_factory=list)

    def seconds(self, peer: str, case: Case) -> float | None:
        """The median of the rounds, or None where the library was not timed."""
        return next((r.seconds for r in self.records if (r.peer, r.case) == (peer, case)), None)

    def ratio(self, peer: str, case: Case) -> float | None:
        """How many times as long as nbnorm a library takes."""
        ours, theirs = self.seconds(SUBJECT, case), self.seconds(peer, case)
        return None if ours is None or theirs is None else theirs / ours

    def rivals(self, case: Case) -> dict[str, float]:
        """The seconds of each library that nbnorm is compared with on a case."""
        return {
            r.peer: r.seconds
            for r in self.records
            if r.case == case and r.peer != SUBJECT and PEERS[r.peer].counted
        }

    def cases(self) -> list[Case]:
        """Everything that any library was timed on, in the order of the run."""
        return list(dict.fromkeys(record.case for record in self.records))

    def add(self, part: Results) -> None:
        """Take in a part of the same suite's run, and how long it took."""
        self.records += part.records
        self.refusals += part.refusals
        self.memory += part.memory
        self.versions |= part.versions
        self.missing = dict(part.missing)
        self.took(part)

    def took(self, part: Results) -> None:
        """Note the seconds of a part: the next run tells from them how long it will take."""
        _, *arrays = part.about["unit"]
        self.about.setdefault("took", {})[" ".join(arrays).strip()] = part.about["took"]

    @property
    def spread(self) -> float:
        """How far the rounds of a record lie apart, the median of all."""
        return statistics.median([record.spread for record in self.records] or [0.0])


Sections = dict[str, Results]  # by the suite's name


def to_document(results: Results) -> dict[str, Any]:
    """What JSON can hold, the long lists last."""
    rows: dict[str, list[dict[str, Any]]] = {
        "refusals": [_row(r) | {"kind": r.kind, "reason": r.reason} for r in results.refusals],
        "memory": [_row(m) | {"mebibytes": m.mebibytes} for m in results.memory],
        "results": [
            _row(r) | {"spread": r.spread, "rounds": r.rounds, "error": r.error}
            for r in results.records
        ],
    }
    return {
        "suite": results.suite,
        **results.about,
        "spread": results.spread,
        "versions": results.versions,
        "missing": results.missing,
        **{name: _table(found) for name, found in rows.items()},
    }


def from_document(document: dict[str, Any]) -> Results:
    """Read what `to_document` made."""
    rest = dict(document)
    refused, resident, recorded = (
        _rows_of(rest.pop(name)) for name in ("refusals", "memory", "results")
    )
    refusals = [Refusal(r["peer"], _case(r), r["kind"], r["reason"]) for r in refused]
    memory = [Resident(r["peer"], _case(r), r["mebibytes"]) for r in resident]
    records = [Record(r["peer"], _case(r), tuple(r["rounds"]), r["error"]) for r in recorded]
    suite, versions, missing = (rest.pop(name) for name in ("suite", "versions", "missing"))
    rest.pop("spread")  # of the records
    return Results(suite, rest, versions, missing, records, refusals, memory)


def save(path: Path, sections: Sections) -> None:
    """Write JSON with a line for each record: large, but it can be read and compared."""
    path.write_text(_text(sections))


def digest(sections: Sections) -> str:
    """A name for the figures as they are saved: what is made of them can carry it."""
    return hashlib.sha256(_text(sections).encode()).hexdigest()


def load(path: Path) -> Sections:
    """Read what `save` wrote; nothing where there is no such file."""
    if not path.exists():
        return {}
    documents = json.loads(path.read_text())["suites"]
    return {document["suite"]: from_document(document) for document in documents}


def geometric_mean(values: Iterable[float]) -> float:
    return statistics.geometric_mean(values)


def _table(rows: list[dict[str, Any]]) -> list[list[Any]]:
    """The names of the columns once, and then the values of each row."""
    return [list(rows[0]), *(list(row.values()) for row in rows)] if rows else []


def _rows_of(table: list[list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(table[0], values, strict=True)) for values in table[1:]]


def _row(one: Record | Resident | Refusal) -> dict[str, Any]:
    return asdict(one.case) | {"peer": one.peer}


def _case(row: dict[str, Any]) -> Case:
    return Case(row["operation"], tuple(row["shape"]), row["layout"], row["reuse"])


def _rounded(value: Any) -> Any:
    """Floats to four digits, which is more than a timing holds."""
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _text(sections: Sections) -> str:
    documents = ",\n".join(_lines(to_document(results)) for results in sections.values())
    return f'{{"suites": [\n{documents}\n]}}\n'


def _lines(document: dict[str, Any]) -> str:
    """A document as JSON: its head over some lines, then a line for each row of its lists."""
    head = {name: value for name, value in document.items() if not isinstance(value, list)}
    text = json.dumps(_rounded(head), indent=1).removesuffix("\n}")
    for name, rows in document.items():
        if name in head:
            continue
        lines = ",\n".join(f"  {json.dumps(_rounded(row))}" for row in rows)
        text += f',\n "{name}": [\n{lines}\n ]'
    return text + "\n}"
