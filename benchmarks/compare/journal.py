"""What a run has finished so far, on disk: a run that was stopped goes on from there.

One line of JSON for each pair of arrays (a shape in a layout), written when all of its cases are
done. The first line says what the figures depend on; where that has changed, the run starts anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.compare.peers import PEERS
from benchmarks.compare.results import Results, from_document, to_document
from benchmarks.tools import machine

ROOT = Path(__file__).parents[2]
Unit = tuple[str, str, str]  # suite, shape and layout


class Journal:
    """The finished parts of one command's run, by unit."""

    def __init__(self, path: Path, options: dict[str, Any]) -> None:
        """Read what an earlier run with the same options left, if nothing has changed since."""
        self.path = path
        self.parts: dict[Unit, Results] = {}
        circumstances = json.loads(json.dumps({"options": options, **surroundings()}))
        head, *lines = _complete_lines(path) or [{}]
        if head.get("circumstances") == circumstances:
            self.begun = head["begun"]
            for line in lines:
                part = from_document(line)
                self.parts[tuple(part.about["unit"])] = part
        else:
            self.begun = datetime.now(timezone.utc).isoformat(timespec="seconds")
            head, lines = {"circumstances": circumstances, "begun": self.begun}, []
        # Written anew as a whole: a line that a crash cut short must not be appended to.
        path.write_text("".join(map(_line, (head, *lines))))

    def add(self, part: Results) -> None:
        """Keep a finished part, so that not even a loss of power takes it away."""
        self.parts[tuple(part.about["unit"])] = part
        with self.path.open("a") as file:
            file.write(_line(to_document(part)))
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> None:
        """The run is whole: the next one starts anew."""
        self.path.unlink()


def surroundings() -> dict[str, Any]:
    """What the figures depend on beside the options: machine, versions and sources."""
    distributions = {name for peer in PEERS.values() for name in peer.distributions}
    return {
        "machine": machine.describe(),
        "versions": {name: machine.version(name) for name in sorted(distributions)},
        "sources": _digest(),
    }


def sources() -> list[Path]:
    """What is measured, and what measures it."""
    folders = (ROOT / "src" / "nbnorm", ROOT / "benchmarks")
    return [path for folder in folders for path in sorted(folder.rglob("*.py"))]


def _digest() -> str:
    digest = hashlib.sha256()
    for path in sources():
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _complete_lines(path: Path) -> list[dict[str, Any]]:
    """The lines up to the first that is not whole."""
    found = []
    for line in path.read_text().split("\n") if path.exists() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


def _line(document: dict[str, Any]) -> str:
    return json.dumps(document) + "\n"
