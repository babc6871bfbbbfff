"""What a run found: records that survive a round trip through JSON, and questions to them."""

from __future__ import annotations

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

    def save(self, path: Path) -> None:
        """Write JSON with a line for each record: large, but it can be read and compared."""
        head = {
            "suite": self.suite,
            **self.about,
            "versions": self.versions,
            "missing": self.missing,
        }
        refusals = [asdict(r.case) | {"peer": r.peer, "kind": r.kind, "reason": r.reason}
                    for r in self.refusals]  # fmt: skip
        records = [
            asdict(r.case) | {
                "peer": r.peer, "seconds": r.seconds, "spread": r.spread, "rounds": r.rounds,
                "error": r.error,
            }
            for r in self.records
        ]  # fmt: skip
        memory = [asdict(m.case) | {"peer": m.peer, "mebibytes": m.mebibytes} for m in self.memory]
        text = json.dumps(head, indent=1).removesuffix("\n}")
        for name, rows in (("refusals", refusals), ("memory", memory), ("results", records)):
            if name == "memory" and not rows:
                continue
            lines = ",\n".join(f"  {json.dumps(_rounded(row))}" for row in rows)
            text += f',\n "{name}": [\n{lines}\n ]'
        path.write_text(text + "\n}\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what `save` wrote."""
        document = json.loads(path.read_text())
        refusals = [
            Refusal(r["peer"], _case(r), r["kind"], r["reason"]) for r in document.pop("refusals")
        ]
        records = [
            Record(r["peer"], _case(r), tuple(r["rounds"]), r["error"])
            for r in document.pop("results")
        ]
        memory = [Resident(r["peer"], _case(r), r["mebibytes"]) for r in document.pop("memory", [])]
        suite, versions, missing = (document.pop(k) for k in ("suite", "versions", "missing"))
        return cls(suite, document, versions, missing, records, refusals, memory)


def geometric_mean(values: Iterable[float]) -> float:
    return statistics.geometric_mean(values)


def _case(row: dict[str, Any]) -> Case:
    return Case(row["operation"], tuple(row["shape"]), row["layout"], row["reuse"])


def _rounded(value: Any) -> Any:
    """Floats to four digits, which is more than a timing holds."""
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
